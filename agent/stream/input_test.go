package stream

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/display/displaytest"
	"github.com/phonehost/phonehost/agent/fault"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

const (
	down   = displayv1.TouchAction_TOUCH_ACTION_DOWN
	move   = displayv1.TouchAction_TOUCH_ACTION_MOVE
	up     = displayv1.TouchAction_TOUCH_ACTION_UP
	cancel = displayv1.TouchAction_TOUCH_ACTION_CANCEL
)

func key(code uint32, down bool) *displayv1.InputEvent {
	return &displayv1.InputEvent{Event: &displayv1.InputEvent_Key{Key: &displayv1.Key{Code: code, Down: down}}}
}

func text(s string) *displayv1.InputEvent {
	return &displayv1.InputEvent{Event: &displayv1.InputEvent_Text{Text: s}}
}

func wheel(x, y, dx, dy float64) *displayv1.InputEvent {
	return &displayv1.InputEvent{Event: &displayv1.InputEvent_Wheel{Wheel: &displayv1.Wheel{X: x, Y: y, Dx: dx, Dy: dy}}}
}

// open begins an input without a viewer.
func (h *house) open(identity string) *Input {
	h.t.Helper()
	in, err := h.hub.OpenInput(h.t.Context(), InputOptions{Phone: "p1", Identity: identity})
	if err != nil {
		h.t.Fatal(err)
	}
	return in
}

// want checks what a display got since it was asked last.
func want(t *testing.T, d *displaytest.Server, seen *int, events ...*displayv1.InputEvent) {
	t.Helper()
	all := d.Inputs()
	if diff := cmp.Diff(events, all[*seen:], protocmp.Transform()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	*seen = len(all)
}

func TestInputIsChecked(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	tests := []struct {
		name  string
		event *displayv1.InputEvent
		says  string // empty: it is delivered
	}{
		{"touch at the corner", touchEvent(9, down, 719.99, 1279.99), ""},
		{"touch right of the screen", touchEvent(0, down, 720, 1), "touch.x: 720 is not on the screen: 0 <= x < 720"},
		{"touch below the screen", touchEvent(0, down, 1, 1280), "touch.y: 1280"},
		{"touch left of the screen", touchEvent(0, down, -0.1, 1), "touch.x"},
		{"touch nowhere", touchEvent(0, down, nan, 1), "touch.x: NaN"},
		{"touch far away", touchEvent(0, down, 1, inf), "touch.y: +Inf"},
		{"eleventh point", touchEvent(10, down, 1, 1), "touch.id: 10 is out of range: 0..9"},
		{"no action", touchEvent(0, 0, 1, 1), "touch.action: 0 is no action"},
		{"unknown action", touchEvent(0, 9, 1, 1), "touch.action: 9"},
		{"move of a point that is up", touchEvent(1, move, 1, 1), "touch.action: point 1 is not down and cannot move"},
		{"up of a point that is up", touchEvent(1, up, 1, 1), "point 1 is not down and cannot be lifted"},
		{"cancel of nothing", touchEvent(77, cancel, nan, nan), ""},
		{"first key", key(1, true), ""},
		{"last key", key(247, true), ""},
		{"key 0", key(0, true), "key.code: 0 is out of range: 1..247"},
		{"key 248", key(248, true), "key.code: 248"},
		{"text", text("~ A\tb\n"), ""},
		{"longest text", text(strings.Repeat("x", 1024)), ""},
		{"too much text", text(strings.Repeat("x", 1025)), "text.text: 1025 bytes"},
		{"no text", text(""), "text.text: 0 bytes"},
		{"umlaut", text("grün"), `character 'ü' at byte 2`},
		{"escape", text("a\x1b"), `character '\x1b' at byte 1`},
		{"invalid UTF-8", text("\xff"), "at byte 0"},
		{"wheel", wheel(0, 0, -100, 100), ""},
		{"wheel too far", wheel(0, 0, 0, 100.5), "wheel.dy: 100.5 is out of range"},
		{"wheel by nothing known", wheel(0, 0, nan, 0), "wheel.dx: NaN"},
		{"wheel off the screen", wheel(720, 0, 1, 1), "wheel.x: 720"},
		{"nothing", &displayv1.InputEvent{}, "message: no event"},
	}
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		for _, tt := range tests {
			input := h.open("client/a")
			before := h.hub.Totals().InputEvents
			err := input.Send(t.Context(), tt.event)
			switch {
			case tt.says == "" && err != nil:
				t.Errorf("%s: %v", tt.name, err)
			case tt.says == "" && (input.Events() != 1 || h.hub.Totals().InputEvents != before+1):
				t.Errorf("%s: was not counted", tt.name)
			case tt.says != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
			case tt.says != "" && len(d.Inputs()) > 0 && input.Events() != 0:
				t.Errorf("%s: was delivered", tt.name)
			}
			input.Close()
		}
	})
}

