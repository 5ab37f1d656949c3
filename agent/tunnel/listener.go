package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"

	"github.com/phonehost/phonehost/agent/access"
)

// ListenerConfig says what a Listener serves.
type ListenerConfig struct {
	// Certificates is what this side shows and trusts.
	Certificates *Certificates
	// Serves maps each kind of session that is served to the kind of peer that it takes.
	Serves map[Kind]access.Kind
	// Deliver takes the streams that peers open in sessions of a kind, from one goroutine for each session; it must not
	// block beyond the end of the stream's session. Peers may open no streams in sessions of kinds that have none.
	Deliver map[Kind]func(*Stream)
	// Admit, if set, may refuse a peer whose certificate is good: its error is told to the peer.
	Admit func(SessionInfo) error
	// Opened, if set, gets every session when it is established. The session is the Listener's: use it, Drain it, and let
	// go of it at Closed; do not Close it.
	Opened func(*Session)
	// Closed, if set, is called when a session that Opened got has ended.
	Closed func(*Session)
	// Limits bounds what peers can take; the zero value means the defaults.
	Limits Limits
	// Timing holds the times; the zero value means the defaults.
	Timing Timing
	// Observer is told what happens.
	Observer Observer
	// Logger is told too; nil means nobody is.
	Logger *slog.Logger
}

// Listener accepts sessions on TCP ports. It is safe for concurrent use; several ports share its limits.
type Listener struct {
	config    ListenerConfig
	tls       *tls.Config
	protocols []string
	admission *admission
	refusals  *refusalLog
}

// doorListen is the Door of sessions that a Listener accepted.
const doorListen = "listen"

// NewListener checks the configuration. The error is of class errdefs.ErrInvalidArgument.
func NewListener(c ListenerConfig) (*Listener, error) {
	if c.Certificates == nil {
		return nil, fmt.Errorf("listener: no certificates: %w", errdefs.ErrInvalidArgument)
	}
	if len(c.Serves) == 0 {
		return nil, fmt.Errorf("listener: serves no kind of session: %w", errdefs.ErrInvalidArgument)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Limits, c.Timing = c.Limits.WithDefaults(), c.Timing.WithDefaults()
	return &Listener{
		config:    c,
		tls:       serverConfig(c.Certificates, c.Serves),
		protocols: protocols(c.Serves),
		admission: newAdmission(c.Limits),
		refusals:  newRefusalLog(c.Logger),
	}, nil
}

// Serve accepts sessions on a port until ctx is done. Then it stops accepting, drains all sessions, waits up to Timing.Drain
// for their streams, closes them and returns nil. It returns earlier only if the port breaks, with every session closed.
// It closes the port.
func (l *Listener) Serve(ctx context.Context, port net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = port.Close() })
	defer stop()
	var peers sync.WaitGroup
	err := l.acceptLoop(ctx, port, &peers)
	cancel()
	_ = port.Close()
	peers.Wait()
	return err
}

// acceptLoop returns nil when ctx is done, else why the port is of no more use.
func (l *Listener) acceptLoop(ctx context.Context, port net.Listener, peers *sync.WaitGroup) error {
	for delay := time.Duration(0); ; {
		conn, err := port.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case err == nil:
			delay = 0
			// Counted here, so that a flood costs no goroutines.
			begun, ok := l.admission.beginHandshake(conn.RemoteAddr())
			if !ok {
				l.refuse(conn, &refusedError{reason: ReasonTooManyStarting, err: errors.New("too many handshakes at a time")})
				_ = conn.Close()
				continue
			}
			peers.Go(func() { l.admit(ctx, conn, begun) })
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %s: %w", port.Addr(), err)
		default:
			// No descriptors, no memory: that passes, and closing the door would not mend it.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			l.config.Logger.Error("accept", "addr", port.Addr().String(), "err", err, "retry", delay)
			sleep(ctx, delay)
		}
	}
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// admit owns one TCP connection from its first byte to its end. It calls shaken when the handshake is over.
func (l *Listener) admit(ctx context.Context, raw net.Conn, shaken func()) {
	defer func() { _ = raw.Close() }() // usually closed by then
	defer shaken()
	session, leave, err := l.handshake(ctx, raw)
	if err != nil {
		if r, ok := errors.AsType[*refusedError](err); ok && ctx.Err() == nil {
			l.refuse(raw, r)
		}
		return
	}
	shaken()
	defer leave()
	l.own(ctx, session)
}

func (l *Listener) refuse(raw net.Conn, r *refusedError) {
	refusal := Refusal{Door: doorListen, Source: raw.RemoteAddr().String(), Reason: r.reason, Identity: r.identity, Err: r.err}
	l.refusals.write(refusal)
	l.config.Observer.refused(refusal)
}

