package wayland

import (
	"fmt"
	"image"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// errNoWindow tells that there is nothing that could take input.
var errNoWindow = fmt.Errorf("no window takes input: %w", errdefs.ErrFailedPrecondition)

// seat is the one seat: what is pressed and touched, and which surfaces are told.
type seat struct {
	s      *Server
	keymap keymapFile

	focus    *surface // has the keyboard
	pressed  []uint32 // codes of keys that are down, in order
	held     uint32   // modifiers of keys that are down
	locked   uint32   // modifiers that are locked
	contacts [maxContacts]contact

	pointer   *surface    // the pointer is over it
	pointerAt image.Point // where the pointer is on the screen
	button    bool        // the pointer's button is down, for a client without touch
}

func (st *seat) init(s *Server) error {
	st.s = s
	return st.keymap.make()
}

func (st *seat) close() { st.keymap.close() }

// refocus gives the keyboard to the window that is shown, or to its popup that asked for it, and takes the pointer away from
// what is no longer under it.
func (st *seat) refocus() {
	sc := &st.s.scene
	var target *surface
	top := sc.top()
	if top != nil {
		target = top.x.keyboardTarget()
	}
	for _, t := range sc.stack {
		t.activate(t == top)
	}
	if target != st.focus {
		st.keyboardLeave()
		st.focus = target
		st.keyboardEnter()
	}
	if st.pointer != nil {
		if _, shown := sc.find(st.pointer); !shown {
			st.pointerLeave()
		}
	}
}

// keyboardTarget returns the surface that has the keyboard while x is shown: the newest popup with a grab, or its own.
func (x *xdgSurface) keyboardTarget() *surface {
	target := x.sf
	for _, p := range x.popups {
		if p.shown && p.grab && p.x.sf != nil {
			target = p.x.keyboardTarget()
		}
	}
	return target
}

// forget drops a surface that is destroyed. The client knows, so nothing is sent.
func (st *seat) forget(sf *surface) {
	if st.focus == sf {
		st.focus = nil
	}
	if st.pointer == sf {
		st.pointer, st.button = nil, false
	}
	for i := range st.contacts {
		if st.contacts[i].sf == sf {
			st.contacts[i].sf = nil
		}
	}
}

// seatResource is wl_seat.
type seatResource struct{}

func (seatResource) gone(*object) {}

func seatBound(o *object) {
	o.send(protocol.WlSeatEventCapabilities,
		wire.Uint(protocol.WlSeatCapabilityPointer|protocol.WlSeatCapabilityKeyboard|protocol.WlSeatCapabilityTouch))
	o.send(protocol.WlSeatEventName, wire.String("seat0"))
}

func (seatResource) request(o *object, op int, args []wire.Value) error {
	c := o.c
	st := &c.s.seat
	switch op {
	case protocol.WlSeatRequestGetPointer:
		p := o.make(args[0].ID(), protocol.WlPointer, pointerResource{})
		c.pointers = append(c.pointers, p)
		if st.pointer != nil && st.pointer.o.c == c {
			st.sendPointerEnter(p)
		}
	case protocol.WlSeatRequestGetKeyboard:
		k := o.make(args[0].ID(), protocol.WlKeyboard, keyboardResource{})
		c.keyboards = append(c.keyboards, k)
		st.introduce(k)
	case protocol.WlSeatRequestGetTouch:
		c.touches = append(c.touches, o.make(args[0].ID(), protocol.WlTouch, touchResource{}))
	}
	return nil
}

// touchResource is wl_touch.
type touchResource struct{ inert }

func (touchResource) gone(o *object) { o.c.touches = without(o.c.touches, o) }

// keyboardResource is wl_keyboard.
type keyboardResource struct{ inert }

func (keyboardResource) gone(o *object) { o.c.keyboards = without(o.c.keyboards, o) }

// pointerResource is wl_pointer.
type pointerResource struct{}

func (pointerResource) gone(o *object) { o.c.pointers = without(o.c.pointers, o) }

func (pointerResource) request(o *object, op int, args []wire.Value) error {
	if op != protocol.WlPointerRequestSetCursor {
		return nil
	}
	cursor := o.c.objects.get(args[1].ID())
	if cursor == nil {
		return nil
	}
	sf := cursor.res.(*surface)
	if _, ok := sf.role.(cursorRole); ok {
		return nil
	}
	if sf.xdg != nil || !sf.setRole(cursorRole{}) {
		return o.errorf(protocol.WlPointerErrorRole, "%v has another role", cursor)
	}
	return nil
}

// cursorRole is the role of a pointer's picture, which is never shown.
type cursorRole struct{}

func (cursorRole) name() string       { return "cursor" }
func (cursorRole) check(*state) error { return nil }
func (cursorRole) applied() error     { return nil }
func (cursorRole) lost()              {}
