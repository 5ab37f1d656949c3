// Package hub is a small reference control plane: agents behind NAT dial in, and phonectl reaches each of them by name.
//
// Agents come with control and media sessions as to any control plane (agent/controlplane). Clients come with sessions of
// their own kind (ALPN phonehost-hub/1), one TCP connection for commands and one for video, so that the one never waits for
// the other. On every stream a client first says what it wants (see request); the hub answers, and if the client asked for
// an agent, it opens a stream on that agent's session and passes bytes both ways until both directions have ended. It reads
// nothing of what it passes.
//
// To an agent everybody who comes through a hub is the hub: the agent's role table names the hub's certificate, and the hub's
// own table says which clients may use it. Nobody may unless the table says so. Agents are known by the NAME in their
// certificates only.
//
// Goroutines: Serve owns one for each stream and a second while it is passed on; it returns when all have ended.
package hub

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

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/controlplane"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// Anybody, as an entry of Config.Allow, lets in every client whose certificate is good.
const Anybody = "*"

// headerTime is how long a client may take to say what it wants, and the hub to answer.
const headerTime = 10 * time.Second

// Config says how a hub works.
type Config struct {
	// Certificates is what the hub shows and trusts; its identity must be a client's, for that is what it is to agents.
	Certificates *tunnel.Certificates
	// Allow lists the NAMEs of the clients that may use the hub, or Anybody. Empty means nobody.
	Allow []string
	// Limits bounds what peers can take; the zero value means the defaults.
	Limits tunnel.Limits
	// Timing holds the times of sessions; the zero value means the defaults.
	Timing tunnel.Timing
	// Watcher is told how agents come and go.
	Watcher controlplane.Watcher
	// Observer is told of sessions and refusals.
	Observer tunnel.Observer
	// Logger is told who reaches which agent; nil means nobody is.
	Logger *slog.Logger
}

// Hub is a running hub. It is safe for concurrent use.
type Hub struct {
	allow    []string
	agents   *controlplane.Registry
	listener *tunnel.Listener
	logger   *slog.Logger
	streams  sync.WaitGroup
}

// New checks the configuration. The error is of class errdefs.ErrInvalidArgument.
func New(c Config) (*Hub, error) {
	if c.Certificates == nil {
		return nil, fmt.Errorf("hub: no certificates: %w", errdefs.ErrInvalidArgument)
	}
	if id := c.Certificates.Identity(); id.Kind != access.KindClient {
		return nil, fmt.Errorf("hub: the certificate is of %s, a hub needs one of phonehost://client/NAME: %w", id, errdefs.ErrInvalidArgument)
	}
	for _, name := range c.Allow {
		if name != Anybody && !access.ValidName(name) {
			return nil, fmt.Errorf("hub: allowed client %q: want the NAME of a client certificate or %s: %w", name, Anybody, errdefs.ErrInvalidArgument)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Hub{allow: c.Allow, agents: controlplane.NewRegistry(c.Watcher, c.Logger), logger: c.Logger}
	listener, err := tunnel.NewListener(tunnel.ListenerConfig{
		Certificates: c.Certificates,
		Serves: map[tunnel.Kind]access.Kind{
			tunnel.Control: access.KindAgent, tunnel.Media: access.KindAgent, tunnel.Hub: access.KindClient,
		},
		Deliver:  map[tunnel.Kind]func(*tunnel.Stream){tunnel.Hub: h.take},
		Admit:    h.admit,
		Opened:   h.opened,
		Closed:   h.closed,
		Limits:   c.Limits,
		Timing:   c.Timing,
		Observer: c.Observer,
		Logger:   c.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	h.listener = listener
	return h, nil
}

// Serve takes in agents and clients until ctx is done, then drains and closes their sessions and returns nil. It closes the
// port. A Hub serves one port.
func (h *Hub) Serve(ctx context.Context, port net.Listener) error {
	err := h.listener.Serve(ctx, port)
	h.streams.Wait()
	return err
}

// Agents returns the registry of the agents that have dialed in.
func (h *Hub) Agents() *controlplane.Registry { return h.agents }

func (h *Hub) admit(s tunnel.SessionInfo) error {
	if s.Kind != tunnel.Hub || slices.Contains(h.allow, Anybody) || slices.Contains(h.allow, s.Identity.Name) {
		return nil
	}
	return fmt.Errorf("%s may not use this hub; allow it with: phonectl hub --allow %s", s.Identity, s.Identity.Name)
}

func (h *Hub) opened(s *tunnel.Session) {
	if s.Info().Kind != tunnel.Hub {
		h.agents.Add(s)
	}
}

func (h *Hub) closed(s *tunnel.Session) {
	if s.Info().Kind != tunnel.Hub {
		h.agents.Remove(s)
	}
}

// take serves one stream of a client on a goroutine of its own, which the end of the client's session ends.
func (h *Hub) take(stream *tunnel.Stream) {
	h.streams.Go(func() {
		defer func() { _ = stream.Close() }()
		if err := h.serve(stream); err != nil {
			h.logger.Info("stream of client ended", "identity", stream.Identity().String(), "err", err)
		}
	})
}

// serve answers one request. The error is for the log.
func (h *Hub) serve(stream *tunnel.Stream) error {
	if err := stream.SetDeadline(time.Now().Add(headerTime)); err != nil {
		return err
	}
	req, err := readRequest(stream)
	if err != nil {
		return errors.Join(fmt.Errorf("read request: %w", err), writeResponse(stream, failure(err)))
	}
	if req.List {
		return writeResponse(stream, response{Agents: h.list()})
	}
	agent, err := h.open(req)
	if err != nil {
		return errors.Join(fmt.Errorf("open agent %s: %w", req.Agent, err), writeResponse(stream, failure(err)))
	}
	defer func() { _ = agent.Close() }()
	if err := writeResponse(stream, response{}); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if err := stream.SetDeadline(time.Time{}); err != nil {
		return err
	}
	h.logger.Info("client reaches agent", "identity", stream.Identity().String(), "agent", req.Agent, "kind", string(req.Kind))
	splice(stream, agent)
	return nil
}

func (h *Hub) open(req request) (*tunnel.Stream, error) {
	agent, err := h.agents.Agent(req.Agent)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), headerTime)
	defer cancel()
	return agent.Open(ctx, req.Kind)
}

// list describes the agents that are connected, ordered by name.
func (h *Hub) list() []Agent {
	var agents []Agent
	for _, s := range h.agents.Sessions() {
		if n := len(agents); n == 0 || agents[n-1].Name != s.Identity.Name {
			agents = append(agents, Agent{Name: s.Identity.Name})
		}
		a := &agents[len(agents)-1]
		a.Sessions = append(a.Sessions, Session{Kind: s.Kind, Remote: s.Remote, Since: s.Since})
	}
	return agents
}
