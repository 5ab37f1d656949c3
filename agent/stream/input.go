package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/fault"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// liftTimeout is how long the end of an input waits for the display to lift what is down.
const liftTimeout = 2 * time.Second

// InputOptions says where input goes.
type InputOptions struct {
	// Phone is its id.
	Phone string
	// Viewer that the input is bound to, or empty.
	Viewer string
	// Identity of the caller; a viewer must be of the same.
	Identity string
}

// Input is one caller's input for one phone. A caller's touch points are its own: they are given free touch points of the
// display as they go down. Send and Close are for one goroutine; Close must be called.
type Input struct {
	hub    *Hub
	screen *screen
	viewer *Viewer // that it is bound to, or nil
	done   chan struct{}
	closed sync.Once

	// All that follows is guarded by screen.mu.
	err     error // why the input ended
	broken  bool  // the display was lost while something was down
	points  map[uint32]point
	keys    map[uint32]struct{}
	deliver uint64
}

// point is a touch point that is down.
type point struct {
	contact uint32 // the display's
	x, y    float64
}

// OpenInput begins input. Errors: ErrNotFound for an unknown phone, or with reason NO_SUCH_VIEWER; ErrFailedPrecondition
// with reason NOT_RUNNING; ErrUnavailable.
func (h *Hub) OpenInput(ctx context.Context, opts InputOptions) (*Input, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, h.config.AttachTimeout, lost(opts.Phone, "waited "+h.config.AttachTimeout.String()))
	defer cancel()
	s, err := h.acquire(opts.Phone)
	if err != nil {
		return nil, err
	}
	if _, err := s.waitConn(ctx); err != nil {
		h.release(s)
		return nil, err
	}
	in := &Input{
		hub: h, screen: s, done: make(chan struct{}), points: make(map[uint32]point), keys: make(map[uint32]struct{}),
	}
	if err := s.bind(in, opts); err != nil {
		h.release(s)
		return nil, err
	}
	return in, nil
}

// bind adds an input to the screen.
func (s *screen) bind(in *Input, opts InputOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return s.ended
	}
	if opts.Viewer != "" {
		v := s.viewers[opts.Viewer]
		if v == nil || v.err != nil || v.identity != opts.Identity {
			return fault.New(errdefs.ErrNotFound, NoSuchViewer, "no viewer %q of %s is attached to phone %s",
				opts.Viewer, opts.Identity, opts.Phone)
		}
		in.viewer = v
	}
	s.inputs[in] = struct{}{}
	return nil
}

// Done is closed when the input has ended before its caller ended it; Err then says why.
func (in *Input) Done() <-chan struct{} { return in.done }

// Err returns why the input ended: of class context.Canceled with reason VIEWER_LEFT when its viewer has left,
// ErrFailedPrecondition with reason NOT_RUNNING when the phone is off, ErrUnavailable with reason SHUTTING_DOWN. It is nil
// while the input lasts.
func (in *Input) Err() error {
	in.screen.mu.Lock()
	defer in.screen.mu.Unlock()
	return in.err
}

// Events returns how many events were delivered.
func (in *Input) Events() uint64 {
	in.screen.mu.Lock()
	defer in.screen.mu.Unlock()
	return in.deliver
}

// Send delivers one event and returns when the display has taken it. Errors: ErrInvalidArgument names what is wrong with
// the event; ErrFailedPrecondition with reason NO_SCREEN when the guest has no window that takes it; ErrUnavailable with
// reason DISPLAY_LOST while the display is lost, or once after it was lost while something was down; those of Err.
func (in *Input) Send(ctx context.Context, e *displayv1.InputEvent) error {
	conn, err := in.ready()
	if err != nil {
		return err
	}
	hello := conn.Hello()
	if err := checkEvent(e, float64(hello.Width), float64(hello.Height)); err != nil {
		return err
	}
	if touch := e.GetTouch(); touch != nil {
		err = in.touch(ctx, conn, touch)
	} else {
		err = in.pass(ctx, conn, e)
	}
	if err != nil {
		return err
	}
	in.hub.inputCount.Add(1)
	in.screen.mu.Lock()
	defer in.screen.mu.Unlock()
	in.deliver++
	return nil
}

// ready returns the connection to deliver to.
func (in *Input) ready() (*display.Conn, error) {
	s := in.screen
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case in.err != nil:
		return nil, in.err
	case s.conn == nil:
		return nil, lost(s.phone, "")
	case in.broken:
		in.broken = false
		return nil, fault.New(errdefs.ErrUnavailable, DisplayLost, "display of phone %s was lost: touches and keys that were down are up", s.phone)
	}
	return s.conn, nil
}

// pass delivers an event that is not a touch.
func (in *Input) pass(ctx context.Context, conn *display.Conn, e *displayv1.InputEvent) error {
	if err := conn.Input(ctx, e); err != nil {
		return in.hub.displayError(in.screen.phone, conn, err)
	}
	if key := e.GetKey(); key != nil {
		in.screen.mu.Lock()
		defer in.screen.mu.Unlock()
		switch {
		case in.screen.conn != conn: // all is up
		case key.GetDown():
			in.keys[key.GetCode()] = struct{}{}
		default:
			delete(in.keys, key.GetCode())
		}
	}
	return nil
}

// Close ends the input and lifts what is still down. The display gets two seconds for it.
func (in *Input) Close() {
	in.closed.Do(func() {
		in.lift()
		s := in.screen
		s.mu.Lock()
		in.finish(fmt.Errorf("input has ended: %w", context.Canceled))
		delete(s.inputs, in)
		in.letGo()
		s.mu.Unlock()
		in.hub.release(s)
	})
}

// lift lets the display lift what is down.
func (in *Input) lift() {
	s := in.screen
	s.mu.Lock()
	conn := s.conn
	events := in.ups()
	s.mu.Unlock()
	if conn == nil || len(events) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), liftTimeout)
	defer cancel()
	if err := conn.Input(ctx, events...); err != nil && !errors.Is(err, errdefs.ErrFailedPrecondition) {
		in.hub.log.Warn("touches and keys not lifted", "phone_id", s.phone, "error", err)
	}
}

// What follows is called with screen.mu held.

// ups returns the events that lift what is down.
func (in *Input) ups() []*displayv1.InputEvent {
	var events []*displayv1.InputEvent
	for _, p := range in.points {
		events = append(events, touchEvent(p.contact, displayv1.TouchAction_TOUCH_ACTION_UP, p.x, p.y))
	}
	for code := range in.keys {
		events = append(events, &displayv1.InputEvent{Event: &displayv1.InputEvent_Key{Key: &displayv1.Key{Code: code}}})
	}
	return events
}

// letGo forgets what is down.
func (in *Input) letGo() {
	for c, owner := range in.screen.contacts {
		if owner == in {
			in.screen.contacts[c] = nil
		}
	}
	clear(in.points)
	clear(in.keys)
}

// finish ends the input.
func (in *Input) finish(cause error) {
	if in.err == nil {
		in.err = cause
		close(in.done)
	}
}

// displayLost takes the loss of the display, and with it of all that is down.
func (in *Input) displayLost() {
	in.broken = in.broken || len(in.points)+len(in.keys) > 0
	in.letGo()
}
