package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/display/displaytest"
	"github.com/phonehost/phonehost/agent/doctor"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/stream"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/image"
)

// media is a server with the services of this file's concern, reached through memory. A call's metadata "caller" names its
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
		Health: m.health,
		Doctor: doctor.New(doctor.Config{StateDir: m.dir, Health: m.health}),
	}))
	phonehostv1.RegisterImageServiceServer(server, NewImageServer(ImageConfig{
		Store: m.store, DiskReserveBytes: 1 << 30,
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

type attachCall = grpc.BidiStreamingClient[phonehostv1.AttachRequest, phonehostv1.AttachResponse]

// attach starts a call of Attach and returns its first answer.
func (m *media) attach(ctx context.Context, t *testing.T, start *phonehostv1.AttachStart) (attachCall, *phonehostv1.Attached, error) {
	t.Helper()
	call, err := m.streams.Attach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if start != nil {
		if err := call.Send(&phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Start{Start: start}}); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := call.Recv()
	return call, answer.GetAttached(), err
}

func TestAttach(t *testing.T) {
	m := newMedia(t)
	d := m.power(t, &displaytest.Server{})
	ctx, leave := context.WithCancel(t.Context())
	call, attached, err := m.attach(ctx, t, &phonehostv1.AttachStart{PhoneId: "p1", BitrateKbps: 2000})
	if err != nil {
		t.Fatal(err)
	}
	want := &phonehostv1.Attached{ViewerId: attached.GetViewerId(), Width: 720, Height: 1280, MaxFps: 30, BitrateKbps: 2000, Encoder: "marks"}
	if diff := cmp.Diff(want, attached, protocmp.Transform()); diff != "" || attached.GetViewerId() == "" {
		t.Errorf("attached (-want +got):\n%s", diff)
	}
	for n := uint64(1); n <= 5; n++ {
		d.Commit()
		answer, err := call.Recv()
		if err != nil {
			t.Fatal(err)
		}
		p := answer.GetPacket()
		if p.GetSeq() != n || p.GetKey() != (n == 1) || p.GetFrame() != n || p.GetSendTimeNs() == 0 || !bytes.HasPrefix(p.GetData(), []byte("frame ")) {
			t.Errorf("packet %d: seq %d, key %t, frame %d, %q", n, p.GetSeq(), p.GetKey(), p.GetFrame(), p.GetData()[:8])
		}
		if err := call.Send(&phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Ack{Ack: &phonehostv1.Ack{Seq: n}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range []*phonehostv1.AttachRequest{
		{Message: &phonehostv1.AttachRequest_Rate{Rate: &phonehostv1.RateRequest{BitrateKbps: 900}}},
		{Message: &phonehostv1.AttachRequest_KeyFrame{KeyFrame: &phonehostv1.KeyFrameRequest{}}},
	} {
		if err := call.Send(q); err != nil {
			t.Fatal(err)
		}
	}
	if answer, err := call.Recv(); err != nil || !answer.GetPacket().GetKey() {
		t.Errorf("after a request for a key frame: %v, %v", answer, err)
	}
	for _, l := range d.Levels() {
		if l.Rate != 900 {
			t.Errorf("rate %d, want 900", l.Rate)
		}
	}
	d.Close()
	if answer, err := call.Recv(); err != nil || answer.GetDisplayLost() == nil {
		t.Errorf("after the loss of the display: %v, %v", answer, err)
	}
	d = m.power(t, &displaytest.Server{Width: 240, Height: 320})
	if answer, err := call.Recv(); err != nil || answer.GetDisplayBack().GetWidth() != 240 {
		t.Errorf("after its return: %v, %v", answer, err)
	}
	d.Commit()
	if answer, err := call.Recv(); err != nil || !answer.GetPacket().GetKey() {
		t.Errorf("first packet after the return: %v, %v", answer, err)
	}
	leave()
	if _, err := call.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after leaving: %v", err)
	}
}

func TestAttachLeavesInOrder(t *testing.T) {
	m := newMedia(t)
	m.power(t, &displaytest.Server{})
	call, _, err := m.attach(t.Context(), t, &phonehostv1.AttachStart{PhoneId: "p1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := call.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := call.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after CloseSend: %v", err)
	}
	if n := m.hub.Viewers("p1"); n != 0 {
		t.Errorf("%d viewers are left", n)
	}
}

func TestAttachErrors(t *testing.T) {
	m := newMedia(t)
	m.power(t, &displaytest.Server{})
	starts := []struct {
		name   string
		start  *phonehostv1.AttachStart
		code   codes.Code
		reason string
		says   string
	}{
		{"unknown phone", &phonehostv1.AttachStart{PhoneId: "nobody"}, codes.NotFound, fault.NoSuchPhone, "nobody"},
		{"phone off", &phonehostv1.AttachStart{PhoneId: "off"}, codes.FailedPrecondition, fault.NotRunning, "off"},
		{"rate too low", &phonehostv1.AttachStart{PhoneId: "p1", BitrateKbps: 99}, codes.InvalidArgument, fault.InvalidField, "bitrate_kbps: 99"},
		{"rate too high", &phonehostv1.AttachStart{PhoneId: "p1", BitrateKbps: 10001}, codes.InvalidArgument, fault.InvalidField, "100..10000"},
		{"frame rate above the display's", &phonehostv1.AttachStart{PhoneId: "p1", MaxFps: 31}, codes.InvalidArgument, fault.InvalidField, "1..30"},
	}
	for _, tt := range starts {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := m.attach(t.Context(), t, tt.start)
			wantStatus(t, err, tt.code, tt.reason, tt.says)
		})
	}
	t.Run("no start", func(t *testing.T) {
		call, err := m.streams.Attach(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := call.CloseSend(); err != nil {
			t.Fatal(err)
		}
		_, err = call.Recv()
		wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "before its first message")
	})
	messages := []struct {
		name string
		q    *phonehostv1.AttachRequest
		says string
	}{
		{"acknowledges what was not sent", &phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Ack{Ack: &phonehostv1.Ack{Seq: 9}}}, "ack.seq"},
		{"second start", &phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Start{Start: &phonehostv1.AttachStart{}}}, "sent before"},
		{"rate out of range", &phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Rate{Rate: &phonehostv1.RateRequest{}}}, "bitrate_kbps: 0"},
		{"empty", &phonehostv1.AttachRequest{}, "empty or not known"},
	}
	for _, tt := range messages {
		t.Run(tt.name, func(t *testing.T) {
			call, _, err := m.attach(t.Context(), t, &phonehostv1.AttachStart{PhoneId: "p1"})
			if err != nil {
				t.Fatal(err)
			}
			if err := call.Send(tt.q); err != nil {
				t.Fatal(err)
			}
			_, err = call.Recv()
			wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, tt.says)
		})
	}
	t.Run("first message is not start", func(t *testing.T) {
		call, err := m.streams.Attach(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := call.Send(messages[0].q); err != nil {
			t.Fatal(err)
		}
		_, err = call.Recv()
		wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "start: must be the first message")
	})
	t.Run("phone powered off meanwhile", func(t *testing.T) {
		call, _, err := m.attach(t.Context(), t, &phonehostv1.AttachStart{PhoneId: "p1"})
		if err != nil {
			t.Fatal(err)
		}
		m.displays.Close("p1")
		_, err = call.Recv()
		wantStatus(t, err, codes.FailedPrecondition, fault.NotRunning, "phone p1 is off")
	})
}

