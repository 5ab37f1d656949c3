package tunnel

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/phonehost/phonehost/agent/access"
)

// Stream is one yamux stream of a Session. It implements access.PeerConn. Writes leave in frames of at most ChunkSize, so
// that other streams of the session get their turn. A time-out of the connection below ends the whole session.
type Stream struct {
	session  *Session
	stream   *yamux.Stream
	accepted bool       // opened by the peer
	writeMu  sync.Mutex // keeps the chunks of one Write together
	once     sync.Once
}

var _ access.PeerConn = (*Stream)(nil)

// Identity returns who is at the other end of the session.
func (s *Stream) Identity() access.Identity { return s.session.info.Identity }

// Door returns the way in of the session.
func (s *Stream) Door() string { return s.session.info.Door }

// SessionKind returns the kind of the session.
func (s *Stream) SessionKind() string { return string(s.session.info.Kind) }

// Read implements net.Conn. After Close its error is net.ErrClosed.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.stream.Read(p)
	return n, s.check(err)
}

// Write implements net.Conn.
func (s *Stream) Write(p []byte) (int, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	written := 0
	for len(p) > 0 {
		chunk := p[:min(len(p), ChunkSize)]
		n, err := s.stream.Write(chunk)
		written += n
		if err != nil {
			return written, s.check(err)
		}
		p = p[n:]
	}
	return written, nil
}

// CloseWrite tells the peer that nothing more comes; reading goes on until the peer ends its side, for 30 s at most.
func (s *Stream) CloseWrite() error { return s.stream.Close() }

// Close ends the stream and unblocks Read and Write, which yamux's own Close does not do for Read.
func (s *Stream) Close() error {
	var err error
	s.once.Do(func() {
		err = s.stream.Close()
		_ = s.stream.SetReadDeadline(time.Unix(1, 0)) // never fails
		s.session.leave(s)
	})
	return err
}

// LocalAddr implements net.Conn.
func (s *Stream) LocalAddr() net.Addr { return s.session.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *Stream) RemoteAddr() net.Addr { return s.session.conn.RemoteAddr() }

// SetDeadline implements net.Conn.
func (s *Stream) SetDeadline(t time.Time) error { return s.stream.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.stream.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn. It bounds the wait for the peer's window; what waits for the connection is bounded
// by Timing.Timeout.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.stream.SetWriteDeadline(t) }

// check turns yamux's errors into those that callers know, and ends the session where yamux would go on with a connection
// that no longer takes anything (GHSA-29qp-crvh-w22m).
func (s *Stream) check(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, yamux.ErrConnectionWriteTimeout):
		s.session.fail(err)
		return err
	case errors.Is(err, yamux.ErrStreamClosed):
		return net.ErrClosed
	case errors.Is(err, yamux.ErrTimeout) && s.session.left(s):
		return net.ErrClosed
	default:
		return err
	}
}
