package hub

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// ClientConfig says how a hub is reached.
type ClientConfig struct {
	// Certificates is what this side shows and trusts; its identity must be a client's.
	Certificates *tunnel.Certificates
	// Name is the NAME that the hub's certificate must have; empty means any client.
	Name string
	// Timing holds the times of the session; the zero value means the defaults.
	Timing tunnel.Timing
	// Logger is told about the session; nil means nobody is.
	Logger *slog.Logger
}

// Client is a session with a hub. It is safe for concurrent use.
type Client struct{ session *tunnel.Session }

// Dial connects to the hub at host:port. Errors are those of tunnel.Dial.
func Dial(ctx context.Context, addr string, c ClientConfig) (*Client, error) {
	s, err := tunnel.Dial(ctx, addr, tunnel.DialConfig{
		Certificates: c.Certificates,
		Kind:         tunnel.Hub,
		Peer:         access.Identity{Kind: access.KindClient, Name: c.Name},
		Timing:       c.Timing,
		Logger:       c.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	return &Client{session: s}, nil
}

// Open returns a stream to the named agent's session of a kind. Errors are of class errdefs.ErrNotFound for an agent that
// the hub does not know, with those that it knows, else errdefs.ErrUnavailable.
func (c *Client) Open(ctx context.Context, agent string, kind tunnel.Kind) (net.Conn, error) {
	stream, _, err := c.ask(ctx, request{Agent: agent, Kind: kind})
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	return stream, nil
}

// Agents returns the agents that are connected to the hub, ordered by name.
func (c *Client) Agents(ctx context.Context) ([]Agent, error) {
	stream, resp, err := c.ask(ctx, request{List: true})
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	return resp.Agents, stream.Close()
}

// ask sends a request on a new stream and reads the answer.
func (c *Client) ask(ctx context.Context, req request) (_ *tunnel.Stream, resp response, err error) {
	stream, err := c.session.Open()
	if err != nil {
		return nil, response{}, err
	}
	defer func() {
		if err != nil {
			_ = stream.Close()
		}
	}()
	deadline := time.Now().Add(headerTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := stream.SetDeadline(deadline); err != nil {
		return nil, response{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writeRequest(stream, req); err != nil {
		return nil, response{}, fmt.Errorf("ask: %w: %w", err, errdefs.ErrUnavailable)
	}
	if err := readFrame(stream, maxResponse, &resp); err != nil {
		return nil, response{}, fmt.Errorf("answer: %w: %w", err, errdefs.ErrUnavailable)
	}
	if err := resp.err(); err != nil {
		return nil, response{}, err
	}
	if !stop() {
		return nil, response{}, ctx.Err()
	}
	return stream, resp, stream.SetDeadline(time.Time{})
}

// Usable reports whether streams can be opened: the session is open and does not drain.
func (c *Client) Usable() bool { return c.session.Usable() }

// Close ends the session and everything that runs over it.
func (c *Client) Close() error {
	c.session.Close()
	return nil
}