func touch(id uint32, action phonehostv1.TouchAction, x, y float64) *phonehostv1.InputRequest {
	return &phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Touch{Touch: &phonehostv1.TouchEvent{Id: id, Action: action, X: x, Y: y}}}
}

// input makes a call of Input with events and returns its result.
func (m *media) input(ctx context.Context, t *testing.T, viewer string, events ...*phonehostv1.InputRequest) (*phonehostv1.InputResponse, error) {
	t.Helper()
	call, err := m.streams.Input(ctx)
	if err != nil {
		t.Fatal(err)
	}
	start := &phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Start{Start: &phonehostv1.InputStart{PhoneId: "p1", ViewerId: viewer}}}
	for _, q := range append([]*phonehostv1.InputRequest{start}, events...) {
		if err := call.Send(q); err != nil {
			break // CloseAndRecv tells why
		}
	}
	return call.CloseAndRecv()
}

func TestInput(t *testing.T) {
	m := newMedia(t)
	d := m.power(t, &displaytest.Server{})
	answer, err := m.input(t.Context(), t, "",
		touch(3, phonehostv1.TouchAction_TOUCH_ACTION_DOWN, 1.5, 2),
		&phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Key{Key: &phonehostv1.KeyEvent{Code: 116, Down: true}}},
		&phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Text{Text: &phonehostv1.TextEvent{Text: "hi\n"}}},
		&phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Wheel{Wheel: &phonehostv1.WheelEvent{X: 1, Y: 2, Dx: -3, Dy: 4}}},
	)
	if err != nil || answer.GetEvents() != 4 {
		t.Fatalf("answer %v, %v", answer, err)
	}
	got := d.Inputs()
	if len(got) != 6 {
		t.Fatalf("the display got %d events, want the four and two that lift: %v", len(got), got)
	}
	if w := got[3].GetWheel(); w.GetX() != 1 || w.GetY() != 2 || w.GetDx() != -3 || w.GetDy() != 4 {
		t.Errorf("wheel %v", w)
	}
	if got[2].GetText() != "hi\n" || got[0].GetTouch().GetX() != 1.5 || !got[1].GetKey().GetDown() {
		t.Errorf("events %v", got)
	}
	if up := got[4].GetTouch(); up.GetAction() != 3 || up.GetX() != 1.5 {
		t.Errorf("the touch was not lifted: %v", got[4])
	}
	if key := got[5].GetKey(); key.GetCode() != 116 || key.GetDown() {
		t.Errorf("the key was not lifted: %v", got[5])
	}
}

