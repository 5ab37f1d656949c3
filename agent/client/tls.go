package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/controlplane"
	"github.com/phonehost/phonehost/agent/hub"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// certificates reads the client's files.
func (o Options) certificates() (*tunnel.Certificates, error) {
	for name, path := range map[string]string{"certificate": o.Cert, "key": o.Key, "authority": o.CA} {
		if path == "" {
			return nil, fmt.Errorf("no %s given; a TLS door needs certificate, key and authority, test ones come from: "+
				"phonectl pki init && phonectl pki issue client/$USER: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	certs, err := tunnel.LoadCertificates(tunnel.CertificateFiles{Cert: o.Cert, Key: o.Key, CA: o.CA}, o.Logger)
	if err != nil {
		return nil, err
	}
	if id := certs.Identity(); id.Kind != access.KindClient {
		return nil, fmt.Errorf("certificate %s is of %s, agents and hubs take clients only; make one with: "+
			"phonectl pki issue client/$USER: %w", o.Cert, id, errdefs.ErrInvalidArgument)
	}
	return certs, nil
}

// dialTLS connects to the TLS door of an agent.
func dialTLS(ctx context.Context, addr string, o Options) (*Client, error) {
	if err := checkAddress(addr); err != nil {
		return nil, fmt.Errorf("host tls://%s: %w", addr, err)
	}
	certs, err := o.certificates()
	if err != nil {
		return nil, err
	}
	agent, err := controlplane.Dial(ctx, addr, controlplane.Config{Certificates: certs, Name: o.Agent, Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	return newClient(agent.NewConn, agent.Close)
}

// ListAgents returns the agents that are connected to the hub o.Hub, ordered by name.
func ListAgents(ctx context.Context, o Options) ([]hub.Agent, error) {
	w, err := newHubWay(o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.close() }() // always nil
	session, err := w.session(ctx, tunnel.Control)
	if err != nil {
		return nil, err
	}
	return session.Agents(ctx)
}

// dialHub connects to an agent through a hub.
func dialHub(ctx context.Context, o Options) (*Client, error) {
	if o.Agent == "" {
		return nil, fmt.Errorf("hub %s: no agent named; list them with: phonectl --hub %s agents: %w", o.Hub, o.Hub, errdefs.ErrInvalidArgument)
	}
	w, err := newHubWay(o)
	if err != nil {
		return nil, err
	}
	// One stream first: the hub's answer is precise, and gRPC's is not.
	stream, err := w.open(ctx, tunnel.Control)
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	if err := stream.Close(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	connect := func(kind tunnel.Kind) (*grpc.ClientConn, error) {
		return tunnel.NewClientConn(kind, func(ctx context.Context) (net.Conn, error) { return w.open(ctx, kind) })
	}
	return newClient(connect, w.close)
}

// hubWay keeps the sessions with a hub, one for each kind of session with the agent behind it.
type hubWay struct {
	options Options
	certs   *tunnel.Certificates

	mu       sync.Mutex
	sessions map[tunnel.Kind]*hub.Client
	closed   bool
}

func newHubWay(o Options) (*hubWay, error) {
	if err := checkAddress(o.Hub); err != nil {
		return nil, fmt.Errorf("hub %s: %w", o.Hub, err)
	}
	certs, err := o.certificates()
	if err != nil {
		return nil, err
	}
	return &hubWay{options: o, certs: certs, sessions: map[tunnel.Kind]*hub.Client{}}, nil
}

// open returns a stream to the agent.
func (w *hubWay) open(ctx context.Context, kind tunnel.Kind) (net.Conn, error) {
	session, err := w.session(ctx, kind)
	if err != nil {
		return nil, err
	}
	return session.Open(ctx, w.options.Agent, kind)
}

// session returns the session for a kind and dials it when there is none that is open; others wait for the dial.
func (w *hubWay) session(ctx context.Context, kind tunnel.Kind) (*hub.Client, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fmt.Errorf("hub %s: %w", w.options.Hub, tunnel.ErrClosed)
	}
	if s := w.sessions[kind]; s != nil {
		if s.Usable() {
			return s, nil
		}
		_ = s.Close() // always nil
		delete(w.sessions, kind)
	}
	s, err := hub.Dial(ctx, w.options.Hub, hub.ClientConfig{Certificates: w.certs, Logger: w.options.Logger})
	if err != nil {
		return nil, err
	}
	w.sessions[kind] = s
	return s, nil
}

func (w *hubWay) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	var err error
	for _, s := range w.sessions {
		err = errors.Join(err, s.Close())
	}
	return err
}

func checkAddress(addr string) error {
	if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
		return fmt.Errorf("want host:port: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}
