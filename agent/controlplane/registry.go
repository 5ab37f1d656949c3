package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/tunnel"
)

// Watcher is told how agents come and go; any of its functions may be nil. They are called from the goroutines of the
// sessions and must not block.
type Watcher struct {
	// Connected is called when an agent's control session is there and none was before.
	Connected func(*Agent)
	// Replaced is called when a second session of the same agent and kind takes the place of an open one: an agent that
	// reconnects before its old session was found dead, one that renews its certificate, or two agents of one name.
	Replaced func(name string, older, newer tunnel.SessionInfo)
	// Disconnected is called when an agent's control session has ended and no other has come.
	Disconnected func(name string, cause error)
}

// Registry knows the agents that have dialed in, by the NAME in their certificates. It is safe for concurrent use and starts
// no goroutines: Add and Remove are the Opened and Closed of a tunnel.ListenerConfig.
type Registry struct {
	watcher Watcher
	logger  *slog.Logger

	mu     sync.Mutex
	agents map[string]*accepted
	change chan struct{} // closed and made anew when a session comes
}

// accepted holds the sessions of one agent that dialed in.
type accepted struct {
	agent    *Agent
	registry *Registry
	name     string
	open     map[tunnel.Kind]*tunnel.Session // guarded by registry.mu
}

// NewRegistry returns an empty registry; a nil logger means that nobody is told.
func NewRegistry(w Watcher, logger *slog.Logger) *Registry {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Registry{watcher: w, logger: logger, agents: map[string]*accepted{}, change: make(chan struct{})}
}

// Add enters a session of an agent. An open one of the same agent and kind is drained: the newer counts.
func (r *Registry) Add(s *tunnel.Session) {
	info := s.Info()
	name := info.Identity.Name
	r.mu.Lock()
	a := r.agents[name]
	if a == nil {
		a = &accepted{registry: r, name: name, open: map[tunnel.Kind]*tunnel.Session{}}
		a.agent = &Agent{name: name, sessions: a}
		r.agents[name] = a
	}
	older := a.open[info.Kind]
	a.open[info.Kind] = s
	close(r.change)
	r.change = make(chan struct{})
	r.mu.Unlock()
	switch {
	case older != nil:
		r.replaced(name, older, info)
	case info.Kind == tunnel.Control && r.watcher.Connected != nil:
		r.watcher.Connected(a.agent)
	}
}

func (r *Registry) replaced(name string, older *tunnel.Session, newer tunnel.SessionInfo) {
	old := older.Info()
	r.logger.Warn("agent has dialed in again; the newer session counts", "agent", name, "kind", string(newer.Kind),
		"older_remote", old.Remote, "newer_remote", newer.Remote)
	if r.watcher.Replaced != nil {
		r.watcher.Replaced(name, old, newer)
	}
	older.Drain("replaced by a newer session of " + old.Identity.String() + " from " + newer.Remote)
}

// Remove takes a session out that has ended.
func (r *Registry) Remove(s *tunnel.Session) {
	info := s.Info()
	name := info.Identity.Name
	r.mu.Lock()
	a := r.agents[name]
	if a == nil || a.open[info.Kind] != s {
		r.mu.Unlock()
		return // a newer one has its place
	}
	delete(a.open, info.Kind)
	if len(a.open) == 0 {
		delete(r.agents, name)
	}
	r.mu.Unlock()
	if info.Kind == tunnel.Control && r.watcher.Disconnected != nil {
		r.watcher.Disconnected(name, s.Cause())
	}
}

// Agent returns the agent of that name. The error is of class errdefs.ErrNotFound and lists the agents that are connected.
func (r *Registry) Agent(name string) (*Agent, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.agents[name]; a != nil {
		return a.agent, nil
	}
	return nil, fmt.Errorf("agent %q is not connected; %s: %w", name, r.known(), errdefs.ErrNotFound)
}

// known lists who is connected, for an error. mu is held.
func (r *Registry) known() string {
	const most = 20
	names := make([]string, 0, len(r.agents))
	for name := range r.agents {
		names = append(names, name)
	}
	slices.Sort(names)
	switch n := len(names); {
	case n == 0:
		return "no agent is"
	case n > most:
		return fmt.Sprintf("connected are %s and %d more", strings.Join(names[:most], ", "), n-most)
	default:
		return "connected are " + strings.Join(names, ", ")
	}
}

// Wait returns the agent of that name as soon as it has a control session. When ctx is done the error is that of Agent, or
// of class errdefs.ErrUnavailable if the agent has a media session only.
func (r *Registry) Wait(ctx context.Context, name string) (*Agent, error) {
	for {
		r.mu.Lock()
		a, change := r.agents[name], r.change
		ready := a != nil && a.open[tunnel.Control] != nil
		r.mu.Unlock()
		if ready {
			return a.agent, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			if _, err := r.Agent(name); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("agent %s has no control session: %w", name, errdefs.ErrUnavailable)
		}
	}
}

// Sessions describes the sessions of all agents, ordered by name and kind.
func (r *Registry) Sessions() []tunnel.SessionInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []tunnel.SessionInfo
	for _, a := range r.agents {
		for _, s := range a.open {
			all = append(all, s.Info())
		}
	}
	slices.SortFunc(all, func(a, b tunnel.SessionInfo) int {
		if c := strings.Compare(a.Identity.Name, b.Identity.Name); c != 0 {
			return c
		}
		return strings.Compare(string(a.Kind), string(b.Kind))
	})
	return all
}

// Agents returns the agents that are connected, ordered by name.
func (r *Registry) Agents() []*Agent {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*Agent, 0, len(r.agents))
	for _, a := range r.agents {
		all = append(all, a.agent)
	}
	slices.SortFunc(all, func(a, b *Agent) int { return strings.Compare(a.name, b.name) })
	return all
}

// session implements sessions: what the agent has dialed is what there is. An agent that has gone and come back is found
// under its name again.
func (a *accepted) session(_ context.Context, kind tunnel.Kind) (*tunnel.Session, error) {
	r := a.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.agents[a.name]
	if now == nil {
		return nil, fmt.Errorf("agent %s has gone: %w", a.name, errdefs.ErrUnavailable)
	}
	if s := now.open[kind]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("agent %s has no %s session: %w", a.name, kind, errdefs.ErrUnavailable)
}

// close implements sessions: the sessions are the listener's, so they only drain; the agent dials again.
func (a *accepted) close(_ context.Context, why string) {
	r := a.registry
	r.mu.Lock()
	now := r.agents[a.name]
	var open []*tunnel.Session
	if now != nil {
		for _, s := range now.open {
			open = append(open, s)
		}
	}
	r.mu.Unlock()
	for _, s := range open {
		s.Drain(why)
	}
}
