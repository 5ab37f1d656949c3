package stream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/display/displaytest"
	"github.com/phonehost/phonehost/agent/fault"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

func TestFirstPacketIsKeyFrame(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		v := h.attach(AttachOptions{})
		want := Info{Viewer: v.info.Viewer, Width: 720, Height: 1280, MaxFPS: 30, BitrateKbps: 4000, Encoder: "marks"}
		if diff := cmp.Diff(want, v.Info()); diff != "" {
			t.Errorf("Info (-want +got):\n%s", diff)
		}
		for i := range 3 {
			commit(d)
			p := packet(t, v)
			if p.Seq != uint64(i+1) || p.Video.GetKey() != (i == 0) || p.Video.GetFrame() != uint64(i+1) {
				t.Errorf("packet %d: seq %d, key %t, frame %d", i, p.Seq, p.Video.GetKey(), p.Video.GetFrame())
			}
			if !p.SendTime.Equal(time.Now()) {
				t.Errorf("send time %v, want now", p.SendTime)
			}
		}
		late := h.attach(AttachOptions{})
		if n := len(d.Levels()); n != 1 {
			t.Errorf("%d levels are open, want the shared one", n)
		}
		p := packet(t, late) // without another commit: a still screen is seen too
		if !p.Video.GetKey() || p.Seq != 1 {
			t.Errorf("first packet of the second viewer: key %t, seq %d", p.Video.GetKey(), p.Seq)
		}
		if same := packet(t, v); same.Video != p.Video {
			t.Error("the viewers do not share the packet")
		}
		if got := h.hub.Viewers("p1"); got != 2 {
			t.Errorf("Viewers = %d, want 2", got)
		}
		v.Close(nil)
		synctest.Wait()
		if len(d.Levels()) != 1 {
			t.Error("the level is closed although a viewer is left")
		}
		late.Close(errors.New("gone"))
		synctest.Wait()
		if len(d.Levels()) != 0 {
			t.Error("the level is open without viewers")
		}
		got := h.events
		for i := range got {
			if got[i].Viewer != v.info.Viewer && got[i].Viewer != late.info.Viewer || got[i].Identity != "client/a" || got[i].Phone != "p1" {
				t.Errorf("event %+v", got[i])
			}
		}
		if len(got) != 4 || !got[0].Attached || !got[1].Attached || got[2].Frames != 4 || got[3].Frames != 1 || got[3].Cause == nil {
			t.Errorf("events %+v", got)
		}
	})
}

func TestNothingEncodedThatNobodyTakes(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		commit(d)
		if d.Encoded() != 0 {
			t.Fatal("encoded without a viewer")
		}
		v := h.attach(AttachOptions{})
		step := func(name string, want uint64) {
			t.Helper()
			synctest.Wait()
			if got := d.Encoded(); got != want {
				t.Fatalf("%s: %d frames encoded, want %d", name, got, want)
			}
		}
		step("attached", 1)
		for range 5 {
			commit(d)
		}
		step("while the packet waits", 1)
		next(t, v)
		commit(d)
		step("while the packet is being sent", 1)
		if m := next(t, v); m.Packet.Video.GetFrame() != 7 {
			t.Errorf("frame %d, want the newest, 7", m.Packet.Video.GetFrame())
		}
		step("two packets unacknowledged", 2)
		commit(d)
		if _, ok := poll(t, v); ok {
			t.Error("a third packet before any acknowledgement")
		}
		step("two packets sent, none acknowledged", 2)
		if err := v.Ack(1); err != nil {
			t.Fatal(err)
		}
		step("one acknowledged", 3)
		if err := v.Ack(4); fault.Reason(err) != fault.InvalidField {
			t.Errorf("acknowledgement of a packet that was not sent: %v", err)
		}
		v.Close(nil)
		commit(d)
		step("after the last viewer", 3)
	})
}

