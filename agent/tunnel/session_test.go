package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"

	"github.com/phonehost/phonehost/agent/access"
)

// relay is a TCP proxy that can swallow bytes, as a network does whose peer has lost power, or cut the connection.
type relay struct {
	addr  string
	mute  chan struct{} // closed: nothing passes any more
	mu    sync.Mutex
	conns []net.Conn
}

func newRelay(t testing.TB, target string) *relay {
	t.Helper()
	r := &relay{mute: make(chan struct{})}
	var all sync.WaitGroup
	addr, stop := run(t, func(ctx context.Context, port net.Listener) error {
		defer context.AfterFunc(ctx, func() { _ = port.Close(); r.cut() })()
		for {
			in, err := port.Accept()
			if err != nil {
				return nil
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				return err
			}
			r.mu.Lock()
			r.conns = append(r.conns, in, out)
			r.mu.Unlock()
			all.Go(func() { r.pass(out, in) })
			all.Go(func() { r.pass(in, out) })
		}
	})
	r.addr = addr
	t.Cleanup(func() { stop(); all.Wait() })
	return r
}

// pass forwards bytes. Muted, it neither reads nor writes: the sender's window fills, and no end of connection is told.
func (r *relay) pass(dst, src net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := src.Read(buf)
		select {
		case <-r.mute:
			return
		default:
		}
		if err != nil {
			_ = dst.Close()
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			_ = src.Close()
			return
		}
	}
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI)})
	fleet := certificates(t, ca, clientURI)
	for _, kind := range []Kind{Control, Media} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := dial(t, addr, fleet, kind, Timing{})
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					stream, err := s.Open()
					if err != nil {
						t.Error(err)
						return
					}
					defer stream.Close()
					roundTrip(t, stream, pattern(1<<20+3))
				})
			}
			all.Wait()
			if got := s.Info(); got.Identity.String() != "agent/shelf-7" || got.Kind != kind || got.Door != "dial:"+addr || got.Remote != addr {
				t.Errorf("Info = %+v", got)
			}
		})
	}
}

func TestPeerConn(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	streams := NewStreams()
	defer streams.Close()
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI), Streams: streams})
	s := dial(t, addr, certificates(t, ca, clientURI), Media, Timing{})
	if _, err := s.Open(); err != nil {
		t.Fatal(err)
	}
	conn, err := streams.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pc := conn.(access.PeerConn)
	if pc.Identity().String() != "client/fleet" || pc.Door() != "listen" || pc.SessionKind() != "media" {
		t.Errorf("identity %s, door %s, kind %s", pc.Identity(), pc.Door(), pc.SessionKind())
	}
	if pc.RemoteAddr().String() != s.conn.LocalAddr().String() {
		t.Errorf("remote address %s, want %s", pc.RemoteAddr(), s.conn.LocalAddr())
	}
}

// countingConn counts the writes that reach the network, by size.
type countingConn struct {
	net.Conn
	mu    sync.Mutex
	sizes []int
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.sizes = append(c.sizes, len(p))
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *countingConn) reset() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	sizes := c.sizes
	c.sizes = nil
	return sizes
}

