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
	close   func() error // what lies below the connections
}

// Dial connects to an agent and returns when its control side answers. Errors are of class errdefs.ErrInvalidArgument for
// options that make no sense, errdefs.ErrNotFound for a socket or an agent that does not exist, errdefs.ErrPermissionDenied
// where this user or certificate is refused, else errdefs.ErrUnavailable; they end with what mends them where that is known.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if o.Hub != "" && o.Host != "" {
		return nil, fmt.Errorf("host %s and hub %s: give one of the two: %w", o.Host, o.Hub, errdefs.ErrInvalidArgument)
	}
	if o.Host == "" {
		o.Host = DefaultHost
	}
	switch {
	case strings.HasPrefix(o.Host, "unix://"):
		return dialUnix(ctx, strings.TrimPrefix(o.Host, "unix://"))
	default:
		return nil, fmt.Errorf("host %q: want unix:///path or tls://host:port: %w", o.Host, errdefs.ErrInvalidArgument)
	}
}

// Control returns the connection for commands and input.
func (c *Client) Control() grpc.ClientConnInterface { return c.control }

// Media returns the connection for video and files: a TCP connection of its own where there is TCP, made at its first use,
// so that bulk never holds up what goes over Control.
func (c *Client) Media() grpc.ClientConnInterface { return c.media }

// Close ends both connections and what they ran on.
func (c *Client) Close() error {
	err := errors.Join(c.control.Close(), c.media.Close())
	if c.close != nil {
		err = errors.Join(err, c.close())
	}
	return err
}
