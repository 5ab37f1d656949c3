package api

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
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/display/displaytest"
	"github.com/phonehost/phonehost/agent/doctor"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/stream"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/binder"
)

// media is a server of streams, host and images, reached through memory. A call's metadata "caller" names its
// identity, as the doors would.
type media struct {
	streams phonehostv1.StreamServiceClient
	hosts   phonehostv1.HostServiceClient
	images  phonehostv1.ImageServiceClient

	dir      string
	displays *display.Registry
	hub      *stream.Hub
	health   *health.Registry
	store    *memoryStore
	diskFree uint64
	binder   func() (binder.Support, int, error)

	mu     sync.Mutex
	phones map[string]bool // whether they are on
}

// CheckOn makes media the hub's Phones.
func (m *media) CheckOn(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch on, known := m.phones[id]; {
	case !known:
		return fault.New(errdefs.ErrNotFound, fault.NoSuchPhone, "no phone %q", id)
	case !on:
		return fault.New(errdefs.ErrFailedPrecondition, fault.NotRunning, "phone %s is off", id)
	}
	return nil
}

// identified gives a call the identity that its metadata names.
type identified struct {
	grpc.ServerStream
	ctx context.Context
}

func (s identified) Context() context.Context { return s.ctx }

func identify(srv any, call grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	name := "fleet"
	if md, ok := metadata.FromIncomingContext(call.Context()); ok && len(md["caller"]) > 0 {
		name = md["caller"][0]
	}
	info := access.AuthInfo{Identity: access.Identity{Kind: access.KindClient, Name: name}}
	return handler(srv, identified{call, access.NewContext(call.Context(), info)})
}

// as makes the calls of a context those of another identity.
func as(ctx context.Context, name string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "caller", name)
}

func newMedia(t *testing.T) *media {
	t.Helper()
	m := &media{dir: t.TempDir(), health: health.New(nil), store: &memoryStore{}, diskFree: 10 << 30, phones: map[string]bool{"p1": true, "off": false}}
	m.binder = func() (binder.Support, int, error) { return binder.Support{}, 0, nil }
	var err error
	if m.displays, err = display.NewRegistry(display.Config{Dir: m.dir}); err != nil {
		t.Fatal(err)
	}
	if m.hub, err = stream.NewHub(stream.Config{Displays: m.displays, Phones: m, AttachTimeout: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.StreamInterceptor(identify))
	phonehostv1.RegisterStreamServiceServer(server, NewStreamServer(m.hub))
	phonehostv1.RegisterHostServiceServer(server, NewHostServer(HostConfig{
		Name: "host-1", Version: "1.2.3", Start: time.Unix(1000, 0), StateDir: m.dir,
		PhonesByStatus: func() [6]int { return [6]int{0, 1, 2, 0, 0, 3} },
		Viewers:        func() int { return int(m.hub.Totals().Viewers) },
		ContainerdVersion: func(context.Context) (string, error) {
			if !m.health.Serving() {
				return "", errors.New("no answer")
			}
			return "1.6.20", nil
		},
		Binder: func() (binder.Support, int, error) { return m.binder() },
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Health: m.health,
		Doctor: doctor.New(doctor.Config{StateDir: m.dir, Health: m.health}),
	}))
	phonehostv1.RegisterImageServiceServer(server, NewImageServer(ImageConfig{
		Store: m.store, DiskReserveBytes: 1 << 30, SpoolDir: m.dir,
		DiskFree: func() (uint64, error) { return m.diskFree, nil },
		Users: func(ref string) int {
			if ref == "phonehost.dev/used:1" {
				return 2
			}
			return 0
		},
	}))
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		m.hub.Shutdown()
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		m.displays.Shutdown()
	})
	m.streams = phonehostv1.NewStreamServiceClient(conn)
	m.hosts = phonehostv1.NewHostServiceClient(conn)
	m.images = phonehostv1.NewImageServiceClient(conn)
	return m
}

// power connects a display to phone p1.
func (m *media) power(t *testing.T, s *displaytest.Server) *displaytest.Server {
	t.Helper()
	if err := s.Listen(m.dir, "p1"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := m.displays.WaitReady(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	return s
}

// wantStatus checks the code and the reason of an error, and a part of its text.
func wantStatus(t *testing.T, err error, code codes.Code, reason, says string) {
	t.Helper()
	st := status.Convert(err)
	got := ""
	for _, d := range st.Details() {
		if info, is := d.(*errdetails.ErrorInfo); is && info.GetDomain() == fault.Domain {
			got = info.GetReason()
		}
	}
	if st.Code() != code || got != reason || !strings.Contains(st.Message(), says) {
		t.Errorf("error %v, reason %q: %q; want %v, %q: %q", st.Code(), got, st.Message(), code, reason, says)
	}
}
