package tunnel

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/agent/access"
)

func TestStreamLimit(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	causes := make(chan error, 1)
	addr, _ := runDoor(t, DoorConfig{
		Certificates: certificates(t, ca, agentURI), Limits: Limits{StreamsPerSession: 2},
		Observer: Observer{SessionClosed: func(_ SessionInfo, cause error) { causes <- cause }},
	})
	s := dial(t, addr, certificates(t, ca, clientURI), Control, Timing{})
	open := func() *Stream {
		stream, err := s.Open()
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	first, second := open(), open()
	roundTrip(t, first, []byte("one"))
	roundTrip(t, second, []byte("two"))
	third := open()
	if n, err := third.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a stream beyond the limit read %d, %v; want its end", n, err)
	}
	third.Close()
	roundTrip(t, first, []byte("the others go on"))
	second.Close()
	// The door counts the end of the second when its echo has seen it.
	for {
		next := open()
		if _, err := next.Write([]byte("x")); err == nil {
			if _, err := next.Read(make([]byte, 1)); err == nil {
				break
			}
		}
		next.Close()
	}
	// A peer that goes on opening loses the session.
	for {
		if _, err := s.Open(); err != nil {
			break
		}
	}
	if cause := <-causes; !errors.Is(cause, ErrAbuse) {
		t.Errorf("cause = %v", cause)
	}
}

// TestAgentOpensStream opens a stream towards a client, which no agent does.
func TestAgentOpensStream(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	opened := make(chan *Session, 1)
	_, addr := runListener(t, ListenerConfig{
		Certificates: certificates(t, ca, agentURI), Serves: map[Kind]access.Kind{Control: access.KindClient},
		Opened: func(s *Session) { opened <- s }, Logger: testLogger(t),
	})
	s := dial(t, addr, certificates(t, ca, clientURI), Control, Timing{})
	// The client may end the session before Open returns, and after.
	if _, err := (<-opened).Open(); err != nil && !errdefs.IsUnavailable(err) {
		t.Fatal(err)
	}
	<-s.Done()
	if !errors.Is(s.Cause(), ErrAbuse) {
		t.Errorf("cause = %v", s.Cause())
	}
}

// TestRubbishInYamux speaks TLS well and yamux badly.
func TestRubbishInYamux(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	causes := make(chan error, 1)
	addr, _ := runDoor(t, DoorConfig{
		Certificates: certificates(t, ca, agentURI), Timing: quick,
		Observer: Observer{
			SessionClosed: func(_ SessionInfo, cause error) { causes <- cause },
			// What comes before the welcome has gone out ends the handshake.
			Refused: func(r Refusal) { causes <- errors.Join(r.Err, errdefs.ErrUnavailable) },
		},
	})
	m := certificates(t, ca, clientURI).current()
	for name, data := range map[string][]byte{
		"bad version":       bytes.Repeat([]byte{0xff}, 100),
		"bad type":          {0, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0},
		"window exceeded":   {0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 1},
		"end of no session": {0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
		"silence":           {},
	} {
		conn, err := tls.Dial("tcp", addr, m.clientConfig("127.0.0.1", Control, expectation{usage: 1, kind: access.KindAgent}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
		if cause := <-causes; !errors.Is(cause, errdefs.ErrUnavailable) {
			t.Errorf("%s: cause = %v", name, cause)
		}
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
}

// TestDrain ends a door while a stream is busy: the client is told, opens nothing more, and finishes what it began.
func TestDrain(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	addr, stop := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI)})
	s := dial(t, addr, certificates(t, ca, clientURI), Control, Timing{})
	stream, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, stream, []byte("before"))
	var stopped atomic.Bool
	var stopping sync.WaitGroup
	stopping.Go(func() { stop(); stopped.Store(true) })
	<-s.Draining()
	if s.DrainCause() != "the other side is shutting down" {
		t.Errorf("drain cause = %q", s.DrainCause())
	}
	if _, err := s.Open(); !errors.Is(err, ErrDraining) {
		t.Errorf("Open while draining = %v", err)
	}
	roundTrip(t, stream, []byte("after"))
	if stopped.Load() {
		t.Error("the door closed before its stream had ended")
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	stopping.Wait()
	<-s.Done()
	if !errors.Is(s.Cause(), errdefs.ErrUnavailable) {
		t.Errorf("cause = %v", s.Cause())
	}
}

// TestDrainEnds gives up on a stream that does not end.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	addr, stop := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI), Timing: Timing{Drain: 100 * time.Millisecond}})
	s := dial(t, addr, certificates(t, ca, clientURI), Control, Timing{})
	stream, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, stream, []byte("before"))
	stop()
	if _, err := stream.Read(make([]byte, 1)); err == nil {
		t.Error("the stream lives on")
	}
}

// TestTCPOptions asks the kernel what both ends of a session have set.
func TestTCPOptions(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	opened := make(chan *Session, 1)
	_, addr := runListener(t, ListenerConfig{
		Certificates: certificates(t, ca, agentURI), Serves: map[Kind]access.Kind{Control: access.KindClient, Media: access.KindClient},
		Opened: func(s *Session) { opened <- s },
	})
	fleet := certificates(t, ca, clientURI)
	for _, kind := range []Kind{Control, Media} {
		here := dial(t, addr, fleet, kind, Timing{})
		for end, s := range map[string]*Session{"dialed": here, "accepted": <-opened} {
			want := map[int]int{unix.TCP_USER_TIMEOUT: 10000, unix.TCP_NOTSENT_LOWAT: kind.notSent()}
			raw, err := s.conn.raw.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			err = raw.Control(func(fd uintptr) {
				for option, value := range want {
					if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); err != nil || got != value {
						t.Errorf("%s %s: option %d = %d, %v; want %d", kind, end, option, got, err, value)
					}
				}
				if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || got != 0 {
					t.Errorf("%s %s: SO_KEEPALIVE = %d, %v; want it off", kind, end, got, err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}
