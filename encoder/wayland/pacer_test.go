package wayland

import (
	"context"
	"testing"
	"time"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
)

// clockless runs a server without its clock, which the test moves by hand.
func clockless(t *testing.T, watched *bool) *Server {
	t.Helper()
	sc, err := screen.New(testWidth, testHeight)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Screen: sc, Dir: t.TempDir(), FPS: 50, Watched: func() bool { return *watched }})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.accept(context.Background()) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("accept: %v", err)
		}
	})
	return s
}

// at moves the clock and returns in how many milliseconds it wants to be asked again; -1 for never.
func (s *Server) at(now time.Time) int64 {
	s.mu.Lock()
	defer s.unlock()
	next := s.answerFrames(now)
	if next.IsZero() {
		return -1
	}
	return next.Sub(now).Milliseconds()
}

func TestFrameCallbacks(t *testing.T) {
	watched := true
	s := clockless(t, &watched)
	p := connect(t, s)
	w := p.window()
	_, b := p.picture(testWidth, testHeight, 0xffffffff)
	frame := func() {
		p.make(w.surface, protocol.WlSurface, protocol.WlSurfaceRequestFrame, protocol.WlCallback)
		p.show(w.surface, b)
		p.roundtrip()
		p.events = nil
	}
	answered := func() int {
		p.roundtrip()
		return len(p.take("wl_callback.done")) - 1 // less the sync's own
	}
	now := time.Now()
	p.roundtrip()
	p.events = nil
	step := func(what string, after time.Duration, wantNext int64, wantAnswered int) {
		t.Helper()
		now = now.Add(after)
		if next := s.at(now); next != wantNext {
			t.Errorf("%s: next in %d ms, want %d", what, next, wantNext)
		}
		if got := answered(); got != wantAnswered {
			t.Errorf("%s: %d answered, want %d", what, got, wantAnswered)
		}
	}
	step("nothing waits", 0, -1, 0)
	frame()
	step("the first after a pause", 0, -1, 1)
	frame()
	step("too early", 5*time.Millisecond, 15, 0)
	step("in time", 15*time.Millisecond, -1, 1)
	frame()
	step("late", 23*time.Millisecond, -1, 1)
	frame()
	step("lateness does not add up", 0, 17, 0)
	watched = false
	step("not watched", 17*time.Millisecond, -1, 1) // nothing slow was answered for a second
	frame()
	step("not watched, soon", 30*time.Millisecond, 970, 0)
	watched = true
	step("watched again", 0, -1, 1)
	watched = false
	frame()
	step("not watched, still soon", 100*time.Millisecond, 870, 0)
	step("not watched, a second later", 870*time.Millisecond, -1, 1)
}

func TestHiddenWindowIsSlow(t *testing.T) {
	watched := true
	s := clockless(t, &watched)
	p, q := connect(t, s), connect(t, s)
	below := p.shown(testWidth, testHeight)
	q.shown(testWidth, testHeight)
	now := time.Now()
	ask := func() {
		p.make(below.surface, protocol.WlSurface, protocol.WlSurfaceRequestFrame, protocol.WlCallback)
		p.commit(below.surface)
		p.roundtrip()
	}
	ask()
	if next := s.at(now); next != -1 {
		t.Fatalf("the first waits %d ms", next)
	}
	ask()
	if next := s.at(now.Add(100 * time.Millisecond)); next != 900 {
		t.Errorf("next in %d ms, want 900", next)
	}
}

func TestIdlePoolsAreUnmapped(t *testing.T) {
	watched := true
	s := clockless(t, &watched)
	p := connect(t, s)
	w := p.window()
	_, b := p.picture(testWidth, testHeight, 0xffffffff)
	p.show(w.surface, b)
	p.roundtrip()
	s.mu.Lock()
	defer s.mu.Unlock()
	for pool := range s.pools {
		if pool.mapped == nil {
			t.Fatal("the pool was not mapped")
		}
		if next := s.unmapIdle(pool.lastUse.Add(poolIdle / 2)); next != pool.lastUse.Add(poolIdle) || pool.mapped == nil {
			t.Errorf("half way: next %v, mapped %v", next, pool.mapped != nil)
		}
		if next := s.unmapIdle(pool.lastUse.Add(poolIdle)); !next.IsZero() || pool.mapped != nil {
			t.Errorf("when due: next %v, mapped %v", next, pool.mapped != nil)
		}
	}
}
