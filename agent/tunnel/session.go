package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"
)

// The causes with which this side ends sessions; all are of class errdefs.ErrUnavailable.
var (
	// ErrDraining is the error of Open while a session is about to be closed.
	ErrDraining = fmt.Errorf("session is draining: %w", errdefs.ErrUnavailable)
	// ErrClosed is the cause of a session that this side has closed.
	ErrClosed = fmt.Errorf("session is closed: %w", errdefs.ErrUnavailable)
	// ErrUnresponsive is the cause of a session whose peer answers no probe or takes no bytes.
	ErrUnresponsive = fmt.Errorf("the peer does not respond: %w", errdefs.ErrUnavailable)
	// ErrAbuse is the cause of a session whose peer opened streams that it must not open.
	ErrAbuse = fmt.Errorf("the peer opened more streams than it may: %w", errdefs.ErrUnavailable)
)

// Session is one TCP connection with TLS and yamux on it. Whoever got it from Dial or Listener must Close it, unless it
// belongs to a Listener's Serve function, whose Listener does. It is safe for concurrent use.
type Session struct {
	info    SessionInfo
	limit   int // streams that the peer may have open; 0 for none
	deliver func(*Stream)
	mux     *yamux.Session
	conn    *wireConn
	notices *yamux.Stream
	logger  *slog.Logger
	done    chan struct{} // closed by acceptStreams when cause is final

	draining  chan struct{} // closed when a drain notice came or went
	drainOnce sync.Once
	loops     sync.WaitGroup

	mu         sync.Mutex
	streams    map[*Stream]func() // open here, by either side; what to call when the session drains, or nil
	accepted   int                // of them, those that the peer opened
	idle       chan struct{}      // closed when streams becomes empty while somebody waits for it
	cause      error              // why the session ended
	drainCause string             // why the session drains
}

// acceptBacklog is how many streams may wait to be accepted; yamux resets what comes beyond.
const acceptBacklog = 64

// muxConfig returns yamux's settings for a session.
func muxConfig(kind Kind, t Timing, logger *slog.Logger) *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          acceptBacklog,
		EnableKeepAlive:        true,
		KeepAliveInterval:      t.KeepAlive,
		ConnectionWriteTimeout: t.Timeout,
		MaxStreamWindowSize:    kind.window(),
		StreamOpenTimeout:      t.OpenTimeout,
		StreamCloseTimeout:     30 * time.Second,
		Logger:                 muxLogger{logger},
	}
}

// newSession starts the session's own loops on a yamux session whose notice stream is open. deliver takes every stream that
// the peer opens, limit at a time, from one goroutine; it must not block beyond the end of the session. A limit of 0 forbids
// the peer to open any.
func newSession(info SessionInfo, conn *wireConn, mux *yamux.Session, notices *yamux.Stream, limit int, deliver func(*Stream), logger *slog.Logger) *Session {
	s := &Session{
		info: info, limit: limit, deliver: deliver, mux: mux, conn: conn, notices: notices,
		logger:   logger.With("door", info.Door, "identity", info.Identity.String(), "kind", string(info.Kind), "remote", info.Remote),
		done:     make(chan struct{}),
		draining: make(chan struct{}),
		streams:  map[*Stream]func(){},
	}
	s.loops.Go(s.acceptStreams)
	s.loops.Go(s.readNotices)
	return s
}

// Info describes the session.
func (s *Session) Info() SessionInfo { return s.info }

// Done is closed when the session has ended; Cause tells why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Draining is closed when either side has announced that the session will be closed.
func (s *Session) Draining() <-chan struct{} { return s.draining }

// Usable reports whether streams can be opened: the session is open and does not drain.
func (s *Session) Usable() bool {
	return !s.isDraining() && !s.mux.IsClosed()
}

func (s *Session) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// DrainCause returns what the drain notice said; "" before there was one.
func (s *Session) DrainCause() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drainCause
}

// Cause returns why the session ended, or nil while it is open. It is of class errdefs.ErrUnavailable.
func (s *Session) Cause() error {
	select {
	case <-s.done:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.cause
	default:
		return nil
	}
}

// Open opens a stream; the peer accepts it within Timing.OpenTimeout or the session ends. Errors are of class
// errdefs.ErrUnavailable.
func (s *Session) Open() (*Stream, error) {
	if s.isDraining() {
		return nil, fmt.Errorf("open a stream to %s: %w", s.info.Identity, ErrDraining)
	}
	stream, err := s.mux.OpenStream()
	if err != nil {
		if errors.Is(err, yamux.ErrConnectionWriteTimeout) {
			s.fail(err)
		}
		return nil, fmt.Errorf("open a stream to %s: %w: %w", s.info.Identity, err, errdefs.ErrUnavailable)
	}
	return s.enter(stream, false), nil
}

// acceptStreams takes the streams that the peer opens until the session ends, and records why it ended.
func (s *Session) acceptStreams() {
	defer close(s.done)
	var warned time.Time
	for {
		stream, err := s.mux.AcceptStream()
		if err != nil {
			s.fail(s.muxCause(err))
			return
		}
		if st := s.enter(stream, true); st != nil {
			s.deliver(st)
			continue
		}
		_ = stream.Close() // the peer sees the end of the stream, and the notice
		if s.mux.NumStreams() > 2*s.limit+1 {
			s.fail(ErrAbuse)
			continue
		}
		if now := time.Now(); now.Sub(warned) > time.Second {
			warned = now
			s.logger.Warn("stream refused: too many are open", "limit", s.limit)
			s.send(notice{noticeStreamLimit, fmt.Sprintf("%d streams are open, which is the limit", s.limit)})
		}
	}
}

