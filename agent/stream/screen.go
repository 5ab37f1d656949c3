package stream

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/fault"
)

// maxContacts is the number of touch points that a display has.
const maxContacts = 10

// screen is all that is attached to one phone. Its goroutine is keep.
type screen struct {
	hub    *Hub
	phone  string
	ctx    context.Context
	cancel context.CancelFunc
	kick   chan struct{} // holds one token while the keeper has something to look at

	users int // viewers and inputs; guarded by hub.mu

	mu       sync.Mutex // guards what follows, and all of the viewers, levels and inputs
	conn     *display.Conn
	ended    error         // why the screen takes nobody any more
	changed  chan struct{} // closed, and made anew, when conn or ended changes
	levels   map[uint32]*level
	viewers  map[string]*Viewer
	inputs   map[*Input]struct{}
	contacts [maxContacts]*Input // who holds the display's touch points down
}

func newScreen(h *Hub, phone string) *screen {
	s := &screen{
		hub: h, phone: phone,
		kick:    make(chan struct{}, 1),
		changed: make(chan struct{}),
		levels:  make(map[uint32]*level),
		viewers: make(map[string]*Viewer),
		inputs:  make(map[*Input]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// wakeKeeper makes the keeper look at the levels again.
func (s *screen) wakeKeeper() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// keep opens levels and asks for key frames whose time has come, until the screen is not used any more.
func (s *screen) keep() {
	defer s.hub.keepers.Done()
	defer s.closeLevels()
	if conn, err := s.hub.config.Displays.Conn(s.phone); err == nil {
		s.connected(conn)
	}
	for {
		for l := s.unopened(); l != nil; l = s.unopened() {
			s.open(l)
		}
		var due <-chan time.Time
		if wait, ok := s.askDue(); ok {
			due = time.After(wait)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-s.kick:
		case <-due:
		}
	}
}

// unopened returns a level that should be open and is not, or nil.
func (s *screen) unopened() *level {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.conn.Err() != nil || s.ended != nil || s.ctx.Err() != nil {
		return nil
	}
	for _, l := range s.levels {
		if l.open == nil {
			return l
		}
	}
	return nil
}

// askDue asks for the key frames that may be asked for now, and returns how long it is until the next may be.
func (s *screen) askDue() (wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, l := range s.levels {
		l.due = l.ask(now)
		l.grant(now)
		if !l.due.IsZero() && (!ok || l.due.Sub(now) < wait) {
			wait, ok = l.due.Sub(now), true
		}
	}
	return wait, ok
}

// connected takes a connection. One that has ended already is left alone: a newer one has been taken or will come.
func (s *screen) connected(conn *display.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if conn.Err() != nil || s.conn == conn {
		return
	}
	s.dropConn("another display has taken its place")
	s.conn = conn
	s.announce()
}

// lost takes the loss of a connection.
func (s *screen) lost(conn *display.Conn, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != conn {
		return
	}
	s.dropConn(reason)
	s.announce()
}

// dropConn forgets the connection and what was open there.
func (s *screen) dropConn(reason string) {
	if s.conn == nil {
		return
	}
	s.conn = nil
	for _, l := range s.levels {
		l.shut()
		for v := range l.viewers {
			v.displayLost(reason)
		}
	}
	for in := range s.inputs {
		in.displayLost()
	}
	clear(s.contacts[:])
}

// end ends all viewers and inputs; nobody is taken any more.
func (s *screen) end(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return
	}
	s.ended = cause
	for _, v := range s.viewers {
		v.finish(cause)
	}
	for in := range s.inputs {
		in.finish(cause)
	}
	s.announce()
}

func (s *screen) isEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended != nil
}

// announce wakes those who wait for a connection, and the keeper.
func (s *screen) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
	s.wakeKeeper()
}

// waitConn returns the connection to the display, and waits for it as long as ctx lasts.
func (s *screen) waitConn(ctx context.Context) (*display.Conn, error) {
	for {
		s.mu.Lock()
		conn, ended, changed := s.conn, s.ended, s.changed
		s.mu.Unlock()
		switch {
		case ended != nil:
			return nil, ended
		case conn != nil:
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// closeLevels ends all encoders when the screen is not used any more.
func (s *screen) closeLevels() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for fps, l := range s.levels {
		delete(s.levels, fps)
		l.close()
	}
}

// encoderFailed is the error of viewers whose level cannot be opened.
func (s *screen) encoderFailed(why string) error {
	return fault.New(errdefs.ErrUnavailable, EncoderFailed, "display of phone %s cannot encode: %s", s.phone, why)
}