func TestWhatIsDownIsLifted(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		seen := 0
		input := h.open("client/a")
		send := func(events ...*displayv1.InputEvent) {
			t.Helper()
			for _, e := range events {
				if err := input.Send(t.Context(), e); err != nil {
					t.Fatal(err)
				}
			}
		}
		send(touchEvent(5, down, 10, 20), touchEvent(5, move, 30, 40), touchEvent(6, down, 1, 1), touchEvent(6, up, 1, 1), key(30, true), key(31, true), key(31, false))
		want(t, d, &seen, touchEvent(0, down, 10, 20), touchEvent(0, move, 30, 40), touchEvent(1, down, 1, 1), touchEvent(1, up, 1, 1),
			key(30, true), key(31, true), key(31, false))
		input.Close()
		input.Close()
		want(t, d, &seen, touchEvent(0, up, 30, 40), key(30, false))
		if err := input.Send(t.Context(), key(1, true)); !errors.Is(err, context.Canceled) {
			t.Errorf("Send after Close: %v", err)
		}
	})
}

func TestCallersHaveTheirOwnPoints(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		seen := 0
		a, b := h.open("client/a"), h.open("client/b")
		send := func(in *Input, e *displayv1.InputEvent) {
			t.Helper()
			if err := in.Send(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		send(a, touchEvent(0, down, 1, 1))
		send(b, touchEvent(0, down, 2, 2))
		send(b, touchEvent(0, move, 3, 3))
		want(t, d, &seen, touchEvent(0, down, 1, 1), touchEvent(1, down, 2, 2), touchEvent(1, move, 3, 3))
		// While another caller touches, a cancel lifts the caller's own points only.
		send(b, touchEvent(0, cancel, 0, 0))
		want(t, d, &seen, touchEvent(1, up, 3, 3))
		send(a, touchEvent(0, cancel, 0, 0))
		want(t, d, &seen, touchEvent(0, cancel, 0, 0))
		for i := range uint32(6) {
			send(a, touchEvent(i, down, 1, 1))
		}
		for i := range uint32(4) {
			send(b, touchEvent(i, down, 1, 1))
		}
		if err := b.Send(t.Context(), touchEvent(4, down, 1, 1)); fault.Reason(err) != NoFreeContact {
			t.Errorf("an eleventh point: %v", err)
		}
		a.Close()
		send(b, touchEvent(4, down, 1, 1))
		b.Close()
		if n := len(d.Inputs()) - seen; n != 10+6+1+5 {
			t.Errorf("%d events, want 10 down, 6 up, 1 down, 5 up", n)
		}
	})
}

func TestRefusedTouchIsNotDown(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		input := h.open("client/a")
		defer input.Close()
		d.RefuseInput = true
		if err := input.Send(t.Context(), touchEvent(0, down, 1, 1)); fault.Reason(err) != NoScreen || !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Send: %v", err)
		}
		d.RefuseInput = false
		if err := input.Send(t.Context(), touchEvent(0, down, 1, 1)); err != nil {
			t.Errorf("the same point again: %v", err)
		}
		if got := input.Events(); got != 1 {
			t.Errorf("%d events delivered, want 1", got)
		}
	})
}

