package wayland

import (
	"fmt"
	"image"
	"math"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// maxContacts is how many touch points there are.
const maxContacts = 10

// TouchAction is what a touch point does. The numbers are those of the display protocol.
type TouchAction int32

// What a touch point does.
const (
	TouchDown   TouchAction = 1 // goes down
	TouchMove   TouchAction = 2 // moves
	TouchUp     TouchAction = 3 // is lifted
	TouchCancel TouchAction = 4 // all points are given up; id and place are ignored
)

// contact is a touch point.
type contact struct {
	down bool
	sf   *surface    // what it went down on; nil for nothing, or when that is gone
	at   image.Point // where sf was then
}

// Touch changes touch point id, 0..9, at a place in pixels of the screen. A point belongs to the surface that it went down on
// until it is lifted. Errors are of class InvalidArgument for an id or a place that does not exist, and FailedPrecondition
// when no window takes touches, a point that is down goes down again, or one that is not moves or is lifted.
func (s *Server) Touch(id int, action TouchAction, x, y float64) error {
	s.mu.Lock()
	defer s.unlock()
	if action == TouchCancel {
		s.seat.cancelTouches()
		return nil
	}
	if id < 0 || id >= maxContacts {
		return fmt.Errorf("touch point %d: 0..%d: %w", id, maxContacts-1, errdefs.ErrInvalidArgument)
	}
	if err := s.checkPlace(x, y); err != nil {
		return err
	}
	switch c := &s.seat.contacts[id]; {
	case action < TouchDown || action > TouchCancel:
		return fmt.Errorf("touch action %d: %w", action, errdefs.ErrInvalidArgument)
	case action == TouchDown && c.down:
		return fmt.Errorf("touch point %d is down: %w", id, errdefs.ErrFailedPrecondition)
	case action != TouchDown && !c.down:
		return fmt.Errorf("touch point %d is not down: %w", id, errdefs.ErrFailedPrecondition)
	case action == TouchDown:
		return s.seat.touchDown(id, x, y)
	case action == TouchMove:
		s.seat.touchMove(id, x, y)
	case action == TouchUp:
		s.seat.touchUp(id)
	}
	return nil
}

// checkPlace refuses places that are not on the screen.
func (s *Server) checkPlace(x, y float64) error {
	if !(x >= 0 && x < float64(s.cfg.Screen.Width()) && y >= 0 && y < float64(s.cfg.Screen.Height())) {
		return fmt.Errorf("place %v,%v is not on the screen: %w", x, y, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (st *seat) touchDown(id int, x, y float64) error {
	sc := &st.s.scene
	top := sc.top()
	if top == nil {
		return errNoWindow
	}
	c := &st.contacts[id]
	l, hit := sc.at(image.Pt(int(math.Floor(x)), int(math.Floor(y))))
	if !hit {
		top.x.dismissGrabs()
		sc.settle()
		*c = contact{down: true}
		return nil
	}
	owner := l.sf.o.c
	if len(owner.touches) == 0 && len(owner.pointers) == 0 {
		return errNoWindow
	}
	*c = contact{down: true, sf: l.sf, at: l.at}
	if len(owner.touches) == 0 {
		st.press(id, l, x, y)
		return nil
	}
	serial, now := st.s.nextSerial(), st.s.millis()
	for _, t := range owner.touches {
		t.send(protocol.WlTouchEventDown, wire.Uint(serial), wire.Uint(now), wire.Object(l.sf.o.id), wire.Int(int32(id)),
			wire.Fix(wire.ToFixed(x-float64(l.at.X))), wire.Fix(wire.ToFixed(y-float64(l.at.Y))))
		t.send(protocol.WlTouchEventFrame)
	}
	return nil
}

func (st *seat) touchMove(id int, x, y float64) {
	c := st.contacts[id]
	if c.sf == nil || c.sf.o.c.busy() {
		return
	}
	if st.button && id == 0 {
		st.movePointer(x, y)
		return
	}
	now := st.s.millis()
	for _, t := range c.sf.o.c.touches {
		t.send(protocol.WlTouchEventMotion, wire.Uint(now), wire.Int(int32(id)),
			wire.Fix(wire.ToFixed(x-float64(c.at.X))), wire.Fix(wire.ToFixed(y-float64(c.at.Y))))
		t.send(protocol.WlTouchEventFrame)
	}
}

func (st *seat) touchUp(id int) {
	c := st.contacts[id]
	st.contacts[id] = contact{}
	if st.button && id == 0 {
		st.release()
		return
	}
	if c.sf == nil {
		return
	}
	serial, now := st.s.nextSerial(), st.s.millis()
	for _, t := range c.sf.o.c.touches {
		t.send(protocol.WlTouchEventUp, wire.Uint(serial), wire.Uint(now), wire.Int(int32(id)))
		t.send(protocol.WlTouchEventFrame)
	}
}

// cancelTouches gives up all touch points.
func (st *seat) cancelTouches() {
	told := map[*client]bool{}
	for id := range st.contacts {
		c := st.contacts[id]
		st.contacts[id] = contact{}
		if c.sf == nil || told[c.sf.o.c] {
			continue
		}
		told[c.sf.o.c] = true
		for _, t := range c.sf.o.c.touches {
			t.send(protocol.WlTouchEventCancel)
		}
	}
	if st.button {
		st.release()
	}
}

// dismissGrabs closes the popups that have the keyboard, as a press beside all windows of the client does.
func (x *xdgSurface) dismissGrabs() {
	for i := len(x.popups) - 1; i >= 0; i-- {
		if p := x.popups[i]; p.shown && p.grab {
			p.dismiss()
		} else {
			p.x.dismissGrabs()
		}
	}
}
