package controlplane_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/controlplane"
	"github.com/phonehost/phonehost/agent/pki"
	"github.com/phonehost/phonehost/agent/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issuer makes certificates of one authority.
type issuer struct{ dir string }

func newIssuer(t testing.TB) issuer {
	t.Helper()
	i := issuer{t.TempDir()}
	if _, err := pki.Init(i.dir, pki.CAOptions{}); err != nil {
		t.Fatal(err)
	}
	return i
}

func (i issuer) certificates(t testing.TB, identity string) *tunnel.Certificates {
	t.Helper()
	id, err := access.ParseIdentity(identity)
	if err != nil {
		t.Fatal(err)
	}
	files, err := pki.Issue(i.dir, id, pki.IssueOptions{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	certs, err := tunnel.LoadCertificates(tunnel.CertificateFiles{Cert: files.Cert, Key: files.Key, CA: i.dir + "/ca.pem"}, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

func logger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// agent is the agent's side: a gRPC server behind its doors.
type agent struct {
	certs   *tunnel.Certificates
	streams *tunnel.Streams
	server  *grpc.Server
	serving sync.WaitGroup
}

func newAgent(t testing.TB, certs *tunnel.Certificates) *agent {
	t.Helper()
	a := &agent{certs: certs, streams: tunnel.NewStreams()}
	roles := access.Roles{Clients: map[string]access.Role{"fleet": access.RoleAdmin}}
	a.server = grpc.NewServer(append(access.Interceptors(access.Config{Roles: roles}), tunnel.ServerOptions()...)...)
	healthpb.RegisterHealthServer(a.server, health.NewServer())
	a.serving.Go(func() { _ = a.server.Serve(a.streams) })
	t.Cleanup(func() { a.server.Stop(); a.serving.Wait() })
	return a
}

// listen opens the agent's door at addr; stop closes it.
func (a *agent) listen(t testing.TB, addr string) (string, func()) {
	t.Helper()
	door, err := tunnel.NewDoor(tunnel.DoorConfig{
		Certificates: a.certs, Streams: a.streams, Logger: logger(t), Timing: tunnel.Timing{Drain: 100 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	port, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	stop := background(t, func(ctx context.Context) error { return door.Serve(ctx, port) })
	return port.Addr().String(), stop
}

// dialOut connects the agent to a control plane; stop ends it.
func (a *agent) dialOut(t testing.TB, addr string) (stop func()) {
	t.Helper()
	out, err := tunnel.NewDialOut(tunnel.DialOutConfig{
		Addresses: []string{addr}, Certificates: a.certs, Streams: a.streams, Logger: logger(t), Timing: tunnel.Timing{Drain: 100 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	return background(t, out.Run)
}

// background runs something until the test ends or stop is called; stop waits for its end.
func background(t testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return stop
}

func check(t *testing.T, conn grpc.ClientConnInterface) {
	t.Helper()
	_, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Errorf("check: %v", err)
	}
}

// connections takes both kinds of connection to an agent and uses them.
func connections(t *testing.T, a *controlplane.Agent) (control, media *grpc.ClientConn) {
	t.Helper()
	control, err := a.Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = control.Close() })
	media, err = a.Media(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = media.Close() })
	check(t, control)
	check(t, media)
	return control, media
}

func TestDial(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	shelf := newAgent(t, ca.certificates(t, "agent/shelf-7"))
	addr, stop := shelf.listen(t, "127.0.0.1:0")
	a, err := controlplane.Dial(t.Context(), addr, controlplane.Config{Certificates: ca.certificates(t, "client/fleet"), Name: "shelf-7", Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if a.Name() != "shelf-7" {
		t.Errorf("name = %q", a.Name())
	}
	control, media := connections(t, a)

	// The agent's door goes and comes back at the same address: the same connections work again.
	stop()
	if _, err := a.Control(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Control of an agent that is away = %v", err)
	}
	shelf.listen(t, addr)
	check(t, control)
	check(t, media)

	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Control(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Control after Close = %v", err)
	}
	if _, err := healthpb.NewHealthClient(control).Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("call after Close = %v", err)
	}
}

func TestDialErrors(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	addr, _ := newAgent(t, ca.certificates(t, "agent/shelf-7")).listen(t, "127.0.0.1:0")
	fleet := ca.certificates(t, "client/fleet")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	tests := []struct {
		name, addr string
		config     controlplane.Config
		class      error
	}{
		{"another agent", addr, controlplane.Config{Certificates: fleet, Name: "shelf-8"}, errdefs.ErrPermissionDenied},
		{"another authority", addr, controlplane.Config{Certificates: newIssuer(t).certificates(t, "client/fleet")}, errdefs.ErrPermissionDenied},
		{"an agent's certificate", addr, controlplane.Config{Certificates: ca.certificates(t, "agent/other")}, errdefs.ErrInvalidArgument},
		{"no certificate", addr, controlplane.Config{}, errdefs.ErrInvalidArgument},
		{"nobody there", closed.Addr().String(), controlplane.Config{Certificates: fleet}, errdefs.ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := controlplane.Dial(t.Context(), tt.addr, tt.config); !errors.Is(err, tt.class) {
				t.Errorf("Dial = %v, want %v", err, tt.class)
			}
		})
	}
}

// TestDialedAgentKeepsItsName finds another agent at the address after a while: it is not taken for the first.
func TestDialedAgentKeepsItsName(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	addr, stop := newAgent(t, ca.certificates(t, "agent/shelf-7")).listen(t, "127.0.0.1:0")
	a, err := controlplane.Dial(t.Context(), addr, controlplane.Config{Certificates: ca.certificates(t, "client/fleet")})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	stop()
	newAgent(t, ca.certificates(t, "agent/shelf-8")).listen(t, addr)
	if _, err := a.Control(t.Context()); tunnel.RefusalReason(err) != tunnel.ReasonName {
		t.Errorf("Control = %v, want a refusal by name", err)
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	connected, gone := make(chan string, 10), make(chan string, 10)
	server, err := controlplane.Listen("127.0.0.1:0", controlplane.ServerConfig{
		Config: controlplane.Config{Certificates: ca.certificates(t, "client/fleet"), Logger: logger(t), Timing: tunnel.Timing{Drain: 100 * time.Millisecond}},
		Watcher: controlplane.Watcher{
			Connected:    func(a *controlplane.Agent) { connected <- a.Name() },
			Disconnected: func(name string, _ error) { gone <- name },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, server.Serve)
	if _, err := server.Agent("shelf-7"); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "no agent is") {
		t.Errorf("Agent before any has come = %v", err)
	}
	shelf := newAgent(t, ca.certificates(t, "agent/shelf-7"))
	stop := shelf.dialOut(t, server.Addr().String())
	a, err := server.Wait(t.Context(), "shelf-7")
	if err != nil {
		t.Fatal(err)
	}
	if name := <-connected; name != "shelf-7" {
		t.Errorf("connected %q", name)
	}
	control, err := a.Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	check(t, control)
	if _, err := server.Agent("shelf-8"); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "connected are shelf-7") {
		t.Errorf("Agent of an unknown name = %v", err)
	}

	// The agent goes and comes back: the same connection works again.
	stop()
	if name := <-gone; name != "shelf-7" {
		t.Errorf("gone %q", name)
	}
	shelf.dialOut(t, server.Addr().String())
	check(t, control)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := server.Wait(ctx, "shelf-8"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Wait for an unknown agent = %v", err)
	}
}

// TestDuplicate lets two agents of one name dial in: the newer counts, the older is told and drained.
func TestDuplicate(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	type replacement struct{ older, newer tunnel.SessionInfo }
	replaced := make(chan replacement, 100)
	server, err := controlplane.Listen("127.0.0.1:0", controlplane.ServerConfig{
		Config:  controlplane.Config{Certificates: ca.certificates(t, "client/fleet"), Logger: logger(t), Timing: tunnel.Timing{Drain: 100 * time.Millisecond}},
		Watcher: controlplane.Watcher{Replaced: func(_ string, older, newer tunnel.SessionInfo) { replaced <- replacement{older, newer} }},
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, server.Serve)
	certs := ca.certificates(t, "agent/shelf-7")
	dial := func() *tunnel.Session {
		s, err := tunnel.Dial(t.Context(), server.Addr().String(), tunnel.DialConfig{
			Certificates: certs, Kind: tunnel.Control, Peer: access.Identity{Kind: access.KindClient}, Streams: tunnel.NewStreams(),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	first := dial()
	if _, err := server.Wait(t.Context(), "shelf-7"); err != nil {
		t.Fatal(err)
	}
	second := dial()
	r := <-replaced
	if r.older.Remote == r.newer.Remote || r.newer.Since.Before(r.older.Since) {
		t.Errorf("replaced %+v", r)
	}
	<-first.Draining()
	if !strings.Contains(first.DrainCause(), "replaced by a newer session of agent/shelf-7") {
		t.Errorf("drain cause = %q", first.DrainCause())
	}
	<-first.Done()
	if !second.Usable() {
		t.Error("the newer session is not usable")
	}
	sessions := server.Sessions()
	if len(sessions) != 1 || sessions[0].Remote != r.newer.Remote {
		t.Errorf("sessions = %+v", sessions)
	}
}

// TestListenRefusesClients keeps clients off the port where agents come in.
func TestListenRefusesClients(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	refused := make(chan tunnel.Refusal, 1)
	server, err := controlplane.Listen("127.0.0.1:0", controlplane.ServerConfig{
		Config:   controlplane.Config{Certificates: ca.certificates(t, "client/fleet")},
		Observer: tunnel.Observer{Refused: func(r tunnel.Refusal) { refused <- r }},
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, server.Serve)
	_, err = tunnel.Dial(t.Context(), server.Addr().String(), tunnel.DialConfig{
		Certificates: ca.certificates(t, "client/other"), Kind: tunnel.Control, Peer: access.Identity{Kind: access.KindClient},
	})
	if !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("Dial = %v", err)
	}
	if r := <-refused; r.Reason != tunnel.ReasonKind || r.Identity.String() != "client/other" {
		t.Errorf("refused %+v", r)
	}
}