func TestInputErrors(t *testing.T) {
	m := newMedia(t)
	m.power(t, &displaytest.Server{})
	_, attached, err := m.attach(t.Context(), t, &phonehostv1.AttachStart{PhoneId: "p1"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.input(t.Context(), t, "", touch(0, phonehostv1.TouchAction_TOUCH_ACTION_DOWN, 1, 1), touch(0, phonehostv1.TouchAction_TOUCH_ACTION_DOWN, 1, 1))
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "event 2: touch.action: point 0 is down already")
	_, err = m.input(t.Context(), t, "", &phonehostv1.InputRequest{})
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "event 1: message: no event")
	_, err = m.input(t.Context(), t, "v-nobody")
	wantStatus(t, err, codes.NotFound, stream.NoSuchViewer, "v-nobody")
	_, err = m.input(as(t.Context(), "thief"), t, attached.GetViewerId())
	wantStatus(t, err, codes.NotFound, stream.NoSuchViewer, attached.GetViewerId())
	if _, err = m.input(t.Context(), t, attached.GetViewerId()); err != nil {
		t.Errorf("input bound to the caller's own viewer: %v", err)
	}
	for name, tt := range map[string]struct {
		phone, reason string
		code          codes.Code
	}{"unknown phone": {"nobody", fault.NoSuchPhone, codes.NotFound}, "phone off": {"off", fault.NotRunning, codes.FailedPrecondition}} {
		t.Run(name, func(t *testing.T) {
			call, err := m.streams.Input(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := call.Send(&phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Start{Start: &phonehostv1.InputStart{PhoneId: tt.phone}}}); err != nil {
				t.Fatal(err)
			}
			_, err = call.CloseAndRecv()
			wantStatus(t, err, tt.code, tt.reason, tt.phone)
		})
	}
	t.Run("no start", func(t *testing.T) {
		call, err := m.streams.Input(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = call.CloseAndRecv()
		wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "before its first message")
	})
	t.Run("first message is not start", func(t *testing.T) {
		call, err := m.streams.Input(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := call.Send(touch(0, 1, 0, 0)); err != nil {
			t.Fatal(err)
		}
		_, err = call.CloseAndRecv()
		wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "start: must be the first message")
	})
}

