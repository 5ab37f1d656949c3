package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"

	"github.com/phonehost/phonehost/agent/access"
)

// DialConfig says how a session is dialed.
type DialConfig struct {
	// Certificates is what this side shows and trusts.
	Certificates *Certificates
	// Kind is what the session is for.
	Kind Kind
	// Peer is the identity that is expected: its Kind, and its Name unless that is empty.
	Peer access.Identity
	// Timing holds the times; the zero value means the defaults.
	Timing Timing
	// Streams takes the streams that the peer opens; nil forbids the peer to open any.
	Streams *Streams
	// Limits bounds the streams that the peer opens.
	Limits Limits
	// Logger is told about the session; nil means nobody is.
	Logger *slog.Logger
}

// Dial connects to host:port and returns when the other side has let this one in. Errors are of class
// errdefs.ErrPermissionDenied when one side refuses the other (RefusalReason says why where this side refuses), else
// errdefs.ErrUnavailable.
func Dial(ctx context.Context, addr string, c DialConfig) (*Session, error) {
	c.Timing, c.Limits = c.Timing.WithDefaults(), c.Limits.WithDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timing.Handshake)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w: %w", addr, err, errdefs.ErrUnavailable)
	}
	session, err := c.establish(ctx, raw, addr)
	if err != nil {
		_ = raw.Close() // the error at hand says more
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return session, nil
}

// establish makes a session of a TCP connection.
func (c DialConfig) establish(ctx context.Context, raw net.Conn, addr string) (*Session, error) {
	if err := tuneTCP(raw, c.Timing.KeepAlive+c.Timing.Timeout); err != nil {
		return nil, fmt.Errorf("set tcp options: %w: %w", err, errdefs.ErrUnavailable)
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	m := c.Certificates.current()
	conn := tls.Client(raw, m.clientConfig(host, c.Kind, expectation{usage: x509.ExtKeyUsageServerAuth, kind: c.Peer.Kind, name: c.Peer.Name}))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, dialError(err, m.identity)
	}
	if err := boundUnsent(raw, c.Kind.notSent()); err != nil {
		return nil, fmt.Errorf("set tcp options: %w: %w", err, errdefs.ErrUnavailable)
	}
	info := sessionInfo(conn, "dial:"+addr, c.Kind)
	wire := newWireConn(conn, raw, c.Timing.Timeout)
	mux, err := yamux.Client(wire, muxConfig(c.Kind, c.Timing, c.Logger))
	if err != nil {
		return nil, fmt.Errorf("start yamux: %w", err)
	}
	notices, err := awaitWelcome(ctx, mux)
	if err != nil {
		_ = mux.Close()
		return nil, dialError(err, m.identity)
	}
	limit, deliver := 0, func(*Stream) {}
	if c.Streams != nil {
		limit, deliver = c.Limits.StreamsPerSession, c.Streams.deliver
	}
	return newSession(info, wire, mux, notices, limit, deliver, c.Logger), nil
}

// awaitWelcome accepts the notice stream and reads the accepting side's first word. With TLS 1.3 this is also where this
// side learns that its certificate was refused.
func awaitWelcome(ctx context.Context, mux *yamux.Session) (*yamux.Stream, error) {
	notices, err := mux.AcceptStreamWithContext(ctx)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = notices.SetReadDeadline(deadline) // never fails
	}
	stop := context.AfterFunc(ctx, func() { _ = notices.SetReadDeadline(time.Unix(1, 0)) })
	first, err := readNotice(notices)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	switch first.kind {
	case noticeWelcome:
		return notices, notices.SetReadDeadline(time.Time{})
	case noticeRefused:
		return nil, refuse(ReasonPeerRefused, access.Identity{}, "the other side refuses: %s", first.text)
	default:
		return nil, fmt.Errorf("first notice is of type %d: %w", first.kind, errdefs.ErrInvalidArgument)
	}
}

// dialError words the error of a dial for whom it concerns and gives it its class.
func dialError(err error, self access.Identity) error {
	if r, ok := errors.AsType[*refusedError](err); ok {
		return fmt.Errorf("%w: %w", r, errdefs.ErrPermissionDenied)
	}
	r := classify(err, nil, nil)
	switch r.reason {
	case ReasonPeerRefused:
		r.err = fmt.Errorf("the other side refuses the certificate of %s (its log says why): %w", self, err)
	case ReasonNotTLS:
		r.err = fmt.Errorf("the other side does not speak TLS: %w", err)
	case ReasonTimeout, ReasonIncomplete, ReasonHandshake:
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", r, errdefs.ErrPermissionDenied)
}

// sessionInfo describes the session on a connection whose peer has been verified.
func sessionInfo(conn *tls.Conn, door string, kind Kind) SessionInfo {
	leaf := conn.ConnectionState().PeerCertificates[0]
	id, _ := access.FromCertificate(leaf) // verifyPeer has seen that it has one
	return SessionInfo{
		Door: door, Kind: kind, Identity: id, Remote: conn.RemoteAddr().String(),
		Since: time.Now(), PeerExpires: leaf.NotAfter,
	}
}
