package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/stream"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// NewStreamServer returns the StreamService of a hub.
func NewStreamServer(hub *stream.Hub) phonehostv1.StreamServiceServer { return &streamServer{hub: hub} }

type streamServer struct {
	phonehostv1.UnimplementedStreamServiceServer
	hub *stream.Hub
}

// errLeft ends a viewer whose caller has closed its side.
var errLeft = errors.New("the viewer has left")

// Attach sends from the handler's goroutine and receives in one of its own, which ends with the call's context: gRPC ends
// that when the handler returns, and waits for nobody.
func (s *streamServer) Attach(call grpc.BidiStreamingServer[phonehostv1.AttachRequest, phonehostv1.AttachResponse]) error {
	first, err := call.Recv()
	if err != nil {
		return startError(err)
	}
	start := first.GetStart()
	if start == nil {
		return statusError(fault.Field("start", "must be the first message"))
	}
	viewer, err := s.hub.Attach(call.Context(), stream.AttachOptions{
		Phone: start.GetPhoneId(), Identity: caller(call.Context()), BitrateKbps: start.GetBitrateKbps(), MaxFPS: start.GetMaxFps(),
	})
	if err != nil {
		return statusError(err)
	}
	err = watch(call, viewer)
	if errors.Is(err, errLeft) {
		err = nil
	}
	viewer.Close(err)
	return statusError(err)
}

// watch carries a viewer until it ends, and returns why.
func watch(call grpc.BidiStreamingServer[phonehostv1.AttachRequest, phonehostv1.AttachResponse], viewer *stream.Viewer) error {
	info := viewer.Info()
	if err := call.Send(&phonehostv1.AttachResponse{Message: &phonehostv1.AttachResponse_Attached{Attached: &phonehostv1.Attached{
		ViewerId: info.Viewer, Width: info.Width, Height: info.Height, MaxFps: info.MaxFPS, BitrateKbps: info.BitrateKbps, Encoder: info.Encoder,
	}}}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(call.Context())
	defer cancel(nil)
	go func() { cancel(hear(call, viewer)) }()
	for {
		m, err := viewer.Next(ctx)
		if err != nil {
			return err
		}
		if err := call.Send(viewerMessage(m)); err != nil {
			return err
		}
		// gRPC's writer goes first: the credit that Next may give wakes the display, on a processor that the packet needs now.
		runtime.Gosched()
	}
}

// hear takes what a viewer says until it leaves or says something wrong.
func hear(call grpc.BidiStreamingServer[phonehostv1.AttachRequest, phonehostv1.AttachResponse], viewer *stream.Viewer) error {
	for {
		q, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return errLeft
		}
		if err != nil {
			return err
		}
		switch m := q.GetMessage().(type) {
		case *phonehostv1.AttachRequest_Ack:
			err = viewer.Ack(m.Ack.GetSeq())
		case *phonehostv1.AttachRequest_KeyFrame:
			viewer.RequestKeyFrame()
		case *phonehostv1.AttachRequest_Rate:
			err = viewer.SetRate(m.Rate.GetBitrateKbps())
		case *phonehostv1.AttachRequest_Start:
			err = fault.Field("start", "was sent before; it is for the first message only")
		default:
			err = fault.Field("message", "is empty or not known: one of ack, key_frame, rate is needed")
		}
		if err != nil {
			return err
		}
	}
}

// viewerMessage turns a message to a viewer into the API's.
func viewerMessage(m stream.Message) *phonehostv1.AttachResponse {
	switch {
	case m.Lost != nil:
		return &phonehostv1.AttachResponse{Message: &phonehostv1.AttachResponse_DisplayLost{
			DisplayLost: &phonehostv1.DisplayLost{Reason: clipText(m.Lost.Reason)},
		}}
	case m.Back != nil:
		return &phonehostv1.AttachResponse{Message: &phonehostv1.AttachResponse_DisplayBack{
			DisplayBack: &phonehostv1.DisplayBack{Width: m.Back.Width, Height: m.Back.Height},
		}}
	}
	v := m.Packet.Video
	return &phonehostv1.AttachResponse{Message: &phonehostv1.AttachResponse_Packet{Packet: &phonehostv1.Packet{
		Seq: m.Packet.Seq, Key: v.GetKey(), Data: v.GetData(), Frame: v.GetFrame(),
		CommitTimeNs: v.GetCommitTimeNs(), EncodeStartTimeNs: v.GetEncodeStartTimeNs(), EncodeEndTimeNs: v.GetEncodeEndTimeNs(),
		SendTimeNs: m.Packet.SendTime.UnixNano(),
	}}}
}

