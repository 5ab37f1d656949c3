// Package wayland is the screen's Wayland server: it takes the pictures of one guest into a screen.Screen and gives that
// guest touches, keys, text and wheel turns.
//
// The guest is not trusted. Everything it sends is checked against the protocol's tables before it has an effect, everything
// it can make the server keep is bounded, and what it must not do ends its own connection with the protocol's own error and
// nothing else. Pixels are copied at commit and the buffer is released at once: guest memory is only ever read during that
// copy, on the client's own goroutine, and a fault in it is a protocol error.
//
// One mutex, Server.mu, guards everything but the screen's own state: clients, objects, the scene and the seat. Each client
// has one goroutine, which reads its socket without the mutex and dispatches requests under it, for a short turn at a time. Input
// methods take the mutex too. Nothing that runs under it blocks: sending goes to a bounded queue, and a client that does not
// read is disconnected. One more goroutine, the clock's, answers frame callbacks and unmaps memory that is not used. Serve
// owns all of them and waits for them.
package wayland

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// Limits on what one guest can make the server keep.
const (
	maxClients   = 32      // connections
	maxObjects   = 8192    // objects of a client
	maxSurfaces  = 256     // surfaces of a client
	maxCallbacks = 1024    // frame callbacks of a client that wait
	maxPools     = 256     // pools of a client, each with a descriptor
	maxAllPools  = 512     // pools of all clients
	maxQueue     = 1 << 20 // bytes that wait for a client to read
	maxDepth     = 8       // nesting of sub-surfaces and of popups
	maxRegionOps = 512     // rectangles of a region

	maxAllRegionOps = 1 << 14 // rectangles of all regions of a client
)

// turn is about how long a client's requests are dispatched before others get the mutex: one commit of a large picture may
// take longer.
const turn = 2 * time.Millisecond

// acceptPause is the time between two tries to accept while descriptors have run out.
const acceptPause = 100 * time.Millisecond

// Config says what to serve.
type Config struct {
	// Screen takes the pictures; its size is what the guest is told. Required.
	Screen *screen.Screen
	// Dir is the directory of the socket, which exists. Required.
	Dir string
	// Name is the socket's name in Dir; "wayland-0" when empty.
	Name string
	// FPS is the refresh rate that the guest is told, and at which frame callbacks are answered, 1..240; 60 when 0.
	FPS int
	// DPI tells the guest how large the screen is, in pixels per inch, 1..2000; 160 when 0.
	DPI int
	// Globals are offered beside wl_compositor, wl_shm, wl_output, wl_seat and xdg_wm_base: any of OptionalGlobals.
	Globals []string
	// Logger takes what happens to clients; nothing is logged when nil.
	Logger *slog.Logger
	// Watched tells whether anybody sees the screen. While it returns false, frame callbacks are answered once a second. It is
	// called with the server's mutex held and must not call the server; its changes are told by WatchedChanged. Nil means
	// always watched.
	Watched func() bool
}

// Server is the Wayland server of one screen. All methods may be called from any goroutine.
type Server struct {
	cfg      Config
	log      *slog.Logger
	globals  []global
	interval time.Duration // between answers to frame callbacks
	path     string
	listener *net.UnixListener
	epoch    time.Time // what the times in events count from
	wake     chan struct{}
	clients  sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	all       map[*client]struct{}
	dirty     []*client // have something to flush
	serial    uint32
	scene     scene
	seat      seat
	pace      pacer
	clipboard clipboard
	pools     map[*pool]struct{}
	scratch   []byte // for reading without a mapping
}