func TestLaggingViewer(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		fast, slow := h.attach(AttachOptions{}), h.attach(AttachOptions{})
		pass(keyInterval) // joining has cost the second viewer its key frame of this second
		for i := range 20 {
			commit(d)
			if p := packet(t, fast); p.Video.GetFrame() != uint64(i+1) {
				t.Fatalf("the fast viewer got frame %d, want %d", p.Video.GetFrame(), i+1)
			}
			pass(33 * time.Millisecond)
		}
		var frames []uint64
		for range maxQueue {
			frames = append(frames, packet(t, slow).Video.GetFrame())
		}
		if diff := cmp.Diff([]uint64{1, 2, 3, 4}, frames); diff != "" {
			t.Errorf("frames of the slow viewer before the gap (-want +got):\n%s", diff)
		}
		before := h.hub.Totals().KeyFrames
		p := packet(t, slow) // asking for it is enough: the last frame comes again as a key frame
		if !p.Video.GetKey() || p.Video.GetFrame() != 20 || p.Seq != 5 {
			t.Errorf("after the gap: key %t, frame %d, seq %d", p.Video.GetKey(), p.Video.GetFrame(), p.Seq)
		}
		if got := h.hub.Totals().KeyFrames - before; got != 1 {
			t.Errorf("%d key frames asked for, want 1", got)
		}
		packet(t, fast)
		// It lags again within the second: no second key frame before its time, and the other viewer is served on.
		for range 10 {
			commit(d)
			packet(t, fast)
		}
		for range maxQueue {
			packet(t, slow)
		}
		if m, ok := poll(t, slow); ok {
			t.Errorf("told %+v within the second of the last key frame", m.Packet)
		}
		commit(d)
		packet(t, fast)
		pass(keyInterval)
		if p := packet(t, slow); !p.Video.GetKey() {
			t.Error("no key frame after a second")
		}
		if h.hub.Totals().Skipped == 0 {
			t.Error("nothing counted as skipped")
		}
		fast.Close(nil)
		slow.Close(nil)
	})
}

func TestKeyFrameRequests(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		v := h.attach(AttachOptions{})
		defer v.Close(nil)
		commit(d)
		packet(t, v)
		poll(t, v) // the last packet has been handed over
		began := time.Now()
		for range 3 {
			v.RequestKeyFrame()
		}
		if p := packet(t, v); !p.Video.GetKey() {
			t.Fatal("the first request was not granted at once")
		}
		if m, ok := poll(t, v); ok {
			t.Fatalf("told %+v: three requests at once are worth one key frame", m.Packet)
		}
		v.RequestKeyFrame()
		m, err := v.Next(t.Context())
		if err != nil || !m.Packet.Video.GetKey() {
			t.Fatalf("told %+v, %v; want a key frame", m, err)
		}
		if waited := time.Since(began); waited < keyInterval-time.Millisecond || waited > keyInterval+time.Millisecond {
			t.Errorf("the next request was granted after %v, want a second", waited)
		}
	})
}

func TestRatesAndLevels(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		a := h.attach(AttachOptions{BitrateKbps: 8000})
		b := h.attach(AttachOptions{})
		c := h.attach(AttachOptions{MaxFPS: 15, BitrateKbps: 500})
		defer b.Close(nil)
		defer c.Close(nil)
		rates := func() map[uint32]uint32 {
			synctest.Wait()
			got := make(map[uint32]uint32)
			for _, l := range d.Levels() {
				got[l.FPS] = l.Rate
			}
			return got
		}
		if diff := cmp.Diff(map[uint32]uint32{30: 8000, 15: 500}, rates()); diff != "" {
			t.Errorf("levels (-want +got):\n%s", diff)
		}
		if err := b.SetRate(300); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[uint32]uint32{30: 300, 15: 500}, rates()); diff != "" {
			t.Errorf("levels after SetRate (-want +got):\n%s", diff)
		}
		if got := a.Info().BitrateKbps; got != 300 {
			t.Errorf("rate of the other viewer is said to be %d, want 300", got)
		}
		_, err := h.hub.Attach(t.Context(), AttachOptions{Phone: "p1"})
		if fault.Reason(err) != TooManyViewers || !errdefs.IsResourceExhausted(err) {
			t.Errorf("fourth viewer: %v", err)
		}
		a.Close(nil)
		for _, opts := range []AttachOptions{
			{Phone: "p1", BitrateKbps: 99}, {Phone: "p1", BitrateKbps: 10001}, {Phone: "p1", MaxFPS: 31},
		} {
			if _, err := h.hub.Attach(t.Context(), opts); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%+v: %v, want invalid argument", opts, err)
			}
		}
		if err := b.SetRate(99); !errdefs.IsInvalidArgument(err) {
			t.Errorf("rate 99: %v, want invalid argument", err)
		}
	})
}

