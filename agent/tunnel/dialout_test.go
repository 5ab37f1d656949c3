package tunnel

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/agent/access"
)

// plane is the accepting side of dial-outs.
type plane struct {
	addr   string
	stop   func()
	opened chan *Session
}

func newPlane(t testing.TB, certs *Certificates, addr string) *plane {
	t.Helper()
	p := &plane{opened: make(chan *Session, 100)}
	l, err := NewListener(ListenerConfig{
		Certificates: certs,
		Serves:       map[Kind]access.Kind{Control: access.KindAgent, Media: access.KindAgent},
		Opened:       func(s *Session) { p.opened <- s },
		Logger:       testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	if addr == "" {
		p.addr, p.stop = run(t, l.Serve)
		return p
	}
	port, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() { _ = l.Serve(ctx, port) })
	p.addr, p.stop = addr, sync.OnceFunc(func() { cancel(); served.Wait() })
	t.Cleanup(p.stop)
	return p
}

// session waits for the next session of a kind.
func (p *plane) session(kind Kind) *Session {
	for {
		if s := <-p.opened; s.Info().Kind == kind {
			return s
		}
	}
}

// runDialOut runs an agent that dials out until the test ends or stop is called.
func runDialOut(t testing.TB, c DialOutConfig) (stop func()) {
	t.Helper()
	c.Logger = testLogger(t)
	out, err := NewDialOut(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = out.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return stop
}

// TestDialOut connects an agent to two control planes, restarts one of them, and comes back.
func TestDialOut(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	fleet := certificates(t, ca, clientURI)
	a, b := newPlane(t, fleet, ""), newPlane(t, fleet, "")
	streams := NewStreams()
	doors := make(chan string, 10)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return
			}
			pc := conn.(access.PeerConn)
			doors <- pc.Door() + " " + pc.Identity().String() + " " + pc.SessionKind()
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = streams.Close(); accepting.Wait() })
	runDialOut(t, DialOutConfig{Addresses: []string{a.addr, b.addr}, Certificates: certificates(t, ca, agentURI), Streams: streams})
	for _, p := range []*plane{a, b} {
		for range 2 {
			s := <-p.opened
			if s.Info().Identity.String() != "agent/shelf-7" {
				t.Errorf("session of %s", s.Info().Identity)
			}
			if _, err := s.Open(); err != nil {
				t.Fatal(err)
			}
			want := "dial:" + p.addr + " client/fleet " + string(s.Info().Kind)
			if got := <-doors; got != want {
				t.Errorf("stream came by %q, want %q", got, want)
			}
		}
	}
	b.stop()
	b = newPlane(t, fleet, b.addr)
	b.session(Control)
}

// TestDialOutRefusesTheControlPlane meets somebody who is no control plane.
func TestDialOutRefusesTheControlPlane(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	tests := []struct {
		name, uri, expect string
		reason            Reason
	}{
		{"an agent", "phonehost://agent/other", "", ReasonKind},
		{"another control plane", "phonehost://client/other", "fleet", ReasonName},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPlane(t, certificates(t, ca, tt.uri), "")
			refused := make(refusals, 100)
			failed := make(chan error, 100)
			observer := refused.observer()
			observer.DialFailed = func(addr string, _ Kind, err error, _ time.Duration) { failed <- err }
			stop := runDialOut(t, DialOutConfig{
				Addresses: []string{p.addr}, Name: tt.expect, Certificates: certificates(t, ca, agentURI), Streams: NewStreams(), Observer: observer,
			})
			if r := <-refused; r.Reason != tt.reason || r.Door != "dial:"+p.addr {
				t.Errorf("refused %+v", r)
			}
			if err := <-failed; !errors.Is(err, errdefs.ErrPermissionDenied) {
				t.Errorf("dial failed with %v", err)
			}
			stop()
		})
	}
}

