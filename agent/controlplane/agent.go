package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// Config is what both ways to an agent need.
type Config struct {
	// Certificates is what this side shows and trusts; its identity must be a client's.
	Certificates *tunnel.Certificates
	// Name is the NAME that a dialed agent must have; empty means any. A Server ignores it.
	Name string
	// Timing holds the times of sessions; the zero value means the defaults.
	Timing tunnel.Timing
	// Logger is told about sessions; nil means nobody is.
	Logger *slog.Logger
}

// check refuses a configuration that cannot work. The error is of class errdefs.ErrInvalidArgument.
func (c *Config) check() error {
	if c.Certificates == nil {
		return fmt.Errorf("no certificates: %w", errdefs.ErrInvalidArgument)
	}
	if id := c.Certificates.Identity(); id.Kind != access.KindClient {
		return fmt.Errorf("the certificate is of %s, a control plane needs one of phonehost://client/NAME: %w", id, errdefs.ErrInvalidArgument)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// sessions finds an agent's present session.
type sessions interface {
	session(ctx context.Context, kind tunnel.Kind) (*tunnel.Session, error)
	close(ctx context.Context, why string)
}

// Agent is one agent, as long as anybody wants it. It is safe for concurrent use.
type Agent struct {
	name     string
	sessions sessions
}

// Name returns the NAME in the agent's certificate.
func (a *Agent) Name() string { return a.name }

// Control returns a new gRPC connection to the agent for commands and input, and waits until it works or ctx is done. The
// caller closes it. Errors are of class errdefs.ErrUnavailable or errdefs.ErrPermissionDenied.
func (a *Agent) Control(ctx context.Context) (*grpc.ClientConn, error) {
	return a.connect(ctx, tunnel.Control)
}

// Media returns a new gRPC connection to the agent for video and files, as Control does.
func (a *Agent) Media(ctx context.Context) (*grpc.ClientConn, error) {
	return a.connect(ctx, tunnel.Media)
}

// Open opens a yamux stream on the agent's session of a kind, for those who bring their own gRPC connection or pass the bytes
// on. The caller closes it.
func (a *Agent) Open(ctx context.Context, kind tunnel.Kind) (*tunnel.Stream, error) {
	s, err := a.sessions.session(ctx, kind)
	if err != nil {
		return nil, err
	}
	return s.Open()
}

// NewConn is Control or Media without the wait: the connection opens its stream at the first call.
func (a *Agent) NewConn(kind tunnel.Kind) (*grpc.ClientConn, error) {
	return tunnel.NewClientConn(kind, func(ctx context.Context) (net.Conn, error) {
		s, err := a.Open(ctx, kind)
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}

func (a *Agent) connect(ctx context.Context, kind tunnel.Kind) (*grpc.ClientConn, error) {
	// The first look is for the error: gRPC keeps only its text.
	if _, err := a.sessions.session(ctx, kind); err != nil {
		return nil, err
	}
	conn, err := a.NewConn(kind)
	if err != nil {
		return nil, fmt.Errorf("connect to agent %s: %w", a.name, err)
	}
	conn.Connect()
	for {
		switch state := conn.GetState(); {
		case state == connectivity.Ready:
			return conn, nil
		case state == connectivity.TransientFailure:
			_ = conn.Close()
			if _, err := a.sessions.session(ctx, kind); err != nil {
				return nil, err // the session was lost meanwhile, and this is why there is no other
			}
			return nil, fmt.Errorf("connect to agent %s: it closed the stream; it stops, or has too many: %w", a.name, errdefs.ErrUnavailable)
		case !conn.WaitForStateChange(ctx, state):
			_ = conn.Close()
			return nil, fmt.Errorf("connect to agent %s: %w: %w", a.name, ctx.Err(), errdefs.ErrUnavailable)
		}
	}
}

// Drain tells the agent that its sessions will be closed, waits until their streams have ended or ctx is done, and closes
// them. Sessions that the agent dialed, it dials again; those belong to the Server.
func (a *Agent) Drain(ctx context.Context) {
	a.sessions.close(ctx, "the control plane leaves")
}

// Close closes the agent's sessions at once, with what runs on them.
func (a *Agent) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	a.Drain(ctx)
	return nil
}