// TestOneRecordPerChunk looks at what leaves: a big write becomes full TLS records, each with one yamux header and its body,
// and a small write one record.
func TestOneRecordPerChunk(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI)})
	tcp, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	counting := &countingConn{Conn: tcp}
	c := DialConfig{Certificates: certificates(t, ca, clientURI), Kind: Media, Peer: access.Identity{Kind: access.KindAgent}, Logger: testLogger(t)}
	c.Timing, c.Limits = c.Timing.WithDefaults(), c.Limits.WithDefaults()
	s, err := c.establish(t.Context(), counting, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stream, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, stream, []byte("x")) // windows and acknowledgements are through
	// A TLS 1.3 record has a header of 5, one byte of type and a tag of 16.
	const overhead = 5 + 1 + 16
	for _, tt := range []struct{ write, records, last int }{
		{1, 1, 1}, {1400, 1, 1400}, {ChunkSize, 1, ChunkSize}, {ChunkSize + 1, 2, 1}, {10 * ChunkSize, 10, ChunkSize},
	} {
		counting.reset()
		if _, err := stream.Write(pattern(tt.write)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream, make([]byte, tt.write)); err != nil {
			t.Fatal(err)
		}
		sizes := counting.reset()
		var data []int
		for _, n := range sizes {
			if n != headerSize+overhead { // window updates and pings are headers alone
				data = append(data, n)
			}
		}
		if len(data) != tt.records || data[len(data)-1] != tt.last+headerSize+overhead {
			t.Errorf("a write of %d bytes left as records of %v bytes, want %d records, the last with %d bytes", tt.write, data, tt.records, tt.last)
		}
	}
}

// TestDeadPeer mutes the network between two ends: each finds out by itself, and whoever waits on a stream is told.
func TestDeadPeer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		busy bool // with a write that fills every buffer
	}{{"idle", false}, {"writing", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ca := newAuthority(t)
			causes := make(chan error, 1)
			addr, _ := runDoor(t, DoorConfig{
				Certificates: certificates(t, ca, agentURI), Timing: quick,
				Observer: Observer{SessionClosed: func(_ SessionInfo, cause error) { causes <- cause }},
			})
			r := newRelay(t, addr)
			s := dial(t, r.addr, certificates(t, ca, clientURI), Media, quick)
			stream, err := s.Open()
			if err != nil {
				t.Fatal(err)
			}
			roundTrip(t, stream, []byte("alive"))
			close(r.mute)
			if tt.busy {
				for err == nil {
					_, err = stream.Write(pattern(1 << 20))
				}
			} else if _, err := stream.Read(make([]byte, 1)); err == nil {
				t.Error("Read of a dead session returned data")
			}
			<-s.Done()
			if cause := s.Cause(); !errors.Is(cause, ErrUnresponsive) || !errors.Is(cause, errdefs.ErrUnavailable) {
				t.Errorf("cause here = %v", cause)
			}
			if cause := <-causes; !errors.Is(cause, errdefs.ErrUnavailable) {
				t.Errorf("cause there = %v", cause)
			}
			if _, err := s.Open(); !errors.Is(err, errdefs.ErrUnavailable) {
				t.Errorf("Open of a dead session = %v", err)
			}
		})
	}
	if d := (Timing{}).WithDefaults(); d.KeepAlive+d.Timeout > 10*time.Second {
		t.Errorf("a dead peer is found after %v, want 10 s at most", d.KeepAlive+d.Timeout)
	}
}

// TestWriteTimeout blocks the connection itself under a session whose probes would go on for long: the write that times out
// must end the session at both layers (GHSA-29qp-crvh-w22m).
func TestWriteTimeout(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI), Timing: Timing{KeepAlive: time.Hour, Timeout: quick.Timeout}})
	r := newRelay(t, addr)
	s := dial(t, r.addr, certificates(t, ca, clientURI), Media, Timing{KeepAlive: time.Hour, Timeout: quick.Timeout})
	var streams []*Stream
	for range 16 { // together their windows exceed what the kernel takes
		stream, err := s.Open()
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, stream, []byte("alive"))
		streams = append(streams, stream)
	}
	close(r.mute)
	var writers sync.WaitGroup
	for _, stream := range streams {
		writers.Go(func() {
			var err error
			for err == nil {
				_, err = stream.Write(pattern(1 << 20))
			}
		})
	}
	writers.Wait()
	<-s.Done()
	if !errors.Is(s.Cause(), ErrUnresponsive) {
		t.Errorf("cause = %v", s.Cause())
	}
	for _, stream := range streams {
		if _, err := stream.Read(make([]byte, 1)); err == nil {
			t.Error("a stream of the session still reads")
		}
	}
}