// New checks the configuration and makes the socket, which a client can connect to as soon as it is visible; it is served by
// Serve. A socket of the same name is replaced. Errors are of class InvalidArgument for the configuration.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:      cfg,
		log:      cfg.Logger,
		interval: time.Second / time.Duration(cfg.FPS),
		epoch:    time.Now(),
		wake:     make(chan struct{}, 1),
		all:      make(map[*client]struct{}),
		pools:    make(map[*pool]struct{}),
	}
	s.globals = offered(cfg.Globals)
	s.scene.init(s)
	if err := s.seat.init(s); err != nil {
		return nil, err
	}
	if err := s.listen(); err != nil {
		s.seat.close()
		return nil, err
	}
	return s, nil
}

// complete fills in defaults and checks the rest.
func (c *Config) complete() error {
	if c.Screen == nil || c.Dir == "" {
		return fmt.Errorf("wayland server needs a screen and a directory: %w", errdefs.ErrInvalidArgument)
	}
	if c.Name == "" {
		c.Name = "wayland-0"
	}
	if c.FPS == 0 {
		c.FPS = 60
	}
	if c.DPI == 0 {
		c.DPI = 160
	}
	if c.FPS < 1 || c.FPS > 240 {
		return fmt.Errorf("wayland output of %d frames per second: 1..240: %w", c.FPS, errdefs.ErrInvalidArgument)
	}
	if c.DPI < 1 || c.DPI > 2000 {
		return fmt.Errorf("wayland output of %d pixels per inch: 1..2000: %w", c.DPI, errdefs.ErrInvalidArgument)
	}
	for _, name := range c.Globals {
		if !slices.Contains(OptionalGlobals(), name) {
			return fmt.Errorf("wayland global %q: one of %v: %w", name, OptionalGlobals(), errdefs.ErrInvalidArgument)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Watched == nil {
		c.Watched = func() bool { return true }
	}
	return nil
}

// Serve accepts clients until ctx ends, and then disconnects them and removes the socket. It returns nil when ctx ended it.
// It may be called once.
func (s *Server) Serve(ctx context.Context) error {
	var helpers sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	helpers.Go(func() { s.tick(ctx) })
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	err := s.accept(ctx)
	if ctx.Err() != nil {
		err = nil
	}
	cancel()
	stop()
	s.Close()
	helpers.Wait()
	return err
}

// Close disconnects all clients, waits for their goroutines and removes the socket. Serve does it when it ends; Close is for
// a server that never served.
func (s *Server) Close() {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	for c := range s.all {
		c.drop(net.ErrClosed)
	}
	s.unlock()
	if first {
		s.unlisten()
	}
	s.clients.Wait()
	if first {
		s.seat.close()
	}
}

// accept serves every connection in a goroutine of its own. Where descriptors have run out it waits for some to come back.
func (s *Server) accept(ctx context.Context) error {
	for {
		sock, err := s.listener.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ECONNABORTED):
			s.log.Warn("wayland client not accepted", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		case err != nil:
			return fmt.Errorf("accept wayland client: %w", err)
		}
		conn, err := wire.NewConn(sock, maxQueue)
		if err != nil {
			sock.Close()
			continue
		}
		s.mu.Lock()
		if s.closed || len(s.all) >= maxClients {
			s.mu.Unlock()
			s.log.Warn("wayland client refused", "clients", maxClients)
			conn.Close()
			continue
		}
		c := newClient(s, conn)
		s.all[c] = struct{}{}
		s.clients.Go(c.run)
		s.mu.Unlock()
	}
}

// Clients returns how many clients are connected.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// unlock ends a section under the mutex: what was queued for clients is sent.
func (s *Server) unlock() {
	for _, c := range s.dirty {
		c.flush()
	}
	clear(s.dirty)
	s.dirty = s.dirty[:0]
	s.mu.Unlock()
}

// nextSerial returns a number that no event has carried.
func (s *Server) nextSerial() uint32 {
	s.serial++
	if s.serial == 0 {
		s.serial = 1
	}
	return s.serial
}

// millis is the time that events carry: milliseconds since some start, wrapping around.
func (s *Server) millis() uint32 { return uint32(time.Since(s.epoch).Milliseconds()) }