func TestNewDialOutChecks(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	good := DialOutConfig{Addresses: []string{"127.0.0.1:1"}, Certificates: certificates(t, ca, agentURI), Streams: NewStreams()}
	for name, spoil := range map[string]func(*DialOutConfig){
		"no addresses":        func(c *DialOutConfig) { c.Addresses = nil },
		"no port":             func(c *DialOutConfig) { c.Addresses = []string{"fleet.example.com"} },
		"no streams":          func(c *DialOutConfig) { c.Streams = nil },
		"no certificates":     func(c *DialOutConfig) { c.Certificates = nil },
		"a client's identity": func(c *DialOutConfig) { c.Certificates = certificates(t, ca, clientURI) },
	} {
		c := good
		spoil(&c)
		if _, err := NewDialOut(c); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: NewDialOut = %v", name, err)
		}
	}
	if _, err := NewDoor(DoorConfig{Certificates: certificates(t, ca, clientURI), Streams: NewStreams()}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a door with a client's identity = %v", err)
	}
}

// TestGRPC serves one gRPC server through a door and a dial-out, and drains both at its end.
func TestGRPC(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	streams := NewStreams()
	callers := make(chan access.AuthInfo, 10)
	options := append(access.Interceptors(access.Config{Roles: access.Roles{Clients: map[string]access.Role{"fleet": access.RoleViewer}}}), ServerOptions()...)
	srv := grpc.NewServer(append(options, grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			info, _ := access.InfoFromContext(ctx)
			callers <- info
			return next(ctx, req)
		}))...)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(streams) })
	defer serving.Wait()
	defer srv.Stop()

	agent, fleet := certificates(t, ca, agentURI), certificates(t, ca, clientURI)
	addr, stopDoor := runDoor(t, DoorConfig{Certificates: agent, Streams: streams})
	p := newPlane(t, fleet, "")
	stopOut := runDialOut(t, DialOutConfig{Addresses: []string{p.addr}, Certificates: agent, Streams: streams})

	check := func(s *Session, door string) *grpc.ClientConn {
		conn, err := NewClientConn(s.Info().Kind, func(context.Context) (net.Conn, error) { return s.Open() })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatalf("check through %s: %v", door, err)
		}
		if got := <-callers; got.Identity.String() != "client/fleet" || got.Door != door || got.SessionKind != string(s.Info().Kind) {
			t.Errorf("caller = %+v, want client/fleet by %s", got, door)
		}
		return conn
	}
	viaDoor := check(dial(t, addr, fleet, Media, Timing{}), "listen")
	check(p.session(Control), "dial:"+p.addr)
	other := dial(t, addr, certificates(t, ca, "phonehost://client/other"), Control, Timing{})
	conn, err := NewClientConn(Control, func(context.Context) (net.Conn, error) { return other.Open() })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("check by an unknown client = %v", err)
	}

	// A call that runs keeps the door open; when it ends everything else does.
	watch, err := healthpb.NewHealthClient(viaDoor).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	var stopping sync.WaitGroup
	stopping.Go(stopDoor)
	stopping.Go(stopOut)
	srv.Stop()
	stopping.Wait()
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the call ended with %v", err)
	}
}

// TestConnectionMoves drains a session under a gRPC connection: idle, it leaves at once; busy, when its call has ended; and
// its next call goes over the next session.
func TestConnectionMoves(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	streams := NewStreams()
	srv := grpc.NewServer(append(access.Interceptors(access.Config{Roles: access.Roles{Clients: map[string]access.Role{"fleet": access.RoleViewer}}}), ServerOptions()...)...)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(streams) })
	defer serving.Wait()
	defer srv.Stop()
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI), Streams: streams})
	fleet := certificates(t, ca, clientURI)
	for _, busy := range []bool{false, true} {
		first, second := dial(t, addr, fleet, Control, Timing{}), dial(t, addr, fleet, Control, Timing{})
		conn, err := NewClientConn(Control, func(context.Context) (net.Conn, error) {
			if first.Usable() {
				return first.Open()
			}
			return second.Open()
		})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := healthpb.NewHealthClient(conn)
		if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if busy {
			watch, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := watch.Recv(); err != nil {
				t.Fatal(err)
			}
			first.Drain("test")
			select {
			case <-first.whenIdle():
				t.Error("the connection left its stream under a call")
			default:
			}
			cancel()
			for err == nil {
				_, err = watch.Recv()
			}
		} else {
			first.Drain("test")
		}
		cancel()
		<-first.whenIdle()
		if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Errorf("a call after the drain: %v", err)
		}
		if len(second.streams) != 1 {
			t.Errorf("the second session has %d streams, want 1", len(second.streams))
		}
	}
}
