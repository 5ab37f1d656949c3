package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
)

// DialOutConfig says which control planes an agent dials.
type DialOutConfig struct {
	// Addresses are the control planes, each host:port; a session of each kind is kept to every one of them.
	Addresses []string
	// Name is the NAME that every control plane's certificate must have; empty means any client.
	Name string
	// Certificates is what the agent shows and trusts; it must carry an agent's identity.
	Certificates *Certificates
	// Streams takes what the control planes open.
	Streams *Streams
	// Limits bounds the streams that a control plane may open; the zero value means the defaults.
	Limits Limits
	// Timing holds the times; the zero value means the defaults.
	Timing Timing
	// Observer is told what happens.
	Observer Observer
	// Logger is told too; nil means nobody is.
	Logger *slog.Logger
}

// DialOut keeps an agent connected to its control planes: to each address one control and one media session, dialed again
// with back-off when they are lost, and renewed, the new one first, when the certificate files have changed.
type DialOut struct{ config DialOutConfig }

// NewDialOut checks the configuration. The error is of class errdefs.ErrInvalidArgument.
func NewDialOut(c DialOutConfig) (*DialOut, error) {
	if c.Streams == nil {
		return nil, fmt.Errorf("dial-out: no streams: %w", errdefs.ErrInvalidArgument)
	}
	if err := needAgent(c.Certificates); err != nil {
		return nil, fmt.Errorf("dial-out: %w", err)
	}
	if len(c.Addresses) == 0 {
		return nil, fmt.Errorf("dial-out: no addresses: %w", errdefs.ErrInvalidArgument)
	}
	for _, addr := range c.Addresses {
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			return nil, fmt.Errorf("dial-out: address %q: want host:port: %w", addr, errdefs.ErrInvalidArgument)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Timing, c.Limits = c.Timing.WithDefaults(), c.Limits.WithDefaults()
	return &DialOut{config: c}, nil
}

// Run keeps the sessions until ctx is done, then drains them, waits up to Timing.Drain for their streams, closes them and
// returns nil.
func (d *DialOut) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, addr := range d.config.Addresses {
		for _, kind := range []Kind{Control, Media} {
			s := supervisor{
				dial:     func(ctx context.Context) (link, error) { return d.dial(ctx, addr, kind) },
				leaf:     d.config.Certificates.Leaf,
				drain:    d.config.Timing.Drain,
				observer: d.config.Observer,
				logger:   d.config.Logger.With("door", "dial:"+addr, "kind", string(kind)),
				failed:   func(err error, retry time.Duration) { d.failed(addr, kind, err, retry) },
			}
			all.Go(func() { s.run(ctx) })
		}
	}
	all.Wait()
	return nil
}

func (d *DialOut) dial(ctx context.Context, addr string, kind Kind) (link, error) {
	return asLink(Dial(ctx, addr, DialConfig{
		Certificates: d.config.Certificates,
		Kind:         kind,
		Peer:         access.Identity{Kind: access.KindClient, Name: d.config.Name},
		Timing:       d.config.Timing,
		Limits:       d.config.Limits,
		Streams:      d.config.Streams,
		Logger:       d.config.Logger,
	}))
}

// asLink keeps a nil *Session from becoming a link that is not nil.
func asLink(s *Session, err error) (link, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// failed tells of a dial that did not become a session.
func (d *DialOut) failed(addr string, kind Kind, err error, retry time.Duration) {
	d.config.Logger.Warn("dial control plane", "addr", addr, "kind", string(kind), "err", err, "retry", retry)
	if r, ok := errors.AsType[*refusedError](err); ok {
		d.config.Observer.refused(Refusal{Door: "dial:" + addr, Source: addr, Reason: r.reason, Identity: r.identity, Err: err})
	}
	d.config.Observer.dialFailed(addr, kind, err, retry)
}
