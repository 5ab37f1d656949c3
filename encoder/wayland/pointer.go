package wayland

import (
	"fmt"
	"image"
	"math"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

const (
	buttonLeft = 0x110 // BTN_LEFT
	// wheelStep is what one step of a wheel is worth to wl_pointer.axis: what libinput says of common mice.
	wheelStep = 15
	// maxWheel bounds the steps of one turn.
	maxWheel = 1000
)

// Wheel moves the pointer to a place in pixels of the screen and turns the wheel by steps to the right and down. Errors are
// of class InvalidArgument for a place or steps that do not exist, and FailedPrecondition when no window there takes it.
func (s *Server) Wheel(x, y, dx, dy float64) error {
	if !(math.Abs(dx) <= maxWheel && math.Abs(dy) <= maxWheel) {
		return fmt.Errorf("wheel turned by %v,%v: at most %d: %w", dx, dy, maxWheel, errdefs.ErrInvalidArgument)
	}
	if err := s.checkPlace(x, y); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.unlock()
	st := &s.seat
	if !st.movePointer(x, y) {
		return errNoWindow
	}
	owner := st.pointer.o.c
	if owner.busy() {
		return nil
	}
	now := s.millis()
	for _, p := range owner.pointers {
		p.send(protocol.WlPointerEventAxisSource, wire.Uint(protocol.WlPointerAxisSourceWheel))
		sendAxis(p, now, protocol.WlPointerAxisHorizontalScroll, dx)
		sendAxis(p, now, protocol.WlPointerAxisVerticalScroll, dy)
		p.send(protocol.WlPointerEventFrame)
	}
	return nil
}

func sendAxis(p *object, now, axis uint32, steps float64) {
	if steps == 0 {
		return
	}
	if whole := math.Round(steps); whole == steps {
		p.send(protocol.WlPointerEventAxisDiscrete, wire.Uint(axis), wire.Int(int32(whole)))
	}
	p.send(protocol.WlPointerEventAxis, wire.Uint(now), wire.Uint(axis), wire.Fix(wire.ToFixed(steps*wheelStep)))
}

// movePointer puts the pointer at a place on the screen and tells whether a client with a pointer is there. While the button
// is down the pointer stays with its surface.
func (st *seat) movePointer(x, y float64) bool {
	sc := &st.s.scene
	st.pointerAt = image.Pt(int(math.Floor(x)), int(math.Floor(y)))
	target := st.pointer
	if !st.button {
		l, ok := sc.at(st.pointerAt)
		if !ok || len(l.sf.o.c.pointers) == 0 {
			st.pointerLeave()
			return false
		}
		target = l.sf
	}
	if target != st.pointer {
		st.pointerLeave()
		st.pointer = target
		for _, p := range target.o.c.pointers {
			st.sendPointerEnter(p)
		}
		return true
	}
	at, now := sc.place(target), st.s.millis()
	for _, p := range target.o.c.pointers {
		p.send(protocol.WlPointerEventMotion, wire.Uint(now),
			wire.Fix(wire.ToFixed(x-float64(at.X))), wire.Fix(wire.ToFixed(y-float64(at.Y))))
		p.send(protocol.WlPointerEventFrame)
	}
	return true
}

// place returns where on the screen the corner of a surface is.
func (sc *scene) place(sf *surface) image.Point {
	l, _ := sc.find(sf)
	return l.at
}

func (st *seat) sendPointerEnter(p *object) {
	at := st.pointerAt.Sub(st.s.scene.place(st.pointer))
	p.send(protocol.WlPointerEventEnter, wire.Uint(st.s.nextSerial()), wire.Object(st.pointer.o.id),
		wire.Fix(wire.ToFixed(float64(at.X))), wire.Fix(wire.ToFixed(float64(at.Y))))
	p.send(protocol.WlPointerEventFrame)
}

// pointerLeave takes the pointer off the screen, and lifts its button.
func (st *seat) pointerLeave() {
	if st.pointer == nil {
		return
	}
	st.release()
	serial := st.s.nextSerial()
	for _, p := range st.pointer.o.c.pointers {
		p.send(protocol.WlPointerEventLeave, wire.Uint(serial), wire.Object(st.pointer.o.id))
		p.send(protocol.WlPointerEventFrame)
	}
	st.pointer = nil
}

// press is a touch for a client that knows pointers but not touches: the first touch point is the pointer with its left
// button down.
func (st *seat) press(id int, l layer, x, y float64) {
	if id != 0 || !st.movePointer(x, y) || st.pointer != l.sf {
		return
	}
	st.button = true
	st.sendButton(protocol.WlPointerButtonStatePressed)
}

func (st *seat) release() {
	if st.button {
		st.button = false
		st.sendButton(protocol.WlPointerButtonStateReleased)
	}
}

func (st *seat) sendButton(state uint32) {
	if st.pointer == nil {
		return
	}
	serial, now := st.s.nextSerial(), st.s.millis()
	for _, p := range st.pointer.o.c.pointers {
		p.send(protocol.WlPointerEventButton, wire.Uint(serial), wire.Uint(now), wire.Uint(buttonLeft), wire.Uint(state))
		p.send(protocol.WlPointerEventFrame)
	}
}
