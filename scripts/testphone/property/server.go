package property

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// firstAppUID is the first uid of an installed app; apps may read properties and set none.
const firstAppUID = 10000

// requestTimeout bounds how long a request may take to arrive and an answer to leave, as Android does.
const requestTimeout = 2 * time.Second

// maxConns bounds the connections served at once; more wait in the listener's queue.
const maxConns = 64

// Config is what a Server needs.
type Config struct {
	// Store is what is served. Required.
	Store *Store
	// Control is called for names that begin with "ctl.", which are orders and are not stored. Its error is told to the caller.
	// It must return soon. Without it every order is refused.
	Control func(name, value string) error
}

// Server answers the property socket.
type Server struct {
	store   *Store
	control func(name, value string) error
}

// NewServer returns a server. Error: errdefs.ErrInvalidArgument without a store.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Store == nil {
		return nil, fmt.Errorf("property server: no store: %w", errdefs.ErrInvalidArgument)
	}
	return &Server{store: cfg.Store, control: cfg.Control}, nil
}

// Serve answers connections until ctx ends or the listener breaks. It closes the listener and waits for every connection's goroutine.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, maxConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("property socket: accept: %w", err)
		}
		conns.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, conn)
		})
	}
}

// serve answers the requests of one connection, one after the other.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for {
		conn.SetDeadline(time.Now().Add(requestTimeout))
		cmd, err := readUint32(conn)
		if err != nil {
			return
		}
		if err := s.request(ctx, conn, cmd); err != nil {
			return
		}
	}
}

func (s *Server) request(ctx context.Context, conn *net.UnixConn, cmd uint32) error {
	switch cmd {
	case cmdSet:
		name, value, err := readPair(conn)
		if err != nil {
			return errors.Join(err, answer(conn, resultReadCommand))
		}
		return answer(conn, s.set(conn, name, value))
	case cmdGet:
		name, err := readString(conn)
		if err != nil {
			return errors.Join(err, answer(conn, resultReadCommand))
		}
		return write(conn, appendString(binary.LittleEndian.AppendUint32(nil, resultOK), s.store.Get(name)))
	case cmdList:
		return write(conn, formatList(s.store.All()))
	case cmdWatch:
		prefix, err := readString(conn)
		if err != nil {
			return errors.Join(err, answer(conn, resultReadCommand))
		}
		return s.watch(ctx, conn, prefix)
	}
	if err := answer(conn, resultInvalidCommand); err != nil {
		return err
	}
	return errdefs.ErrInvalidArgument
}

func (s *Server) set(conn *net.UnixConn, name, value string) uint32 {
	uid, err := peerUID(conn)
	if err != nil || uid >= firstAppUID {
		return resultPermissionDenied
	}
	if strings.HasPrefix(name, "ctl.") {
		if s.control == nil || check(name, value) != nil || s.control(name, value) != nil {
			return resultControl
		}
		return resultOK
	}
	return resultOf(name, s.store.Set(name, value))
}

// watch sends changes until the client goes away. Its reader notices that: a watcher sends nothing more.
func (s *Server) watch(ctx context.Context, conn *net.UnixConn, prefix string) error {
	sub := s.store.Subscribe(prefix)
	defer sub.Close()
	if err := answer(conn, resultOK); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Time{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		conn.Read(make([]byte, 1))
	}()
	defer func() { conn.Close(); <-gone }()
	for {
		select {
		case <-sub.Ready():
		case <-gone:
			return net.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
		var b []byte
		for _, p := range sub.Take() {
			b = appendString(appendString(b, p.Name), p.Value)
		}
		if err := write(conn, b); err != nil {
			return err
		}
	}
}

func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

func readPair(conn *net.UnixConn) (string, string, error) {
	first, err := readString(conn)
	second, secondErr := readString(conn)
	return first, second, errors.Join(err, secondErr)
}

func formatList(list []Property) []byte {
	b := binary.LittleEndian.AppendUint32(nil, resultOK)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(list)))
	for _, p := range list {
		b = appendString(appendString(b, p.Name), p.Value)
	}
	return b
}

func answer(conn net.Conn, result uint32) error {
	return write(conn, binary.LittleEndian.AppendUint32(nil, result))
}

func write(conn net.Conn, b []byte) error {
	conn.SetWriteDeadline(time.Now().Add(requestTimeout))
	_, err := conn.Write(b)
	return err
}