// muxCause returns why yamux ended. AcceptStream tells it, once the streams that still wait there are through.
func (s *Session) muxCause(err error) error {
	for i := 0; i <= acceptBacklog && errors.Is(err, yamux.ErrSessionShutdown); i++ {
		_, err = s.mux.AcceptStream()
	}
	return err
}

// enter registers a stream; it returns nil for one that the peer opened beyond its limit.
func (s *Session) enter(stream *yamux.Stream, accepted bool) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if accepted && s.accepted >= s.limit {
		return nil
	}
	st := &Stream{session: s, stream: stream, accepted: accepted}
	if accepted {
		s.accepted++
	}
	s.streams[st] = nil
	return st
}

// leave forgets a stream that was closed.
func (s *Session) leave(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	if st.accepted {
		s.accepted--
	}
	if len(s.streams) == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// left tells whether a stream has been closed.
func (s *Session) left(st *Stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, open := s.streams[st]
	return !open
}

// whenIdle returns a channel that is closed when no stream is open.
func (s *Session) whenIdle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	return s.idle
}

// Drain tells the peer that the session will be closed, and why. The session goes on; Open is refused from now on.
func (s *Session) Drain(why string) { s.drain(why, true) }

// drain marks the session, once. The peer is told first: whoever waits for Draining may close the session at once.
func (s *Session) drain(why string, tell bool) {
	s.drainOnce.Do(func() {
		if tell {
			s.send(notice{noticeDrain, why})
		}
		s.mu.Lock()
		s.drainCause = why
		close(s.draining)
		hooks := slices.Collect(maps.Values(s.streams))
		s.mu.Unlock()
		for _, hook := range hooks {
			if hook != nil {
				hook()
			}
		}
	})
}

// afterDrain calls hook when the session drains, at once if it does already, unless the stream has been closed by then.
func (s *Session) afterDrain(st *Stream, hook func()) {
	s.mu.Lock()
	_, open := s.streams[st]
	if open {
		s.streams[st] = hook
	}
	s.mu.Unlock()
	if s.isDraining() {
		hook()
	}
}

// Shutdown drains the session, waits until its streams have ended or ctx is done, and closes it.
func (s *Session) Shutdown(ctx context.Context, why string) {
	s.Drain(why)
	select {
	case <-s.whenIdle():
	case <-ctx.Done():
	case <-s.Done():
	}
	s.fail(closedFor(why))
	s.Close()
}

// closedFor is ErrClosed in the words of the drain notice.
type closedFor string

func (c closedFor) Error() string { return string(c) }
func (closedFor) Unwrap() error   { return ErrClosed }

// Close ends the session and all its streams, and returns when its goroutines have ended.
func (s *Session) Close() {
	s.fail(ErrClosed)
	s.loops.Wait()
}

// fail ends the session; the first cause counts.
func (s *Session) fail(cause error) {
	s.mu.Lock()
	if s.cause == nil {
		s.cause = unavailable(cause)
	}
	s.mu.Unlock()
	_ = s.mux.Close() // always nil
}

// unavailable gives yamux's errors their class and, where they are known, better words.
func unavailable(cause error) error {
	switch {
	case errors.Is(cause, yamux.ErrKeepAliveTimeout), errors.Is(cause, yamux.ErrConnectionWriteTimeout),
		errors.Is(cause, os.ErrDeadlineExceeded), errors.Is(cause, syscall.ETIMEDOUT):
		return ErrUnresponsive
	case errors.Is(cause, errdefs.ErrUnavailable):
		return cause
	case errors.Is(cause, io.EOF):
		return fmt.Errorf("the peer closed the connection: %w", errdefs.ErrUnavailable)
	default:
		return fmt.Errorf("%w: %w", cause, errdefs.ErrUnavailable)
	}
}

// sendWait is how long a notice may wait for a peer that does not read notices.
const sendWait = time.Second

// send writes a notice. A session that does not take it is about to end anyway.
func (s *Session) send(n notice) {
	_ = s.notices.SetWriteDeadline(time.Now().Add(sendWait)) // never fails
	if _, err := s.notices.Write(n.encode()); errors.Is(err, yamux.ErrConnectionWriteTimeout) || errors.Is(err, yamux.ErrTimeout) {
		s.fail(err)
	}
}

// readNotices follows the notice stream until it ends, which ends the session.
func (s *Session) readNotices() {
	for {
		n, err := readNotice(s.notices)
		if err != nil {
			// The stream ends with the session, whose end another goroutine explains better; a peer that ends only the stream
			// breaks the protocol.
			if !s.mux.IsClosed() {
				s.fail(fmt.Errorf("notice stream: %w", err))
			}
			return
		}
		switch n.kind {
		case noticeDrain:
			s.logger.Info("the peer drains the session", "cause", n.text)
			s.drain(n.text, false)
		case noticeStreamLimit:
			s.logger.Warn("the peer refused a stream", "cause", n.text)
		}
	}
}
