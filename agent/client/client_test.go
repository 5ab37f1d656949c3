package client_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/client"
	"github.com/phonehost/phonehost/agent/hub"
	"github.com/phonehost/phonehost/agent/pki"
	"github.com/phonehost/phonehost/agent/tunnel"
	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a directory of certificates and an agent behind all three doors.
type host struct {
	dir     string
	socket  string
	door    string
	callers chan access.AuthInfo
	streams *tunnel.Streams
	logger  *slog.Logger
}

func logger(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{dir: t.TempDir(), callers: make(chan access.AuthInfo, 100), streams: tunnel.NewStreams(), logger: logger(t)}
	if _, err := pki.Init(h.dir, pki.CAOptions{}); err != nil {
		t.Fatal(err)
	}
	h.socket = filepath.Join(h.dir, "agent.sock")
	unixListener, err := access.ListenUnix(access.UnixConfig{Path: h.socket})
	if err != nil {
		t.Fatal(err)
	}
	admin := map[string]access.Role{"fleet": access.RoleAdmin, "hub": access.RoleAdmin}
	roles := access.Roles{Clients: admin, Users: map[uint32]access.Role{uint32(os.Geteuid()): access.RoleAdmin}}
	server := grpc.NewServer(append(append(access.Interceptors(access.Config{Roles: roles}), tunnel.ServerOptions()...),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			info, _ := access.InfoFromContext(ctx)
			h.callers <- info
			return next(ctx, req)
		}))...)
	healthpb.RegisterHealthServer(server, health.NewServer())
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(unixListener) })
	serving.Go(func() { _ = server.Serve(h.streams) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	door, err := tunnel.NewDoor(tunnel.DoorConfig{Certificates: h.certificates(t, "agent/shelf-7"), Streams: h.streams, Logger: h.logger})
	if err != nil {
		t.Fatal(err)
	}
	h.door = serve(t, door.Serve)
	return h
}

// serve runs something on a loopback port until the test ends.
func serve(t *testing.T, run func(context.Context, net.Listener) error) (addr string) {
	t.Helper()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return run(ctx, port) })
	return port.Addr().String()
}

