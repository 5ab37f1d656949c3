package wayland

import (
	"context"
	"time"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// slowInterval is the time between answers to frame callbacks that nobody waits to see.
const slowInterval = time.Second

// pacer answers frame callbacks: at the screen's rate where the surface can be seen, once a second elsewhere. Clients that
// never ask are never slowed.
type pacer struct {
	waiting []*surface // have callbacks
	last    time.Time  // of the newest answer at the screen's rate
	slow    time.Time  // of the newest slow answer
}

// add takes up the callbacks of a surface.
func (p *pacer) add(sf *surface) {
	if !sf.waiting {
		sf.waiting = true
		p.waiting = append(p.waiting, sf)
	}
	sf.s.wakeClock()
}

// forget drops a surface that is destroyed.
func (p *pacer) forget(sf *surface) {
	if sf.waiting {
		sf.waiting = false
		p.waiting = without(p.waiting, sf)
	}
}

// reconsider looks again at who waits, after what can be seen has changed.
func (p *pacer) reconsider() {
	if len(p.waiting) > 0 {
		p.waiting[0].s.wakeClock()
	}
}

// WatchedChanged tells the server that Config.Watched may answer differently now.
func (s *Server) WatchedChanged() { s.wakeClock() }

// wakeClock makes the clock look again at what is due.
func (s *Server) wakeClock() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tick is the clock's goroutine: it answers frame callbacks and unmaps idle pools when they are due.
func (s *Server) tick(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
		s.mu.Lock()
		now := time.Now()
		next := s.answerFrames(now)
		if idle := s.unmapIdle(now); next.IsZero() || (!idle.IsZero() && idle.Before(next)) {
			next = idle
		}
		s.unlock()
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// answerFrames answers the callbacks that are due and returns when the next are; zero for never.
func (s *Server) answerFrames(now time.Time) (next time.Time) {
	p := &s.pace
	if len(p.waiting) == 0 {
		return time.Time{}
	}
	fast, slow := p.last.Add(s.interval), p.slow.Add(slowInterval)
	fastDue, slowDue := !fast.After(now), !slow.After(now)
	watched := s.cfg.Watched()
	left, answered, answeredSlow := p.waiting[:0], false, false
	for _, sf := range p.waiting {
		seen := watched && s.visible(sf)
		due, at := slowDue, slow
		if seen {
			due, at = fastDue, fast
		}
		if due {
			s.answer(sf, now)
			answered, answeredSlow = answered || seen, answeredSlow || !seen
			continue
		}
		left = append(left, sf)
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if answered {
		p.last = s.grid(p.last, now)
	}
	if answeredSlow {
		p.slow = now
	}
	clear(p.waiting[len(left):])
	p.waiting = left
	return next
}

// grid returns the time to count the next interval from: where the last one should have ended, unless that is long ago.
func (s *Server) grid(last, now time.Time) time.Time {
	if due := last.Add(s.interval); now.Sub(due) < s.interval {
		return due
	}
	return now
}

// visible tells whether a surface is on the screen, or about to be.
func (s *Server) visible(sf *surface) bool {
	if _, cursor := sf.role.(cursorRole); cursor {
		return false
	}
	if _, shown := s.scene.find(sf); shown {
		return true
	}
	return sf.size.X == 0
}

func (s *Server) answer(sf *surface, now time.Time) {
	sf.waiting = false
	at := s.millis()
	for i, cb := range sf.frames {
		sf.frames[i] = nil
		cb.send(protocol.WlCallbackEventDone, wire.Uint(at))
		sf.o.c.remove(cb)
	}
	sf.frames = sf.frames[:0]
}
