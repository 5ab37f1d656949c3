package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/command"
	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/guestfile"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/agent/store"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/container"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is the API over a host in memory, behind a door that lets root in.
type server struct {
	world   *phonetest.World
	guests  *guests
	phones  phonehostv1.PhoneServiceClient
	ops     phonehostv1.OperationServiceClient
	events  phonehostv1.EventServiceClient
	conn    *grpc.ClientConn
	journal *event.Journal
	sup     *phone.Supervisor
	api     *Server
	data    phonehostv1.DataServiceClient

	networks phonehostv1.NetworkPolicyServiceClient
	lists    phonehostv1.AppListServiceClient
	guard    *guard

	volumes *volumes
	spool   string // directory of the archives
}

// images knows the images of the tests: testphone, an older and a newer one, and one of another profile.
type images struct{}

func (images) Image(_ context.Context, ref string) (phone.Image, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(ref, "phonehost.dev/"), ":latest")
	img := phone.Image{Name: "phonehost.dev/" + name + ":latest", Profile: "testphone"}
	switch name {
	case "testphone":
		img.Digest, img.AndroidVersion = "sha256:1", "13"
	case "older":
		img.Digest, img.AndroidVersion = "sha256:2", "12"
	case "newer":
		img.Digest, img.AndroidVersion = "sha256:3", "14"
	case "other":
		img.Digest, img.Profile = "sha256:4", "waydroid"
	default:
		return phone.Image{}, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
	}
	return img, nil
}

// screens is a display that has committed three frames more whenever it is asked.
type screens struct{ committed atomic.Uint64 }

func (s *screens) State(string) display.State {
	return display.State{Connected: true, HasContent: true, FramesCommitted: s.committed.Load(), FramesChanged: 2, FramesEncoded: 1, Version: "v"}
}

func (s *screens) Refresh(_ context.Context, id string) (display.State, error) {
	s.committed.Add(3)
	return s.State(id), nil
}

// guests is the engine's side of Exec, Logs and GetSpec: each test says what the guest does.
type guests struct {
	mu    sync.Mutex
	exec  func(ctx context.Context, opts container.ExecOptions) (uint32, error)
	lines func(ctx context.Context, role container.Role, opts container.LogOptions, send func(container.LogLine) error) error
}

func (g *guests) Exec(ctx context.Context, _ string, opts container.ExecOptions) (uint32, error) {
	g.mu.Lock()
	run := g.exec
	g.mu.Unlock()
	return run(ctx, opts)
}

func (g *guests) EndExec(context.Context, string, string) error { return errdefs.ErrNotFound }

func (g *guests) ReadLog(ctx context.Context, _ string, role container.Role, opts container.LogOptions, send func(container.LogLine) error) error {
	g.mu.Lock()
	read := g.lines
	g.mu.Unlock()
	return read(ctx, role, opts, send)
}

func (g *guests) Specs(_ context.Context, p container.Phone) (guest, screen *specs.Spec, err error) {
	return &specs.Spec{Version: "1", Hostname: p.ID}, &specs.Spec{Version: "1", Hostname: p.ID + ".display"}, nil
}

// door is a listener whose peers are all root.
type door struct{ *bufconn.Listener }

type rootConn struct{ net.Conn }

func (rootConn) Identity() access.Identity { return access.Identity{Kind: access.KindUID} }
func (rootConn) Door() string              { return "unix" }
func (rootConn) SessionKind() string       { return "" }

func (d door) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return rootConn{c}, nil
}

// start serves the API of a host whose phones have no network until the test ends.
func start(t testing.TB) *server {
	t.Helper()
	return startOver(t, nil)
}

