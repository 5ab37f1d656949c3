package controlplane

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// Dial connects to an agent that listens at host:port, with a control session; a media session follows when one is needed.
// Errors are of class errdefs.ErrPermissionDenied when one side refuses the other, errdefs.ErrInvalidArgument for a Config
// that cannot work, else errdefs.ErrUnavailable.
func Dial(ctx context.Context, addr string, c Config) (*Agent, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("dial agent %s: %w", addr, err)
	}
	life, end := context.WithCancel(context.Background())
	d := &dialed{
		config: c, addr: addr, life: life, end: end, name: c.Name,
		open: map[tunnel.Kind]*tunnel.Session{}, busy: map[tunnel.Kind]chan struct{}{},
	}
	s, err := d.session(ctx, tunnel.Control)
	if err != nil {
		end()
		return nil, err
	}
	// From now on only the same agent will do.
	d.mu.Lock()
	d.name = s.Info().Identity.Name
	d.mu.Unlock()
	return &Agent{name: s.Info().Identity.Name, sessions: d}, nil
}

// dialed keeps the sessions of an agent that this side dials.
type dialed struct {
	config Config
	addr   string
	life   context.Context // of the sessions that drain; it ends with close
	end    context.CancelFunc

	mu     sync.Mutex
	name   string // the agent that is expected
	open   map[tunnel.Kind]*tunnel.Session
	busy   map[tunnel.Kind]chan struct{} // closed when the dial of a kind is over
	closed bool
	olds   sync.WaitGroup // sessions that drain
}

// session returns the open session of a kind, or dials one; at a time there is one dial for each kind.
func (d *dialed) session(ctx context.Context, kind tunnel.Kind) (*tunnel.Session, error) {
	for {
		s, wait, err := d.look(kind)
		if s != nil || err != nil {
			return s, err
		}
		if wait == nil {
			return d.dial(ctx, kind)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, fmt.Errorf("dial agent %s: %w: %w", d.addr, ctx.Err(), errdefs.ErrUnavailable)
		}
	}
}

// look returns an open session, or what to wait for, or neither: then the caller must dial.
func (d *dialed) look(kind tunnel.Kind) (*tunnel.Session, <-chan struct{}, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, nil, fmt.Errorf("dial agent %s: %w", d.addr, tunnel.ErrClosed)
	}
	if s := d.open[kind]; s != nil && s.Usable() {
		return s, nil, nil
	}
	if wait := d.busy[kind]; wait != nil {
		return nil, wait, nil
	}
	d.busy[kind] = make(chan struct{})
	return nil, nil, nil
}

// dial makes a session and puts it in the place of the last one. look has marked the kind as busy.
func (d *dialed) dial(ctx context.Context, kind tunnel.Kind) (*tunnel.Session, error) {
	d.mu.Lock()
	name := d.name
	d.mu.Unlock()
	s, err := tunnel.Dial(ctx, d.addr, tunnel.DialConfig{
		Certificates: d.config.Certificates,
		Kind:         kind,
		Peer:         access.Identity{Kind: access.KindAgent, Name: name},
		Timing:       d.config.Timing,
		Logger:       d.config.Logger,
	})
	if putErr := d.put(kind, s); err == nil {
		err = putErr
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// put ends the dial of a kind with the session that came of it, or nil. A session that comes after close is closed.
func (d *dialed) put(kind tunnel.Kind, s *tunnel.Session) error {
	d.mu.Lock()
	close(d.busy[kind])
	delete(d.busy, kind)
	closed := d.closed
	if s != nil && !closed {
		if old := d.open[kind]; old != nil {
			d.retire(old)
		}
		d.open[kind] = s
	}
	d.mu.Unlock()
	if s != nil && closed {
		s.Close()
		return fmt.Errorf("dial agent %s: %w", d.addr, tunnel.ErrClosed)
	}
	return nil
}

// retire lets a session that drains, or has ended, go to its end. mu is held.
func (d *dialed) retire(s *tunnel.Session) {
	d.olds.Go(func() {
		ctx, cancel := context.WithTimeout(d.life, d.config.Timing.WithDefaults().Drain)
		defer cancel()
		s.Shutdown(ctx, "replaced by a newer session")
	})
}

func (d *dialed) close(ctx context.Context, why string) {
	d.mu.Lock()
	d.closed = true
	open := d.open
	d.open = map[tunnel.Kind]*tunnel.Session{}
	d.mu.Unlock()
	stop := context.AfterFunc(ctx, d.end)
	defer stop()
	var all sync.WaitGroup
	for _, s := range open {
		all.Go(func() { s.Shutdown(ctx, why) })
	}
	all.Wait()
	d.olds.Wait()
	d.end()
}
