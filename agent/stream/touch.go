package stream

import (
	"context"
	"math"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/fault"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// Bounds of input.
const (
	maxKeyCode = 247 // KEY_RFKILL, the last below the buttons in input-event-codes.h
	maxText    = 1024
	maxWheel   = 100
)

// touch delivers a change of one of the caller's touch points.
func (in *Input) touch(ctx context.Context, conn *display.Conn, t *displayv1.Touch) error {
	events, done, err := in.planTouch(t)
	if err != nil || len(events) == 0 {
		return err
	}
	err = conn.Input(ctx, events...)
	s := in.screen
	s.mu.Lock()
	if s.conn == conn { // else all is up, and the contacts have been given back
		done(err == nil)
	}
	s.mu.Unlock()
	if err != nil {
		return in.hub.displayError(s.phone, conn, err)
	}
	return nil
}

// planTouch returns what the display has to be told, and what to do, with screen.mu held, when it has been told or has
// refused. Send is for one goroutine, so the caller's points do not change meanwhile but by the loss of the display.
func (in *Input) planTouch(t *displayv1.Touch) (events []*displayv1.InputEvent, done func(ok bool), err error) {
	in.screen.mu.Lock()
	defer in.screen.mu.Unlock()
	id := t.GetId()
	p, down := in.points[id]
	switch t.GetAction() {
	case displayv1.TouchAction_TOUCH_ACTION_CANCEL:
		return in.planCancel(), func(ok bool) {
			if ok {
				in.letGoPoints()
			}
		}, nil
	case displayv1.TouchAction_TOUCH_ACTION_DOWN:
		if down {
			return nil, nil, fault.Field("touch.action", "point %d is down already", id)
		}
		return in.planDown(t)
	case displayv1.TouchAction_TOUCH_ACTION_MOVE:
		if !down {
			return nil, nil, fault.Field("touch.action", "point %d is not down and cannot move", id)
		}
		return one(p.contact, t), func(ok bool) {
			if ok {
				in.points[id] = point{contact: p.contact, x: t.GetX(), y: t.GetY()}
			}
		}, nil
	default:
		if !down {
			return nil, nil, fault.Field("touch.action", "point %d is not down and cannot be lifted", id)
		}
		return one(p.contact, t), func(ok bool) {
			if ok {
				delete(in.points, id)
				in.screen.contacts[p.contact] = nil
			}
		}, nil
	}
}

// planDown takes a free touch point of the display.
func (in *Input) planDown(t *displayv1.Touch) ([]*displayv1.InputEvent, func(bool), error) {
	s := in.screen
	for c := range s.contacts {
		if s.contacts[c] != nil {
			continue
		}
		s.contacts[c] = in
		return one(uint32(c), t), func(ok bool) {
			if !ok {
				s.contacts[c] = nil
				return
			}
			in.points[t.GetId()] = point{contact: uint32(c), x: t.GetX(), y: t.GetY()}
		}, nil
	}
	return nil, nil, fault.New(errdefs.ErrResourceExhausted, NoFreeContact,
		"all %d touch points of phone %s are down by its callers together", maxContacts, s.phone)
}

// planCancel gives up the caller's points. The display can only cancel all points there are, so while other callers have
// points down these are lifted instead.
func (in *Input) planCancel() []*displayv1.InputEvent {
	if len(in.points) == 0 {
		return nil
	}
	for _, owner := range in.screen.contacts {
		if owner != nil && owner != in {
			var events []*displayv1.InputEvent
			for _, p := range in.points {
				events = append(events, touchEvent(p.contact, displayv1.TouchAction_TOUCH_ACTION_UP, p.x, p.y))
			}
			return events
		}
	}
	return []*displayv1.InputEvent{touchEvent(0, displayv1.TouchAction_TOUCH_ACTION_CANCEL, 0, 0)}
}

// letGoPoints forgets the touch points that are down.
func (in *Input) letGoPoints() {
	for id, p := range in.points {
		in.screen.contacts[p.contact] = nil
		delete(in.points, id)
	}
}

func one(contact uint32, t *displayv1.Touch) []*displayv1.InputEvent {
	return []*displayv1.InputEvent{touchEvent(contact, t.GetAction(), t.GetX(), t.GetY())}
}

func touchEvent(contact uint32, action displayv1.TouchAction, x, y float64) *displayv1.InputEvent {
	return &displayv1.InputEvent{Event: &displayv1.InputEvent_Touch{
		Touch: &displayv1.Touch{Id: contact, Action: action, X: x, Y: y},
	}}
}

// checkEvent tells what is wrong with an event for a screen of width by height pixels.
func checkEvent(e *displayv1.InputEvent, width, height float64) error {
	switch x := e.GetEvent().(type) {
	case *displayv1.InputEvent_Touch:
		return checkTouch(x.Touch, width, height)
	case *displayv1.InputEvent_Key:
		if c := x.Key.GetCode(); c < 1 || c > maxKeyCode {
			return fault.Field("key.code", "%d is out of range: 1..%d (input-event-codes.h)", c, maxKeyCode)
		}
		return nil
	case *displayv1.InputEvent_Wheel:
		return checkWheel(x.Wheel, width, height)
	case *displayv1.InputEvent_Text:
		return checkText(x.Text)
	default:
		return fault.Field("message", "no event: one of touch, key, text, wheel is needed")
	}
}

func checkTouch(t *displayv1.Touch, width, height float64) error {
	switch t.GetAction() {
	case displayv1.TouchAction_TOUCH_ACTION_CANCEL:
		return nil
	case displayv1.TouchAction_TOUCH_ACTION_DOWN, displayv1.TouchAction_TOUCH_ACTION_MOVE, displayv1.TouchAction_TOUCH_ACTION_UP:
	default:
		return fault.Field("touch.action", "%d is no action: DOWN, MOVE, UP or CANCEL", int32(t.GetAction()))
	}
	if t.GetId() >= maxContacts {
		return fault.Field("touch.id", "%d is out of range: 0..%d", t.GetId(), maxContacts-1)
	}
	return checkPlace("touch", t.GetX(), t.GetY(), width, height)
}

func checkWheel(w *displayv1.Wheel, width, height float64) error {
	for name, d := range map[string]float64{"wheel.dx": w.GetDx(), "wheel.dy": w.GetDy()} {
		if math.IsNaN(d) || d < -maxWheel || d > maxWheel {
			return fault.Field(name, "%v is out of range: -%d..%d steps", d, maxWheel, maxWheel)
		}
	}
	return checkPlace("wheel", w.GetX(), w.GetY(), width, height)
}

func checkText(text string) error {
	if len(text) == 0 || len(text) > maxText {
		return fault.Field("text.text", "%d bytes are out of range: 1..%d characters", len(text), maxText)
	}
	for i, r := range text {
		if (r < ' ' || r > '~') && r != '\t' && r != '\n' {
			return fault.Field("text.text", "character %q at byte %d cannot be typed: printable ASCII, tab and line feed can", r, i)
		}
	}
	return nil
}

// checkPlace tells whether a place is on the screen; NaN is not.
func checkPlace(event string, x, y, width, height float64) error {
	if !(x >= 0 && x < width) {
		return fault.Field(event+".x", "%v is not on the screen: 0 <= x < %v", x, width)
	}
	if !(y >= 0 && y < height) {
		return fault.Field(event+".y", "%v is not on the screen: 0 <= y < %v", y, height)
	}
	return nil
}
