// Package client connects phonectl, and anybody else who wants one agent's API, to an agent: through its Unix socket, its
// TLS door, or a hub. It owns the connections and the words that tell a person why one could not be made and which command
// mends it; it knows no RPC.
//
// A Client is safe for concurrent use. Its goroutines belong to the connections it made and have ended when Close returns.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/tunnel"
)

// DefaultHost is where phonehostd listens unless its configuration says otherwise.
const DefaultHost = "unix:///run/phonehost/phonehostd.sock"

// Options says which agent to reach, and how.
type Options struct {
	// Host is "unix:///path" or "tls://host:port"; empty means DefaultHost, unless Hub is set.
	Host string
	// Hub is host:port of a hub that knows the agent named Agent. Host must be empty then.
	Hub string
	// Agent is the NAME in the agent's certificate. Needed with Hub; with tls:// it is the NAME that the agent must have,
	// and empty means any.
	Agent string
	// Cert, Key and CA are PEM files: this client's certificate and key, and the authority that both sides trust. Needed
	// for tls:// and Hub.
	Cert, Key, CA string
	// Logger is told of what goes wrong with sessions; nil means nobody is.
	Logger *slog.Logger
}

// Client is a way to one agent.
type Client struct {
	control *grpc.ClientConn
	media   *grpc.ClientConn
	below   func() error // closes what lies below the connections
}

// Dial connects to an agent and returns when its control side answers. Errors are of class errdefs.ErrInvalidArgument for
// options that make no sense, errdefs.ErrNotFound for a socket or an agent that does not exist, errdefs.ErrPermissionDenied
// where this user or certificate is refused, else errdefs.ErrUnavailable; they end with what mends them where that is known.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if o.Hub != "" && o.Host != "" {
		return nil, fmt.Errorf("host %s and hub %s: give one of the two: %w", o.Host, o.Hub, errdefs.ErrInvalidArgument)
	}
	if o.Hub != "" {
		return dialHub(ctx, o)
	}
	if o.Host == "" {
		o.Host = DefaultHost
	}
	if path, ok := strings.CutPrefix(o.Host, "unix://"); ok {
		return dialUnix(ctx, path)
	}
	if addr, ok := strings.CutPrefix(o.Host, "tls://"); ok {
		return dialTLS(ctx, addr, o)
	}
	return nil, fmt.Errorf("host %q: want unix:///path or tls://host:port: %w", o.Host, errdefs.ErrInvalidArgument)
}

// newClient makes a Client of two connections; when one cannot be made, what lies below is closed.
func newClient(connect func(tunnel.Kind) (*grpc.ClientConn, error), below func() error) (*Client, error) {
	control, err := connect(tunnel.Control)
	if err != nil {
		return nil, errors.Join(err, below())
	}
	media, err := connect(tunnel.Media)
	if err != nil {
		return nil, errors.Join(err, control.Close(), below())
	}
	return &Client{control: control, media: media, below: below}, nil
}

// Control returns the connection for commands and input.
func (c *Client) Control() grpc.ClientConnInterface { return c.control }

// Media returns the connection for video and files: a TCP connection of its own where there is TCP, made at its first use,
// so that bulk never holds up what goes over Control.
func (c *Client) Media() grpc.ClientConnInterface { return c.media }

// Close ends both connections and what they ran on.
func (c *Client) Close() error {
	return errors.Join(c.control.Close(), c.media.Close(), c.below())
}
