// Package control serves the display protocol (proto/phonehost/display/v1) on a Unix socket: it opens levels for the agent,
// sends their packets, delivers input to the guest and takes screenshots.
//
// It serves one client. A newer connection that completes its hello replaces the older, whose levels are closed, whose touches
// are cancelled and whose keys are released, all before the newer is answered; so does the end of a connection. Messages are
// untrusted until checked: sizes are bounded, ranges are validated, and a client that does not read for WriteTimeout is
// disconnected. The package never interprets pixels and never talks to the guest but through Input.
//
// Every connection has one goroutine that reads and handles requests in order, one that watches the screen's content, one that
// takes screenshots, and those of its levels; Serve waits for all of them. Writers take turns by a mutex and write directly to
// the socket: nothing is queued in this process, so a slow client holds up encoding and not memory.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/level"
	"github.com/phonehost/phonehost/encoder/screen"
)

// Version is the version of the display protocol that is spoken.
const Version = 1

// SocketName is the name of the socket in Config.Dir.
const SocketName = "control.sock"

// Bounds on what a client can hold up.
const (
	// WriteTimeout is how long a write may wait for the client to read.
	WriteTimeout = 5 * time.Second
	// helloTimeout is how long a connection may take to say hello.
	helloTimeout = 5 * time.Second
	// maxStrangers is how many connections may be before their hello.
	maxStrangers = 8
)

// TouchAction is what a touch point does; the values are those of the protocol.
type TouchAction int

// Actions of a touch point.
const (
	TouchDown TouchAction = iota + 1
	TouchMove
	TouchUp
	TouchCancel // gives up all points
)

// Input delivers input to the guest. Coordinates are pixels of the screen. An error of class FailedPrecondition says that
// nothing takes input now. Methods may be called from any goroutine.
type Input interface {
	Touch(id int, action TouchAction, x, y float64) error
	Key(code uint32, down bool) error
	Text(s string) error
	Wheel(x, y, dx, dy float64) error
}

// Config tells what to serve. All fields but Watched are required.
type Config struct {
	// Dir is the directory of the socket.
	Dir string
	// Screen is what levels encode and screenshots show.
	Screen *screen.Screen
	// FPS is the refresh rate that the guest is told, in frames per second.
	FPS int
	// Build is the version of this binary.
	Build string
	// Input takes input.
	Input Input
	// Open opens an encoder by name; an empty name means the default.
	Open func(name string, width, height, fps, kbps int) (level.Encoder, error)
	// Clients counts connected Wayland clients.
	Clients func() int
	// Watched is called after the number of open levels went from none to some or back. It must not call the server.
	Watched func(bool)
	// Logger takes what happens.
	Logger *slog.Logger
}

// Server serves the display protocol. Its methods may be called from any goroutine.
type Server struct {
	config   Config
	listener *net.UnixListener
	encoded  atomic.Uint64 // frames over all levels
	levels   watchers

	strangers atomic.Int32

	turn    sync.Mutex // held while one client replaces another
	mu      sync.Mutex
	conns   map[*conn]struct{}
	current *conn // the client; nil before the first
}

// New makes a server and its socket, which appears under its name when a client can connect to it; the caller owes a Serve.
// A socket of the same name is replaced. The error is of class InvalidArgument for a bad Config.
func New(config Config) (*Server, error) {
	if config.Dir == "" || config.Screen == nil || config.Input == nil || config.Open == nil || config.Clients == nil ||
		config.Logger == nil {
		return nil, fmt.Errorf("control server: a required field of its config is missing: %w", errdefs.ErrInvalidArgument)
	}
	s := &Server{config: config, conns: map[*conn]struct{}{}}
	s.levels.changed = config.Watched
	var err error
	if s.listener, err = listen(s.path()); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) path() string { return filepath.Join(s.config.Dir, SocketName) }

// Watched tells whether a level is open.
func (s *Server) Watched() bool { return s.levels.any() }

// Serve serves clients until the context ends, and returns nil then, or what kept it from accepting. At the end it closes all
// connections, waits for what it started and removes the socket. It is called once.
func (s *Server) Serve(ctx context.Context) error {
	defer os.Remove(s.path())
	defer s.listener.Close()
	stop := context.AfterFunc(ctx, func() { s.listener.Close(); s.closeAll() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.closeAll()
	for {
		socket, err := s.listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept on %s: %w", s.path(), err)
		}
		if s.strangers.Add(1) > maxStrangers {
			s.strangers.Add(-1)
			s.config.Logger.Warn("connection refused", "reason", "too many connections without a hello")
			socket.Close()
			continue
		}
		c := newConn(s, socket)
		if !s.add(ctx, c) {
			socket.Close()
			return nil
		}
		wg.Go(c.serve)
	}
}

// listen binds under another name and renames: who sees the socket can connect.
func listen(path string) (*net.UnixListener, error) {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	if err = os.Chmod(fresh, 0o600); err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		listener.Close()
		os.Remove(fresh)
		return nil, fmt.Errorf("publish control socket: %w", err)
	}
	return listener, nil
}

// add registers a connection, unless the server ends.
func (s *Server) add(ctx context.Context, c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		s.strangers.Add(-1)
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.current == c {
		s.current = nil
	}
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.socket.Close()
	}
}

// replace makes c the client, after the one before it has ended.
func (s *Server) replace(c *conn) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	old := s.current
	s.current = c
	s.mu.Unlock()
	if old != nil {
		s.config.Logger.Info("client replaced by a newer one")
		old.socket.Close()
		<-old.ended
	}
}

// watchers counts open levels.
type watchers struct {
	changed func(bool) // may be nil

	mu sync.Mutex
	n  int
}

func (w *watchers) add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.n > 0
	w.n += n
	if after := w.n > 0; after != before && w.changed != nil {
		w.changed(after)
	}
}

func (w *watchers) any() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n > 0
}