// startOver is start for a host whose phones have networks, unless the engine is nil.
func startOver(t testing.TB, engine *wires) *server {
	t.Helper()
	db, err := store.Open(store.Config{Path: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	journal, err := event.New(event.Config{DB: db, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	ops, err := operation.New(operation.Config{DB: db, Journal: journal})
	if err != nil {
		t.Fatal(err)
	}
	w := phonetest.New()
	vols, spool, spoolDir := newVolumes(t, w)
	cfg := phone.Config{
		DB: db, Operations: ops, Journal: journal, Runtime: w, Networks: phonetest.Networks{World: w},
		Displays: phonetest.Displays{World: w}, Images: images{}, Volumes: w, Archives: spool,
		Host: phone.Capacity{CPUs: 4, MemoryBytes: 8 << 30}, HostBoot: "b", Logger: logger,
	}
	networks := engine.open(t, &cfg)
	kernel := newGuard(w)
	lists := kernel.open(t, &cfg)
	sup, err := phone.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	lists.Start(t.Context(), sup)
	if err := sup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := &server{world: w, guests: &guests{}, journal: journal, sup: sup, volumes: vols, spool: spoolDir, guard: kernel}
	commands := &command.Runner{Guests: s.guests, Phones: sup}
	jobs, err := job.New(job.Config{
		DB: db, Operations: ops, Phones: sup, Logger: logger, Handlers: map[operation.Kind]job.Handler{operation.Command: commands.Handler()},
	})
	if err != nil {
		t.Fatal(err)
	}
	grpcServer := NewServer(access.Config{}, Services{
		Phones: NewPhoneServer(PhoneConfig{
			Phones: sup, Guests: s.guests, Displays: &screens{}, Viewers: func(string) int { return 2 },
			AppLists: lists.State,
		}),
		Operations: NewOperationServer(ops),
		Events:     NewEventServer(journal),
		Streams:    phonehostv1.UnimplementedStreamServiceServer{},
		Hosts:      phonehostv1.UnimplementedHostServiceServer{},
		Images:     phonehostv1.UnimplementedImageServiceServer{},
		Commands:   NewCommandServer(CommandConfig{Commands: commands, Jobs: jobs}),
		Data:       NewDataServer(DataConfig{Phones: sup, Volumes: vols, Spool: spool}),
		Networks:   NewNetworkServer(NetworkConfig{Phones: sup, Network: networks}),
		AppLists:   NewAppListServer(lists),
		Files:      NewFileServer(&guestfile.Copier{Guests: s.guests, Phones: sup}),
	})
	s.api = grpcServer
	listener := bufconn.Listen(1 << 20)
	served := make(chan error)
	go func() { served <- grpcServer.Serve(door{listener}) }()
	s.conn, err = grpc.NewClient("passthrough:///bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.conn.Close()
		grpcServer.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		jobs.Close()
		sup.Close()
		lists.Close()
		if networks != nil {
			networks.Close()
		}
		journal.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s.phones, s.ops, s.events = phonehostv1.NewPhoneServiceClient(s.conn), phonehostv1.NewOperationServiceClient(s.conn), phonehostv1.NewEventServiceClient(s.conn)
	s.data, s.networks = phonehostv1.NewDataServiceClient(s.conn), phonehostv1.NewNetworkPolicyServiceClient(s.conn)
	s.lists = phonehostv1.NewAppListServiceClient(s.conn)
	return s
}

// create makes a phone.
func (s *server) create(t testing.TB, id string) *phonehostv1.Phone {
	t.Helper()
	answer, err := s.phones.CreatePhone(t.Context(), &phonehostv1.CreatePhoneRequest{
		Spec: &phonehostv1.PhoneSpec{Id: id, Image: "testphone", MemoryBytes: 256 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetPhone()
}

// on makes a phone that runs.
func (s *server) on(t testing.TB, id string) {
	t.Helper()
	s.create(t, id)
	answer, err := s.phones.PowerOn(t.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	if op := s.finish(t, answer.GetOperation()); op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("power on: %v", op)
	}
}

// finish waits for an operation.
func (s *server) finish(t testing.TB, op *phonehostv1.Operation) *phonehostv1.Operation {
	t.Helper()
	watch, err := s.ops.Watch(t.Context(), &phonehostv1.OperationServiceWatchRequest{OperationId: op.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := watch.Recv()
		if err != nil {
			return op
		}
		op = m.GetOperation()
	}
}

// refusal is what a program reads of an error.
type refusal struct {
	Code   codes.Code
	Reason string
	Field  string
}

// readError reads an error as a program would.
func readError(t *testing.T, err error) refusal {
	t.Helper()
	st := status.Convert(err)
	r := refusal{Code: st.Code()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() != "phonehost.dev" {
				t.Errorf("domain of %v is %q", err, d.GetDomain())
			}
			r.Reason = d.GetReason()
		case *errdetails.BadRequest:
			r.Field = d.GetFieldViolations()[0].GetField()
		}
	}
	return r
}
