package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// conn is one connection of an agent.
type conn struct {
	server *Server
	socket *net.UnixConn
	in     messageReader
	out    messageWriter
	log    *slog.Logger
	ended  chan struct{} // closed when nothing of the connection is left
	shots  chan uint64   // requests for screenshots

	held held // touches and keys of this client; of the reading goroutine

	mu     sync.Mutex
	levels map[uint32]*openLevel
}

func newConn(s *Server, socket *net.UnixConn) *conn {
	return &conn{
		server: s, socket: socket, in: messageReader{in: socket}, out: messageWriter{out: socket},
		log: s.config.Logger, ended: make(chan struct{}), shots: make(chan uint64, maxShots),
		levels: map[uint32]*openLevel{},
	}
}

// serve is the goroutine of the connection.
func (c *conn) serve() {
	defer close(c.ended)
	defer c.server.remove(c)
	defer c.socket.Close()
	err := c.hello()
	c.server.strangers.Add(-1)
	if err != nil {
		c.log.Warn("handshake", "error", err)
		return
	}
	c.log.Info("client connected")
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.watchContent(ctx) })
	wg.Go(func() { c.takeShots(ctx) })
	err = c.requests()
	cancel()
	c.socket.Close() // ends writes that wait
	c.closeLevels()
	wg.Wait()
	c.held.release(c.server.config.Input)
	c.log.Info("client gone", "reason", reason(err))
}

// reason words why a connection ended.
func reason(err error) string {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return "closed by the client"
	case errors.Is(err, net.ErrClosed):
		return "closed here"
	}
	return err.Error()
}

// hello does the handshake and makes the connection the client.
func (c *conn) hello() error {
	if err := c.socket.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	m, err := c.in.next()
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if v := m.GetHello().GetVersion(); v < 1 {
		err := fmt.Errorf("first message must be a hello of version 1 or higher: %w", errdefs.ErrInvalidArgument)
		c.refuse(m.GetRequest(), err)
		return err
	}
	if err := c.socket.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	c.server.replace(c)
	s := c.server
	return c.out.write(&displayv1.ServerMessage{Request: m.GetRequest(), Message: &displayv1.ServerMessage_Hello{
		Hello: &displayv1.ServerHello{
			Version: Version, Build: s.config.Build, Width: uint32(s.config.Screen.Width()),
			Height: uint32(s.config.Screen.Height()), Fps: uint32(s.config.FPS),
		},
	}})
}

// requests reads and handles messages until the connection ends.
func (c *conn) requests() error {
	for {
		m, err := c.in.next()
		if err != nil {
			return err
		}
		if err := c.handle(m); err != nil {
			return err
		}
	}
}

// watchContent sends the state when the screen gets content or loses it; a client begins by believing that there is none.
func (c *conn) watchContent(ctx context.Context) {
	known := false
	for {
		changed := c.server.config.Screen.ContentChanged()
		if now := c.server.config.Screen.HasContent(); now != known {
			known = now
			if c.sendState(0) != nil {
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (c *conn) sendState(request uint64) error {
	s := c.server
	counters := s.config.Screen.Counters()
	return c.out.write(&displayv1.ServerMessage{Request: request, Message: &displayv1.ServerMessage_State{
		State: &displayv1.State{
			HasContent:      s.config.Screen.HasContent(),
			FramesCommitted: counters.Committed,
			FramesChanged:   counters.Changed,
			FramesEncoded:   s.encoded.Load(),
			Clients:         uint32(s.config.Clients()),
			Levels:          c.openLevels(),
		},
	}})
}

// refuse answers a request with an error.
func (c *conn) refuse(request uint64, err error) error {
	code := displayv1.ErrorCode_ERROR_CODE_INTERNAL
	switch {
	case errdefs.IsInvalidArgument(err):
		code = displayv1.ErrorCode_ERROR_CODE_INVALID_ARGUMENT
	case errdefs.IsFailedPrecondition(err), errdefs.IsResourceExhausted(err):
		code = displayv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION
	case errdefs.IsUnavailable(err), errdefs.IsNotFound(err):
		code = displayv1.ErrorCode_ERROR_CODE_UNAVAILABLE
	}
	return c.out.write(&displayv1.ServerMessage{Request: request, Message: &displayv1.ServerMessage_Error{
		Error: &displayv1.Error{Code: code, Message: err.Error()},
	}})
}

// done answers a request that has nothing to return.
func (c *conn) done(request uint64) error {
	return c.out.write(&displayv1.ServerMessage{Request: request, Message: &displayv1.ServerMessage_Done{Done: &displayv1.Done{}}})
}
