package control

import (
	"fmt"
	"math"
	"slices"

	"github.com/containerd/errdefs"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// Bounds of input; those of the protocol are in display.proto.
const (
	maxEvents   = 1024 // in a batch
	maxText     = 4096 // bytes of one text
	maxTouches  = 10
	maxKey      = 247
	maxWheel    = 1000 // steps of one turn
	touchesMask = 1<<maxTouches - 1
)

// input checks a batch and delivers it.
func (c *conn) input(events []*displayv1.InputEvent) error {
	s := c.server.config.Screen
	if err := checkInput(events, float64(s.Width()), float64(s.Height())); err != nil {
		return err
	}
	for i, e := range events {
		if err := deliver(c.server.config.Input, e); err != nil {
			return fmt.Errorf("deliver event %d: %w", i, err)
		}
		c.held.note(e)
	}
	return nil
}

// checkInput checks every event of a batch against a screen's size. The error is of class InvalidArgument and names the event.
func checkInput(events []*displayv1.InputEvent, width, height float64) error {
	if len(events) > maxEvents {
		return fmt.Errorf("batch of %d input events: at most %d: %w", len(events), maxEvents, errdefs.ErrInvalidArgument)
	}
	for i, e := range events {
		if problem := checkEvent(e, width, height); problem != "" {
			return fmt.Errorf("input event %d: %s: %w", i, problem, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// checkEvent says what is wrong with an event, or nothing.
func checkEvent(e *displayv1.InputEvent, width, height float64) string {
	switch e := e.GetEvent().(type) {
	case *displayv1.InputEvent_Touch:
		t := e.Touch
		switch t.GetAction() {
		case displayv1.TouchAction_TOUCH_ACTION_DOWN, displayv1.TouchAction_TOUCH_ACTION_MOVE:
			if problem := checkPoint(t.GetX(), t.GetY(), width, height); problem != "" {
				return problem
			}
		case displayv1.TouchAction_TOUCH_ACTION_UP, displayv1.TouchAction_TOUCH_ACTION_CANCEL:
		default:
			return fmt.Sprintf("touch action %d: down (1), move (2), up (3) or cancel (4)", t.GetAction())
		}
		if t.GetId() >= maxTouches {
			return fmt.Sprintf("touch point %d: 0..%d", t.GetId(), maxTouches-1)
		}
	case *displayv1.InputEvent_Key:
		if code := e.Key.GetCode(); code < 1 || code > maxKey {
			return fmt.Sprintf("key code %d: 1..%d", code, maxKey)
		}
	case *displayv1.InputEvent_Wheel:
		w := e.Wheel
		// Comparisons are worded so that NaN fails them.
		if !(math.Abs(w.GetDx()) <= maxWheel && math.Abs(w.GetDy()) <= maxWheel) {
			return fmt.Sprintf("wheel by (%g, %g): -%d..%d", w.GetDx(), w.GetDy(), maxWheel, maxWheel)
		}
		return checkPoint(w.GetX(), w.GetY(), width, height)
	case *displayv1.InputEvent_Text:
		return checkText(e.Text)
	default:
		return "is empty or of a kind that this display does not know"
	}
	return ""
}

func checkPoint(x, y, width, height float64) string {
	if !(x >= 0 && x < width && y >= 0 && y < height) {
		return fmt.Sprintf("point (%g, %g) is outside the screen of %gx%g", x, y, width, height)
	}
	return ""
}

func checkText(s string) string {
	if len(s) > maxText {
		return fmt.Sprintf("text of %d bytes: at most %d", len(s), maxText)
	}
	for i := range len(s) {
		if b := s[i]; (b < ' ' || b > '~') && b != '\t' && b != '\n' {
			return fmt.Sprintf("text has byte %#02x at %d: printable ASCII, tab and line feed can be typed", b, i)
		}
	}
	return ""
}

// deliver gives a checked event to the guest.
func deliver(to Input, e *displayv1.InputEvent) error {
	switch e := e.GetEvent().(type) {
	case *displayv1.InputEvent_Touch:
		t := e.Touch
		return to.Touch(int(t.GetId()), TouchAction(t.GetAction()), t.GetX(), t.GetY())
	case *displayv1.InputEvent_Key:
		return to.Key(e.Key.GetCode(), e.Key.GetDown())
	case *displayv1.InputEvent_Wheel:
		w := e.Wheel
		return to.Wheel(w.GetX(), w.GetY(), w.GetDx(), w.GetDy())
	case *displayv1.InputEvent_Text:
		return to.Text(e.Text)
	}
	return nil
}

// held is what a client holds down, to be given up when it goes.
type held struct {
	touches uint16 // a bit per point
	keys    []uint32
}

// note follows an event that was delivered.
func (h *held) note(e *displayv1.InputEvent) {
	switch e := e.GetEvent().(type) {
	case *displayv1.InputEvent_Touch:
		bit := uint16(1) << e.Touch.GetId() & touchesMask
		switch TouchAction(e.Touch.GetAction()) {
		case TouchDown:
			h.touches |= bit
		case TouchUp:
			h.touches &^= bit
		case TouchCancel:
			h.touches = 0
		}
	case *displayv1.InputEvent_Key:
		code := e.Key.GetCode()
		h.keys = slices.DeleteFunc(h.keys, func(k uint32) bool { return k == code })
		if e.Key.GetDown() {
			h.keys = append(h.keys, code)
		}
	}
}

// release cancels touches and releases keys. A guest that is gone holds nothing, so errors mean nothing.
func (h *held) release(to Input) {
	if h.touches != 0 {
		to.Touch(0, TouchCancel, 0, 0)
	}
	for _, code := range h.keys {
		to.Key(code, false)
	}
	*h = held{}
}
