package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/phonehost/phonehost/agent/display/displaytest"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/stream"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

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
	delivered := make(chan struct{}, 2)
	d := m.power(t, &displaytest.Server{OnMessage: func(m *displayv1.ClientMessage) bool {
		if m.GetInput() != nil {
			delivered <- struct{}{}
		}
		return false
	}})
	viewer, attached, err := m.attach(t.Context(), t, &phonehostv1.AttachStart{PhoneId: "p1"})
	if err != nil {
		t.Fatal(err)
	}
	call, err := m.streams.Input(t.Context())
	if err != nil {
		t.Fatal(err)
	}
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
	wantStatus(t, err, codes.Canceled, stream.ViewerLeft, attached.GetViewerId())
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