func TestInputAndLostDisplay(t *testing.T) {
	in(t, func(t *testing.T, h *house, _ *displaytest.Server) {
		idle, busy := h.open("client/a"), h.open("client/b")
		defer idle.Close()
		defer busy.Close()
		if err := busy.Send(t.Context(), touchEvent(0, down, 1, 1)); err != nil {
			t.Fatal(err)
		}
		h.kill("p1")
		if err := idle.Send(t.Context(), text("x")); fault.Reason(err) != DisplayLost || !errdefs.IsUnavailable(err) {
			t.Errorf("Send while the display is lost: %v", err)
		}
		d := h.power("p1", &displaytest.Server{})
		synctest.Wait()
		if err := idle.Send(t.Context(), text("x")); err != nil {
			t.Errorf("Send after the return: %v", err)
		}
		if err := busy.Send(t.Context(), touchEvent(0, move, 2, 2)); fault.Reason(err) != DisplayLost {
			t.Errorf("the touch that was lost with the display: %v", err)
		}
		if err := busy.Send(t.Context(), touchEvent(0, down, 2, 2)); err != nil {
			t.Errorf("a new touch: %v", err)
		}
		seen := 0
		want(t, d, &seen, text("x"), touchEvent(0, down, 2, 2))
	})
}

func TestInputBinding(t *testing.T) {
	in(t, func(t *testing.T, h *house, d *displaytest.Server) {
		v := h.attach(AttachOptions{Identity: "client/a"})
		h.power("p2", &displaytest.Server{})
		for _, opts := range []InputOptions{
			{Phone: "p1", Viewer: v.info.Viewer, Identity: "client/b"},
			{Phone: "p1", Viewer: "v-other", Identity: "client/a"},
			{Phone: "p2", Viewer: v.info.Viewer, Identity: "client/a"},
		} {
			if _, err := h.hub.OpenInput(t.Context(), opts); fault.Reason(err) != NoSuchViewer || !errdefs.IsNotFound(err) {
				t.Errorf("%+v: %v", opts, err)
			}
		}
		bound, err := h.hub.OpenInput(t.Context(), InputOptions{Phone: "p1", Viewer: v.info.Viewer, Identity: "client/a"})
		if err != nil {
			t.Fatal(err)
		}
		free := h.open("client/a")
		if err := bound.Send(t.Context(), touchEvent(0, down, 1, 1)); err != nil {
			t.Fatal(err)
		}
		v.Close(nil)
		<-bound.Done()
		if err := bound.Err(); !errors.Is(err, context.Canceled) || fault.Reason(err) != ViewerLeft {
			t.Errorf("Err: %v", err)
		}
		if err := bound.Send(t.Context(), key(1, true)); fault.Reason(err) != ViewerLeft {
			t.Errorf("Send after the viewer has left: %v", err)
		}
		bound.Close()
		seen := 0
		want(t, d, &seen, touchEvent(0, down, 1, 1), touchEvent(0, up, 1, 1))
		if free.Err() != nil {
			t.Errorf("an input without a viewer ended with one: %v", free.Err())
		}
		h.hub.change(display.Change{Phone: "p1", Kind: display.Closed})
		<-free.Done()
		if err := free.Err(); fault.Reason(err) != fault.NotRunning {
			t.Errorf("input of a phone that was powered off: %v", err)
		}
		free.Close()
		for _, phone := range []string{"nobody", "off"} {
			h.off["off"] = true
			if _, err := h.hub.OpenInput(t.Context(), InputOptions{Phone: phone}); err == nil {
				t.Errorf("input for phone %q", phone)
			}
		}
	})
}
