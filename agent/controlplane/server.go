package controlplane

import (
	"context"
	"fmt"
	"net"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// ServerConfig says how agents are taken in.
type ServerConfig struct {
	Config
	// Limits bounds what agents can take; the zero value means the defaults.
	Limits tunnel.Limits
	// Watcher is told how agents come and go.
	Watcher Watcher
	// Observer is told of sessions and refusals.
	Observer tunnel.Observer
}

// Server takes in agents that dial out. It is safe for concurrent use.
type Server struct {
	*Registry
	listener *tunnel.Listener
	port     net.Listener
}

// Listen opens a TCP port, host:port, for agents; Serve takes them in. Errors are of class errdefs.ErrInvalidArgument for a
// Config that cannot work, else the operating system's.
func Listen(addr string, c ServerConfig) (*Server, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("listen for agents on %s: %w", addr, err)
	}
	registry := NewRegistry(c.Watcher, c.Logger)
	listener, err := tunnel.NewListener(tunnel.ListenerConfig{
		Certificates: c.Certificates,
		Serves:       map[tunnel.Kind]access.Kind{tunnel.Control: access.KindAgent, tunnel.Media: access.KindAgent},
		Opened:       registry.Add,
		Closed:       registry.Remove,
		Limits:       c.Limits,
		Timing:       c.Timing,
		Observer:     c.Observer,
		Logger:       c.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("listen for agents on %s: %w", addr, err)
	}
	port, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for agents: %w", err)
	}
	return &Server{Registry: registry, listener: listener, port: port}, nil
}

// Addr returns the address of the port.
func (s *Server) Addr() net.Addr { return s.port.Addr() }

// Serve takes agents in until ctx is done, then drains and closes their sessions and returns nil. It closes the port.
func (s *Server) Serve(ctx context.Context) error { return s.listener.Serve(ctx, s.port) }