func TestDisplayLostAndBack(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		v := h.attach(AttachOptions{})
		defer v.Close(nil)
		commit(d)
		packet(t, v)
		commit(d) // waits for the viewer and is lost with the display
		h.kill("p1")
		if m := next(t, v); m.Lost == nil || m.Lost.Reason != "crashed" {
			t.Fatalf("told %+v, want the loss", m)
		}
		if m, ok := poll(t, v); ok {
			t.Fatalf("told %+v while the display is lost", m)
		}
		d = h.power("p1", &displaytest.Server{Width: 1080, Height: 1920})
		synctest.Wait()
		if m := next(t, v); m.Back == nil || *m.Back != (Back{Width: 1080, Height: 1920}) {
			t.Fatalf("told %+v, want the return", m)
		}
		commit(d)
		if p := packet(t, v); !p.Video.GetKey() || p.Seq != 2 {
			t.Errorf("after the return: key %t, seq %d", p.Video.GetKey(), p.Seq)
		}
		// Lost and back twice before the viewer looks: one loss, one return.
		for range 2 {
			h.kill("p1")
			d = h.power("p1", &displaytest.Server{})
			synctest.Wait()
		}
		if m := next(t, v); m.Lost == nil {
			t.Fatalf("told %+v, want the loss", m)
		}
		if m := next(t, v); m.Back == nil {
			t.Fatalf("told %+v, want the return", m)
		}
		commit(d)
		if p := packet(t, v); !p.Video.GetKey() {
			t.Error("no key frame after the return")
		}
	})
}

func TestEndsOfViewers(t *testing.T) {
	tests := []struct {
		name   string
		end    func(h *house, d *displaytest.Server)
		class  func(error) bool
		reason string
	}{
		{"phone powered off", func(h *house, _ *displaytest.Server) {
			h.hub.change(display.Change{Phone: "p1", Kind: display.Closed})
		}, errdefs.IsFailedPrecondition, fault.NotRunning},
		{"agent stops", func(h *house, _ *displaytest.Server) { h.hub.Shutdown() }, errdefs.IsUnavailable, fault.ShuttingDown},
		{"displays' registry stops", func(h *house, _ *displaytest.Server) {
			h.hub.change(display.Change{Phone: "p1", Kind: display.Stopped})
		}, errdefs.IsUnavailable, fault.ShuttingDown},
		{"encoder useless", func(_ *house, d *displaytest.Server) { d.Fail("no device") }, errdefs.IsUnavailable, EncoderFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in(t, func(t *testing.T, h *house, d *displaytest.Server) {
				v := h.attach(AttachOptions{})
				result := make(chan error)
				go func() {
					_, err := v.Next(t.Context())
					result <- err
				}()
				synctest.Wait()
				tt.end(h, d)
				if err := <-result; !tt.class(err) || fault.Reason(err) != tt.reason {
					t.Errorf("Next: %v (reason %s)", err, fault.Reason(err))
				}
				<-v.Done()
				v.Close(nil)
				v.Close(nil)
				if h.hub.Viewers("p1") != 0 || h.hub.Totals().Viewers != 0 || h.hub.Totals().Levels != 0 {
					t.Errorf("left behind: %d viewers, totals %+v", h.hub.Viewers("p1"), h.hub.Totals())
				}
			})
		})
	}
}