func TestInputEndsWithItsViewer(t *testing.T) {
	m := newMedia(t)
	d := m.power(t, &displaytest.Server{})
	viewer, attached, err := m.attach(t.Context(), t, &phonehostv1.AttachStart{PhoneId: "p1"})
	if err != nil {
		t.Fatal(err)
	}
	call, err := m.streams.Input(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		for len(d.Inputs()) == 0 && t.Context().Err() == nil {
		}
	}()
	for _, q := range []*phonehostv1.InputRequest{
		{Message: &phonehostv1.InputRequest_Start{Start: &phonehostv1.InputStart{PhoneId: "p1", ViewerId: attached.GetViewerId()}}},
		touch(0, phonehostv1.TouchAction_TOUCH_ACTION_DOWN, 5, 5),
	} {
		if err := call.Send(q); err != nil {
			t.Fatal(err)
		}
	}
	<-delivered
	if err := viewer.CloseSend(); err != nil {
		t.Fatal(err)
	}
	err = call.RecvMsg(new(phonehostv1.InputResponse))
	if status.Code(err) != codes.Canceled {
		t.Errorf("input after its viewer has left: %v", err)
	}
	if got := d.Inputs(); len(got) != 2 || got[1].GetTouch().GetAction() != 3 {
		t.Errorf("the touch was not lifted: %v", got)
	}
}

func TestInputWithoutScreen(t *testing.T) {
	m := newMedia(t)
	m.power(t, &displaytest.Server{RefuseInput: true})
	_, err := m.input(t.Context(), t, "", touch(0, phonehostv1.TouchAction_TOUCH_ACTION_DOWN, 5, 5))
	wantStatus(t, err, codes.FailedPrecondition, stream.NoScreen, "no window takes input")
}

// screenshot gathers a picture and checks the size of its parts.
func (m *media) screenshot(t *testing.T, q *phonehostv1.ScreenshotRequest) ([]byte, error) {
	t.Helper()
	call, err := m.streams.Screenshot(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	var picture []byte
	for {
		part, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return picture, nil
		}
		if err != nil {
			return nil, err
		}
		if n := len(part.GetChunk()); n == 0 || n > 64<<10 {
			t.Errorf("a part of %d bytes", n)
		}
		picture = append(picture, part.GetChunk()...)
	}
}

func TestScreenshot(t *testing.T) {
	m := newMedia(t)
	picture := bytes.Repeat([]byte("picture "), 20_000)
	d := m.power(t, &displaytest.Server{Picture: picture})
	got, err := m.screenshot(t, &phonehostv1.ScreenshotRequest{PhoneId: "p1"})
	if err != nil || !bytes.Equal(got, picture) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(picture))
	}
	_, err = m.screenshot(t, &phonehostv1.ScreenshotRequest{PhoneId: "p1", Format: 9})
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "format: 9")
	_, err = m.screenshot(t, &phonehostv1.ScreenshotRequest{PhoneId: "nobody"})
	wantStatus(t, err, codes.NotFound, fault.NoSuchPhone, "nobody")
	_, err = m.screenshot(t, &phonehostv1.ScreenshotRequest{PhoneId: "off"})
	wantStatus(t, err, codes.FailedPrecondition, fault.NotRunning, "off")
	m.displays.Close("p1")
	_, err = m.screenshot(t, &phonehostv1.ScreenshotRequest{PhoneId: "p1"})
	wantStatus(t, err, codes.Unavailable, stream.DisplayLost, "not connected")
	d.Close()
	m.power(t, &displaytest.Server{})
	_, err = m.screenshot(t, &phonehostv1.ScreenshotRequest{PhoneId: "p1"})
	wantStatus(t, err, codes.FailedPrecondition, stream.NoScreen, "nothing has been drawn")
}