// TestStreamTimeoutEndsSession is the rule for yamux's own time-out, which leaves the session half dead by itself.
func TestStreamTimeoutEndsSession(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI)})
	s := dial(t, addr, certificates(t, ca, clientURI), Control, Timing{})
	stream, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.check(yamux.ErrConnectionWriteTimeout); !errors.Is(err, yamux.ErrConnectionWriteTimeout) {
		t.Errorf("check = %v", err)
	}
	<-s.Done()
	if !errors.Is(s.Cause(), ErrUnresponsive) {
		t.Errorf("cause = %v", s.Cause())
	}
}

// TestCutMidStream breaks the TCP connection in the middle of a transfer.
func TestCutMidStream(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	causes := make(chan error, 1)
	addr, _ := runDoor(t, DoorConfig{
		Certificates: certificates(t, ca, agentURI),
		Observer:     Observer{SessionClosed: func(_ SessionInfo, cause error) { causes <- cause }},
	})
	r := newRelay(t, addr)
	s := dial(t, r.addr, certificates(t, ca, clientURI), Media, Timing{})
	stream, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		var err error
		for err == nil {
			_, err = stream.Write(pattern(1 << 16))
		}
	})
	if _, err := io.ReadFull(stream, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	r.cut()
	if _, err := io.Copy(io.Discard, stream); err != nil && !errors.Is(err, errdefs.ErrUnavailable) && !errors.Is(err, yamux.ErrSessionShutdown) {
		t.Logf("read ended with %v", err)
	}
	writer.Wait()
	<-s.Done()
	if !errors.Is(s.Cause(), errdefs.ErrUnavailable) || !errors.Is(<-causes, errdefs.ErrUnavailable) {
		t.Errorf("cause = %v", s.Cause())
	}
}

func TestCloseUnblocks(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	streams := NewStreams() // nobody accepts but the test: what the peer sends is not read
	defer streams.Close()
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI), Streams: streams})
	s := dial(t, addr, certificates(t, ca, clientURI), Control, Timing{})
	stream, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := streams.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	var blocked sync.WaitGroup
	var started sync.WaitGroup
	started.Add(2)
	blocked.Go(func() {
		started.Done()
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read = %v, want closed", err)
		}
	})
	blocked.Go(func() {
		started.Done()
		var err error
		for err == nil {
			_, err = stream.Write(pattern(1 << 16)) // beyond the window
		}
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write = %v, want closed", err)
		}
	})
	started.Wait()
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	blocked.Wait()
	if err := stream.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

func TestHalfClose(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	streams := NewStreams()
	defer streams.Close()
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI), Streams: streams})
	s := dial(t, addr, certificates(t, ca, clientURI), Control, Timing{})
	stream, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := streams.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(peer); err != nil || string(got) != "question" {
		t.Fatalf("the peer read %q, %v", got, err)
	}
	if _, err := peer.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := peer.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(stream); err != nil || string(got) != "answer" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestReadDeadline(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI)})
	s := dial(t, addr, certificates(t, ca, clientURI), Control, Timing{})
	stream, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	var netErr net.Error
	if _, err := stream.Read(make([]byte, 1)); !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("Read = %v, want a time-out", err)
	}
	if err := stream.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, stream, []byte("goes on"))
}

// TestCauseOfShutdown checks that a session that was closed on purpose says why, and nothing else.
func TestCauseOfShutdown(t *testing.T) {
	cause := unavailable(closedFor("the control plane leaves"))
	if cause.Error() != "the control plane leaves" || !errors.Is(cause, ErrClosed) || !errors.Is(cause, errdefs.ErrUnavailable) {
		t.Errorf("cause = %v", cause)
	}
	if cause := unavailable(fmt.Errorf("read: %w", yamux.ErrKeepAliveTimeout)); cause != ErrUnresponsive {
		t.Errorf("cause = %v", cause)
	}
}
