package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
)

// DoorConfig says how an agent listens.
type DoorConfig struct {
	// Certificates is what the agent shows and trusts; it must carry an agent's identity.
	Certificates *Certificates
	// Streams takes what clients open.
	Streams *Streams
	// Limits bounds what peers can take; the zero value means the defaults.
	Limits Limits
	// Timing holds the times; the zero value means the defaults.
	Timing Timing
	// Observer is told what happens.
	Observer Observer
	// Logger is told too; nil means nobody is.
	Logger *slog.Logger
}

// Door is where an agent listens for clients: control and media sessions of certified clients, and of nobody else.
type Door struct{ listener *Listener }

// NewDoor checks the configuration. The error is of class errdefs.ErrInvalidArgument.
func NewDoor(c DoorConfig) (*Door, error) {
	if c.Streams == nil {
		return nil, fmt.Errorf("door: no streams: %w", errdefs.ErrInvalidArgument)
	}
	if err := needAgent(c.Certificates); err != nil {
		return nil, fmt.Errorf("door: %w", err)
	}
	listener, err := NewListener(ListenerConfig{
		Certificates: c.Certificates,
		Serves:       map[Kind]access.Kind{Control: access.KindClient, Media: access.KindClient},
		Deliver:      map[Kind]func(*Stream){Control: c.Streams.deliver, Media: c.Streams.deliver},
		Limits:       c.Limits,
		Timing:       c.Timing,
		Observer:     c.Observer,
		Logger:       c.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("door: %w", err)
	}
	return &Door{listener: listener}, nil
}

// Serve is Listener.Serve: it accepts clients until ctx is done, then drains and closes what they have.
func (d *Door) Serve(ctx context.Context, port net.Listener) error {
	return d.listener.Serve(ctx, port)
}

// needAgent tells whether certificates can be an agent's.
func needAgent(c *Certificates) error {
	if c == nil {
		return fmt.Errorf("no certificates: %w", errdefs.ErrInvalidArgument)
	}
	if id := c.Identity(); id.Kind != access.KindAgent {
		return fmt.Errorf("certificate %s is of %s, an agent needs one of phonehost://agent/NAME: %w", c.files.Cert, id, errdefs.ErrInvalidArgument)
	}
	return nil
}