func TestHost(t *testing.T) {
	m := newMedia(t)
	answer, err := m.hosts.GetHost(t.Context(), &phonehostv1.GetHostRequest{})
	if err != nil {
		t.Fatal(err)
	}
	h := answer.GetHost()
	if h.GetName() != "host-1" || h.GetVersion() != "1.2.3" || h.GetContainerdVersion() != "1.6.20" || h.GetStartTime().GetSeconds() != 1000 ||
		h.GetCpus() == 0 || h.GetMemoryBytes() == 0 || h.GetDiskBytes() == 0 || h.GetKernel() == "" || h.GetArch() == "" {
		t.Errorf("host %v", h)
	}
	if diff := cmp.Diff([]uint32{0, 1, 2, 0, 0, 3}, h.GetPhonesByStatus()); diff != "" {
		t.Errorf("phones by status (-want +got):\n%s", diff)
	}
	m.health.Set("containerd-lost", health.Error, "no answer")
	m.health.Set("disk-low", health.Warning, "2 GiB left")
	if answer, err = m.hosts.GetHost(t.Context(), &phonehostv1.GetHostRequest{}); err != nil {
		t.Fatal(err)
	}
	w := answer.GetHost().GetWarnings()
	if len(w) != 2 || w[0].GetName() != "containerd-lost" || w[0].GetSeverity() != phonehostv1.Severity_SEVERITY_ERROR ||
		w[1].GetSeverity() != phonehostv1.Severity_SEVERITY_WARNING || w[1].GetMessage() != "2 GiB left" || !w[1].GetSince().IsValid() {
		t.Errorf("warnings %v", w)
	}
	if v := answer.GetHost().GetContainerdVersion(); v != "" {
		t.Errorf("containerd's version is %q while it does not answer", v)
	}
	found, err := m.hosts.RunDoctor(t.Context(), &phonehostv1.RunDoctorRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(found.GetFindings()), len(doctor.Checks()); got != want {
		t.Errorf("%d findings, want %d", got, want)
	}
	for i, f := range found.GetFindings() {
		if f.GetCheck() != doctor.Checks()[i].Name || f.GetSeverity() == phonehostv1.Severity_SEVERITY_UNSPECIFIED || f.GetMessage() == "" {
			t.Errorf("finding %v", f)
		}
	}
}

func TestFeedHealth(t *testing.T) {
	register, service := health.New(nil), grpchealth.NewServer()
	check := func(name string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		answer, err := service.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
		if err != nil || answer.GetStatus() != want {
			t.Errorf("%q: %v, %v; want %v", name, answer, err, want)
		}
	}
	stop := FeedHealth(register, service, "phonehost.v1.PhoneService")
	check("phonehost.v1.PhoneService", healthpb.HealthCheckResponse_SERVING)
	register.Set("x", health.Error, "broken")
	check("", healthpb.HealthCheckResponse_NOT_SERVING)
	check("phonehost.v1.PhoneService", healthpb.HealthCheckResponse_NOT_SERVING)
	register.Clear("x")
	check("", healthpb.HealthCheckResponse_SERVING)
	stop()
	register.Set("x", health.Error, "broken")
	check("", healthpb.HealthCheckResponse_SERVING)
}

// memoryStore keeps images in memory: a test of the service needs errors that containerd does not give when asked.
type memoryStore struct {
	images []image.Image
	err    error
	got    []byte
	name   string
}

func (s *memoryStore) Pull(ctx context.Context, ref string, progress func(image.Progress)) (image.Image, error) {
	for i := range uint64(3) {
		progress(image.Progress{Step: "fetching", FetchedBytes: i, TotalBytes: 2})
	}
	return image.Image{Name: ref, Digest: "sha256:1", SizeBytes: 5, CreatedAt: time.Unix(7, 0), Platforms: []string{"linux/arm64"}}, s.err
}

func (s *memoryStore) Import(ctx context.Context, name string, archive io.Reader) (image.Image, error) {
	b, err := io.ReadAll(archive)
	s.got, s.name = b, name
	return image.Image{Name: name}, errors.Join(err, s.err)
}

func (s *memoryStore) List(context.Context) ([]image.Image, error) { return s.images, s.err }

func (s *memoryStore) Get(_ context.Context, ref string) (image.Image, error) {
	for _, img := range s.images {
		if img.Name == ref {
			return img, s.err
		}
	}
	return image.Image{}, errors.Join(s.err, errdefs.ErrNotFound)
}

func (s *memoryStore) Remove(_ context.Context, ref string) error {
	for i, img := range s.images {
		if img.Name == ref {
			s.images = append(s.images[:i], s.images[i+1:]...)
			return nil
		}
	}
	return errdefs.ErrNotFound
}

func TestPullImage(t *testing.T) {
	m := newMedia(t)
	pull := func(name string) ([]*phonehostv1.PullImageResponse, error) {
		call, err := m.images.PullImage(t.Context(), &phonehostv1.PullImageRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		var all []*phonehostv1.PullImageResponse
		for {
			answer, err := call.Recv()
			if errors.Is(err, io.EOF) {
				return all, nil
			}
			if err != nil {
				return all, err
			}
			all = append(all, answer)
		}
	}
	all, err := pull("phonehost.dev/used:1")
	if err != nil || len(all) != 4 {
		t.Fatalf("%d answers, %v", len(all), err)
	}
	if p := all[2]; p.GetProgress() != "fetching" || p.GetFetchedBytes() != 2 || p.GetTotalBytes() != 2 || p.GetImage() != nil {
		t.Errorf("progress %v", p)
	}
	if img := all[3].GetImage(); img.GetName() != "phonehost.dev/used:1" || img.GetDigest() != "sha256:1" || img.GetSizeBytes() != 5 || img.GetPhones() != 2 || img.GetCreateTime().GetSeconds() != 7 {
		t.Errorf("image %v", img)
	}
	_, err = pull("")
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "name: is empty")
	m.store.err = errdefs.ErrUnavailable
	_, err = pull("registry.example/x:1")
	wantStatus(t, err, codes.Unavailable, "", "unavailable")
	m.diskFree = 1
	_, err = pull("registry.example/x:1")
	wantStatus(t, err, codes.ResourceExhausted, fault.DiskLow, "reserve of 1024 MiB")
}

func TestImportImage(t *testing.T) {
	m := newMedia(t)
	send := func(messages ...*phonehostv1.ImportImageRequest) (*phonehostv1.ImportImageResponse, error) {
		call, err := m.images.ImportImage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range messages {
			if err := call.Send(q); err != nil {
				break // CloseAndRecv tells why
			}
		}
		return call.CloseAndRecv()
	}
	chunk := func(n int) *phonehostv1.ImportImageRequest {
		return &phonehostv1.ImportImageRequest{Chunk: bytes.Repeat([]byte{7}, n)}
	}
	first := chunk(3)
	first.Name = "phonehost.dev/new:1"
	answer, err := send(first, chunk(64<<10), chunk(0), chunk(5))
	if err != nil || answer.GetImage().GetName() != "phonehost.dev/new:1" {
		t.Fatalf("answer %v, %v", answer, err)
	}
	if !bytes.Equal(m.store.got, bytes.Repeat([]byte{7}, 3+64<<10+5)) && len(m.store.got) != 3+(64<<10)+5 {
		t.Errorf("the store got %d bytes", len(m.store.got))
	}
	_, err = send(chunk(64<<10 + 1))
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "chunk: 65537")
	_, err = send(first, chunk(64<<10+1))
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "chunk: 65537")
	_, err = send(first, first)
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "name: is for the first message only")
	_, err = send()
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "before its first message")
	m.store.err = errdefs.ErrInvalidArgument
	_, err = send(first)
	wantStatus(t, err, codes.InvalidArgument, "", "invalid argument")
	m.diskFree = 1
	_, err = send(first)
	wantStatus(t, err, codes.ResourceExhausted, fault.DiskLow, "reserve")
}