// handshake makes a session of a TCP connection; leave gives its place among the identity's sessions back.
func (l *Listener) handshake(ctx context.Context, raw net.Conn) (s *Session, leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, l.config.Timing.Handshake)
	defer cancel()
	if err := tuneTCP(raw, l.config.Timing.KeepAlive+l.config.Timing.Timeout); err != nil {
		return nil, nil, &refusedError{reason: ReasonIncomplete, err: err}
	}
	var hello atomic.Pointer[tls.ClientHelloInfo]
	conn := tls.Server(raw, l.tls)
	if err := conn.HandshakeContext(withHello(ctx, &hello)); err != nil {
		return nil, nil, classify(err, hello.Load(), l.protocols)
	}
	kind, _ := kindOf(conn.ConnectionState().NegotiatedProtocol, l.config.Serves) // VerifyConnection has seen that it is one
	if err := boundUnsent(raw, kind.notSent()); err != nil {
		return nil, nil, &refusedError{reason: ReasonIncomplete, err: err}
	}
	info := sessionInfo(conn, doorListen, kind)
	wire := newWireConn(conn, raw, l.config.Timing.Timeout)
	mux, err := yamux.Server(wire, muxConfig(kind, l.config.Timing, l.config.Logger))
	if err != nil {
		return nil, nil, fmt.Errorf("start yamux: %w", err)
	}
	leave, refused := l.reserve(info)
	first := notice{kind: noticeWelcome}
	if refused != nil {
		first = notice{noticeRefused, refused.Error()}
	}
	notices, err := greet(ctx, mux, first)
	switch {
	case refused != nil:
		_ = mux.Close()
		return nil, nil, refused
	case err != nil:
		_ = mux.Close()
		leave()
		return nil, nil, &refusedError{reason: ReasonIncomplete, identity: info.Identity, err: err}
	}
	return l.newSession(info, wire, mux, notices), leave, nil
}

func (l *Listener) newSession(info SessionInfo, wire *wireConn, mux *yamux.Session, notices *yamux.Stream) *Session {
	limit, deliver := 0, l.config.Deliver[info.Kind]
	if deliver != nil {
		limit = l.config.Limits.StreamsPerSession
	} else {
		deliver = func(*Stream) {}
	}
	return newSession(info, wire, mux, notices, limit, deliver, l.config.Logger)
}

// reserve finds out whether a peer may come in, and counts it if so.
func (l *Listener) reserve(info SessionInfo) (leave func(), refused *refusedError) {
	if l.config.Admit != nil {
		if err := l.config.Admit(info); err != nil {
			return nil, &refusedError{reason: ReasonNotAllowed, identity: info.Identity, err: err}
		}
	}
	leave, ok := l.admission.beginSession(info.Identity)
	if !ok {
		return nil, &refusedError{reason: ReasonTooManySessions, identity: info.Identity,
			err: fmt.Errorf("%s has %d sessions, which is the limit", info.Identity, l.config.Limits.SessionsPerIdentity)}
	}
	return leave, nil
}

// greet opens the notice stream and says the first word. A peer that is refused gets time to read it.
func greet(ctx context.Context, mux *yamux.Session, first notice) (*yamux.Stream, error) {
	notices, err := mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("open the notice stream: %w", err)
	}
	if _, err := notices.Write(first.encode()); err != nil {
		return nil, fmt.Errorf("welcome: %w", err)
	}
	if first.kind != noticeRefused {
		return notices, nil
	}
	ctx, cancel := context.WithTimeout(ctx, refusedWait)
	defer cancel()
	select {
	case <-mux.CloseChan():
	case <-ctx.Done():
	}
	return notices, nil
}

// refusedWait is how long a refused peer has to read why.
const refusedWait = 2 * time.Second

// own keeps a session until it ends, drains, or ctx is done; and no longer than the peer's certificate is good.
func (l *Listener) own(ctx context.Context, s *Session) {
	s.logger.Info("session opened")
	l.config.Observer.opened(s.info)
	if l.config.Opened != nil {
		l.config.Opened(s)
	}
	keep(ctx, s, l.config.Timing.Drain)
	if l.config.Closed != nil {
		l.config.Closed(s)
	}
	s.logger.Info("session closed", "cause", s.Cause())
	l.config.Observer.closed(s.info, s.Cause())
}

// link is what owners of a session need of it; *Session is one.
type link interface {
	Info() SessionInfo
	Done() <-chan struct{}
	Draining() <-chan struct{}
	DrainCause() string
	Drain(why string)
	Shutdown(ctx context.Context, why string)
	Cause() error
}

// keep waits until a session ends; when it drains, when ctx is done or when the peer's certificate expires, it gives the
// streams the time drain and closes the session.
func keep(ctx context.Context, s link, drain time.Duration) {
	info := s.Info()
	expiry := time.NewTimer(time.Until(info.PeerExpires))
	defer expiry.Stop()
	why := ""
	select {
	case <-s.Done():
	case <-s.Draining():
		why = s.DrainCause()
	case <-ctx.Done():
		why = "the other side is shutting down"
	case <-expiry.C:
		why = "the certificate of " + info.Identity.String() + " has expired"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	s.Shutdown(ctx, why)
}