func background(t *testing.T, run func(context.Context) error) (stop func()) {
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

// files issues a certificate and names its files.
func (h *host) files(t *testing.T, identity string) client.Options {
	t.Helper()
	id, err := access.ParseIdentity(identity)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pki.Issue(h.dir, id, pki.IssueOptions{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	return client.Options{Cert: f.Cert, Key: f.Key, CA: filepath.Join(h.dir, "ca.pem"), Logger: h.logger}
}

func (h *host) certificates(t *testing.T, identity string) *tunnel.Certificates {
	t.Helper()
	o := h.files(t, identity)
	c, err := tunnel.LoadCertificates(tunnel.CertificateFiles{Cert: o.Cert, Key: o.Key, CA: o.CA}, h.logger)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// hub starts a hub with the agent connected to it, and returns its address.
func (h *host) hub(t *testing.T, allow ...string) (*hub.Hub, string) {
	t.Helper()
	hb, err := hub.New(hub.Config{
		Certificates: h.certificates(t, "client/hub"), Allow: allow, Logger: h.logger, Timing: tunnel.Timing{Drain: 100 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, hb.Serve)
	out, err := tunnel.NewDialOut(tunnel.DialOutConfig{
		Addresses: []string{addr}, Certificates: h.certificates(t, "agent/shelf-7"), Streams: h.streams, Logger: h.logger,
		Timing: tunnel.Timing{Drain: 100 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, out.Run)
	if _, err := hb.Agents().Wait(t.Context(), "shelf-7"); err != nil {
		t.Fatal(err)
	}
	return hb, addr
}

// use calls through both connections of a client and compares who the agent saw.
func (h *host) use(t *testing.T, o client.Options, identity, door string, kinds [2]string) {
	t.Helper()
	c, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for i, conn := range []grpc.ClientConnInterface{c.Control(), c.Media()} {
		if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
		got := <-h.callers
		if got.Identity.String() != identity || !strings.HasPrefix(got.Door, door) || got.SessionKind != kinds[i] {
			t.Errorf("the agent saw %s by %q on %q; want %s by %q on %q", got.Identity, got.Door, got.SessionKind, identity, door, kinds[i])
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	_, err = healthpb.NewHealthClient(c.Control()).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.Canceled {
		t.Errorf("call after Close = %v", err)
	}
}

func TestDoors(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	_, hubAddr := h.hub(t, "fleet")
	self := access.Identity{Kind: access.KindUID, UID: uint32(os.Geteuid())}.String()
	t.Run("unix", func(t *testing.T) {
		h.use(t, client.Options{Host: "unix://" + h.socket}, self, "unix", [2]string{"", ""})
	})
	t.Run("tls", func(t *testing.T) {
		o := h.files(t, "client/fleet")
		o.Host, o.Agent = "tls://"+h.door, "shelf-7"
		h.use(t, o, "client/fleet", "listen", [2]string{"control", "media"})
	})
	t.Run("hub", func(t *testing.T) {
		o := h.files(t, "client/fleet")
		o.Hub, o.Agent = hubAddr, "shelf-7"
		h.use(t, o, "client/hub", "dial:"+hubAddr, [2]string{"control", "media"})
	})
}

func TestListAgents(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	hb, addr := h.hub(t, hub.Anybody)
	o := h.files(t, "client/anyone")
	o.Hub = addr
	agents, err := client.ListAgents(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(agents) != 1 || agents[0].Name != "shelf-7" || len(agents[0].Sessions) == 0 || agents[0].Sessions[0].Kind != tunnel.Control {
		t.Errorf("agents = %+v", agents)
	}
	if want := hb.Agents().Sessions()[0].Remote; agents[0].Sessions[0].Remote != want {
		t.Errorf("remote = %s, want %s", agents[0].Sessions[0].Remote, want)
	}
}

// TestErrors tries every way that cannot work; each error has its class and says what to do.
func TestErrors(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	_, hubAddr := h.hub(t, "fleet")
	dead := filepath.Join(h.dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	with := func(identity string, change func(*client.Options)) client.Options {
		o := h.files(t, identity)
		change(&o)
		return o
	}
	tests := []struct {
		name  string
		o     client.Options
		class error
		words string
	}{
		{"no socket", client.Options{Host: "unix:///nowhere/agent.sock"}, errdefs.ErrNotFound, "systemctl start phonehostd"},
		{"dead socket", client.Options{Host: "unix://" + dead}, errdefs.ErrUnavailable, "systemctl start phonehostd"},
		{"unknown scheme", client.Options{Host: "http://x"}, errdefs.ErrInvalidArgument, "unix:///path or tls://host:port"},
		{"host and hub", client.Options{Host: "tls://x:1", Hub: "x:1"}, errdefs.ErrInvalidArgument, "one of the two"},
		{"no certificate", client.Options{Host: "tls://" + h.door}, errdefs.ErrInvalidArgument, "phonectl pki issue"},
		{"missing file", with("client/fleet", func(o *client.Options) { o.Host, o.CA = "tls://"+h.door, "/nowhere/ca.pem" }), errdefs.ErrNotFound, "phonectl pki init"},
		{"an agent's certificate", with("agent/shelf-7", func(o *client.Options) { o.Host = "tls://" + h.door }), errdefs.ErrInvalidArgument, "phonectl pki issue client/"},
		{"no port", with("client/fleet", func(o *client.Options) { o.Host = "tls://127.0.0.1" }), errdefs.ErrInvalidArgument, "want host:port"},
		{"another agent", with("client/fleet", func(o *client.Options) { o.Host, o.Agent = "tls://"+h.door, "shelf-8" }), errdefs.ErrPermissionDenied, "expected agent/shelf-8"},
		{"nobody there", with("client/fleet", func(o *client.Options) { o.Host = "tls://127.0.0.1:1" }), errdefs.ErrUnavailable, "connection refused"},
		{"hub without an agent", with("client/fleet", func(o *client.Options) { o.Hub = hubAddr }), errdefs.ErrInvalidArgument, "phonectl --hub " + hubAddr + " agents"},
		{"unknown agent at the hub", with("client/fleet", func(o *client.Options) { o.Hub, o.Agent = hubAddr, "shelf-9" }), errdefs.ErrNotFound, "connected are shelf-7"},
		{"bad name at the hub", with("client/fleet", func(o *client.Options) { o.Hub, o.Agent = hubAddr, "Shelf" }), errdefs.ErrInvalidArgument, "name must match"},
		{"not allowed at the hub", with("client/stranger", func(o *client.Options) { o.Hub, o.Agent = hubAddr, "shelf-7" }), errdefs.ErrPermissionDenied, "phonectl hub --allow stranger"},
		{"the hub is no agent", with("client/fleet", func(o *client.Options) { o.Host = "tls://" + hubAddr }), errdefs.ErrPermissionDenied, "client/hub"},
		{"the agent is no hub", with("client/fleet", func(o *client.Options) { o.Hub, o.Agent = h.door, "shelf-7" }), errdefs.ErrPermissionDenied, "no application protocol"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := client.Dial(t.Context(), tt.o)
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("Dial = %v; want class %v and the words %q", err, tt.class, tt.words)
			}
		})
	}
}

// TestAgentBehindHubGoes ends the agent's sessions under a client's call.
func TestAgentBehindHubGoes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	hb, addr := h.hub(t, "fleet")
	o := h.files(t, "client/fleet")
	o.Hub, o.Agent = addr, "shelf-7"
	c, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	watch, err := healthpb.NewHealthClient(c.Media()).Watch(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	agent, err := hb.Agents().Agent("shelf-7")
	if err != nil {
		t.Fatal(err)
	}
	agent.Drain(t.Context())
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the call ended with %v", err)
	}
	// It dials in again, and the same connection reaches it again.
	if _, err := healthpb.NewHealthClient(c.Media()).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Error(err)
	}
}

// TestSocketOfOthers dials as a user who may not use the socket.
func TestSocketOfOthers(t *testing.T) {
	testenv.Root(t)
	dir, err := os.MkdirTemp("", "phonehost-client-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := access.ListenUnix(access.UnixConfig{Path: filepath.Join(dir, "agent.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its credentials
		for _, step := range [][3]uintptr{
			{unix.SYS_SETGROUPS, 0, 0}, {unix.SYS_SETRESGID, 4321, 4321}, {unix.SYS_SETRESUID, 4321, 4321},
		} {
			if _, _, errno := unix.RawSyscall(step[0], step[1], step[2], step[2]); errno != 0 {
				dialed <- errno
				return
			}
		}
		_, err := client.Dial(context.Background(), client.Options{Host: "unix://" + l.Addr().String()})
		dialed <- err
	}()
	if err := <-dialed; !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "usermod -aG phonehost") {
		t.Errorf("Dial = %v", err)
	}
}