func TestListAndRemoveImages(t *testing.T) {
	m := newMedia(t)
	m.store.images = []image.Image{{Name: "phonehost.dev/free:1", Profile: "testphone"}, {Name: "phonehost.dev/used:1"}}
	list, err := m.images.ListImages(t.Context(), &phonehostv1.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 2 || list.GetImages()[0].GetProfile() != "testphone" || list.GetImages()[1].GetPhones() != 2 {
		t.Fatalf("images %v, %v", list, err)
	}
	remove := func(name string) error {
		_, err := m.images.RemoveImage(t.Context(), &phonehostv1.RemoveImageRequest{Name: name})
		return err
	}
	wantStatus(t, remove("phonehost.dev/used:1"), codes.FailedPrecondition, ImageInUse, "named by 2 phones")
	wantStatus(t, remove("phonehost.dev/none:1"), codes.NotFound, fault.NoSuchImage, "none:1")
	if err := remove("phonehost.dev/free:1"); err != nil {
		t.Error(err)
	}
	wantStatus(t, remove("phonehost.dev/free:1"), codes.NotFound, fault.NoSuchImage, "free:1")
	m.store.err = errdefs.ErrUnavailable
	_, err = m.images.ListImages(t.Context(), &phonehostv1.ListImagesRequest{})
	wantStatus(t, err, codes.Unavailable, "", "unavailable")
}