// Input receives in a goroutine of its own, as Attach does, so that the end of the viewer ends the call.
func (s *streamServer) Input(call grpc.ClientStreamingServer[phonehostv1.InputRequest, phonehostv1.InputResponse]) error {
	first, err := call.Recv()
	if err != nil {
		return startError(err)
	}
	start := first.GetStart()
	if start == nil {
		return statusError(fault.Field("start", "must be the first message"))
	}
	in, err := s.hub.OpenInput(call.Context(), stream.InputOptions{
		Phone: start.GetPhoneId(), Viewer: start.GetViewerId(), Identity: caller(call.Context()),
	})
	if err != nil {
		return statusError(err)
	}
	err = feed(call, in)
	in.Close()
	if err != nil {
		return statusError(err)
	}
	return call.SendAndClose(&phonehostv1.InputResponse{Events: in.Events()})
}

// feed delivers what the caller sends until it closes its side or the input ends.
func feed(call grpc.ClientStreamingServer[phonehostv1.InputRequest, phonehostv1.InputResponse], in *stream.Input) error {
	type heard struct {
		q   *phonehostv1.InputRequest
		err error
	}
	ctx := call.Context()
	requests := make(chan heard)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			q, err := call.Recv()
			select {
			case requests <- heard{q, err}:
			case <-ended:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for n := 1; ; n++ {
		select {
		case <-in.Done():
			return in.Err()
		case r := <-requests:
			if errors.Is(r.err, io.EOF) {
				return nil
			}
			if r.err != nil {
				return r.err
			}
			if err := in.Send(ctx, inputEvent(r.q)); err != nil {
				return fmt.Errorf("event %d: %w", n, err)
			}
		}
	}
}

// inputEvent turns a message of the API into an event for a display. What it does not know becomes an event of no kind,
// which the hub refuses. The numbers of touch actions are the same in both protocols.
func inputEvent(q *phonehostv1.InputRequest) *displayv1.InputEvent {
	switch m := q.GetMessage().(type) {
	case *phonehostv1.InputRequest_Touch:
		return &displayv1.InputEvent{Event: &displayv1.InputEvent_Touch{Touch: &displayv1.Touch{
			Id: m.Touch.GetId(), Action: displayv1.TouchAction(m.Touch.GetAction()), X: m.Touch.GetX(), Y: m.Touch.GetY(),
		}}}
	case *phonehostv1.InputRequest_Key:
		return &displayv1.InputEvent{Event: &displayv1.InputEvent_Key{Key: &displayv1.Key{Code: m.Key.GetCode(), Down: m.Key.GetDown()}}}
	case *phonehostv1.InputRequest_Text:
		return &displayv1.InputEvent{Event: &displayv1.InputEvent_Text{Text: m.Text.GetText()}}
	case *phonehostv1.InputRequest_Wheel:
		return &displayv1.InputEvent{Event: &displayv1.InputEvent_Wheel{Wheel: &displayv1.Wheel{
			X: m.Wheel.GetX(), Y: m.Wheel.GetY(), Dx: m.Wheel.GetDx(), Dy: m.Wheel.GetDy(),
		}}}
	default:
		return &displayv1.InputEvent{}
	}
}

func (s *streamServer) Screenshot(q *phonehostv1.ScreenshotRequest, call grpc.ServerStreamingServer[phonehostv1.ScreenshotResponse]) error {
	switch q.GetFormat() {
	case phonehostv1.ImageFormat_IMAGE_FORMAT_UNSPECIFIED, phonehostv1.ImageFormat_IMAGE_FORMAT_PNG:
	default:
		return statusError(fault.Field("format", "%d is not a format: PNG", q.GetFormat()))
	}
	picture, err := s.hub.Screenshot(call.Context(), q.GetPhoneId())
	if err != nil {
		return statusError(err)
	}
	for len(picture) > 0 {
		n := min(len(picture), maxChunk)
		if err := call.Send(&phonehostv1.ScreenshotResponse{Chunk: picture[:n]}); err != nil {
			return err
		}
		picture = picture[n:]
	}
	return nil
}

// startError is the error of a call whose first message did not come.
func startError(err error) error {
	if errors.Is(err, io.EOF) {
		return statusError(fault.Field("start", "the call ended before its first message"))
	}
	return statusError(err)
}