func TestEncoderThatWorkedIsOpenedAgain(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		v := h.attach(AttachOptions{})
		defer v.Close(nil)
		commit(d)
		packet(t, v)
		d.Fail("device reset")
		synctest.Wait()
		if p := packet(t, v); !p.Video.GetKey() || p.Seq != 2 {
			t.Errorf("after the encoder was opened again: key %t, seq %d", p.Video.GetKey(), p.Seq)
		}
	})
}

func TestAttachErrors(t *testing.T) {
	refuse := &displaytest.Server{}
	refuse.OnMessage = func(m *displayv1.ClientMessage) bool {
		if m.GetOpenLevel() == nil {
			return false
		}
		refuse.Send(&displayv1.ServerMessage{Request: m.GetRequest(), Message: &displayv1.ServerMessage_Error{
			Error: &displayv1.Error{Code: displayv1.ErrorCode_ERROR_CODE_UNAVAILABLE, Message: "libx264 is missing"},
		}})
		return true
	}
	tests := []struct {
		name    string
		prepare func(h *house)
		phone   string
		class   func(error) bool
		reason  string
	}{
		{"unknown phone", func(*house) {}, "nobody", errdefs.IsNotFound, fault.NoSuchPhone},
		{"phone off", func(h *house) { h.off["p2"] = true }, "p2", errdefs.IsFailedPrecondition, fault.NotRunning},
		{"display does not come", func(h *house) { h.off["p2"] = false }, "p2", errdefs.IsUnavailable, DisplayLost},
		{"encoder missing", func(h *house) { h.power("p2", refuse) }, "p2", errdefs.IsUnavailable, EncoderFailed},
		{"agent stopping", func(h *house) { h.hub.Shutdown() }, "p1", errdefs.IsUnavailable, fault.ShuttingDown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in(t, func(t *testing.T, h *house, d *displaytest.Server) {
				tt.prepare(h)
				_, err := h.hub.Attach(t.Context(), AttachOptions{Phone: tt.phone})
				if !tt.class(err) || fault.Reason(err) != tt.reason {
					t.Errorf("Attach: %v (reason %s)", err, fault.Reason(err))
				}
				if h.hub.Viewers(tt.phone) != 0 || len(h.events) != 0 {
					t.Errorf("left behind: %d viewers, events %v", h.hub.Viewers(tt.phone), h.events)
				}
			})
		})
	}
}

func TestAttachWaitsForDisplay(t *testing.T) {
	in(t, func(t *testing.T, h *house, _ *displaytest.Server) {
		h.off["p2"] = false
		got := make(chan *Viewer)
		go func() {
			v, err := h.hub.Attach(t.Context(), AttachOptions{Phone: "p2"})
			if err != nil {
				t.Error(err)
			}
			got <- v
		}()
		pass(time.Second)
		h.power("p2", &displaytest.Server{})
		v := <-got
		v.Close(nil)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.hub.Attach(ctx, AttachOptions{Phone: "p2"}); !errors.Is(err, context.Canceled) {
			t.Errorf("Attach with an ended context: %v", err)
		}
	})
}

func TestScreenshot(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		if _, err := h.hub.Screenshot(t.Context(), "p1"); fault.Reason(err) != NoScreen || !errdefs.IsFailedPrecondition(err) {
			t.Errorf("before the first frame: %v", err)
		}
		d.Picture = make([]byte, 200_000)
		d.Picture[199_999] = 7
		got, err := h.hub.Screenshot(t.Context(), "p1")
		if err != nil || !cmp.Equal(got, d.Picture) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		h.off["p2"] = false
		if _, err := h.hub.Screenshot(t.Context(), "p2"); fault.Reason(err) != DisplayLost {
			t.Errorf("without a display: %v", err)
		}
		if _, err := h.hub.Screenshot(t.Context(), "nobody"); !errdefs.IsNotFound(err) {
			t.Errorf("unknown phone: %v", err)
		}
	})
}
