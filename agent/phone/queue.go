package phone

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// slot is a phone's part in the admission of boots.
type slot int

const (
	// slotNone: the phone needs none.
	slotNone slot = iota
	// slotQueued: it waits for one.
	slotQueued
	// slotHeld: it may boot.
	slotHeld
)

// bootQueue admits boots: at most limit phones hold a slot at once, the others wait in the order in which their boots were asked for,
// also across restarts of the agent. A phone that a new agent finds booting holds one, even beyond the limit. Supervisor.mu guards it.
type bootQueue struct {
	limit int
	// open is whether slots are given: not before every phone has been looked at, so that those that boot are known.
	open bool
	held int
	// waiting is in order.
	waiting []waiter
	// admitted is told how long a phone has waited; it must be quick.
	admitted func(waited time.Duration)
}

// waiter is a phone that waits.
type waiter struct {
	c *controller
	// asked orders the queue, the phone's id where two are alike.
	asked time.Time
	since time.Time
}

func (w waiter) compare(o waiter) int {
	return cmp.Or(w.asked.Compare(o.asked), cmp.Compare(w.c.id, o.c.id))
}

// enqueue has a phone wait, and gives it a slot at once if one is free and nobody was before it.
func (q *bootQueue) enqueue(c *controller, asked, now time.Time) {
	if c.slot != slotNone {
		return
	}
	c.slot, c.slotAsked = slotQueued, asked
	w := waiter{c: c, asked: asked, since: now}
	i, _ := slices.BinarySearchFunc(q.waiting, w, waiter.compare)
	q.waiting = slices.Insert(q.waiting, i, w)
	q.grant(now)
}

// hold gives a phone that boots already its slot.
func (q *bootQueue) hold(c *controller, now time.Time) {
	if c.slot == slotHeld {
		return
	}
	q.leave(c, now)
	c.slot = slotHeld
	q.held++
}

// leave takes a phone out, wherever it is, and lets the next one in.
func (q *bootQueue) leave(c *controller, now time.Time) {
	switch c.slot {
	case slotNone:
		return
	case slotHeld:
		q.held--
	case slotQueued:
		if i, found := q.find(c); found {
			q.waiting = slices.Delete(q.waiting, i, i+1)
		}
	}
	c.slot = slotNone
	q.grant(now)
}

// grant gives free slots to those that wait longest.
func (q *bootQueue) grant(now time.Time) {
	for q.open && q.held < q.limit && len(q.waiting) > 0 {
		w := q.waiting[0]
		q.waiting = slices.Delete(q.waiting, 0, 1)
		w.c.slot = slotHeld
		q.held++
		q.admitted(now.Sub(w.since))
		w.c.poke()
	}
}

func (q *bootQueue) find(c *controller) (int, bool) {
	return slices.BinarySearchFunc(q.waiting, waiter{c: c, asked: c.slotAsked}, waiter.compare)
}

// position returns a phone's place in the queue, from 1; 0 when it does not wait.
func (q *bootQueue) position(c *controller) int {
	if c.slot != slotQueued {
		return 0
	}
	i, _ := q.find(c)
	return i + 1
}

// words say that a phone waits, and for what.
func (q *bootQueue) words(position int) string {
	return fmt.Sprintf("QUEUED: number %d of %d that wait to boot; %d boot now (limits.concurrent_boots is %d)", position, len(q.waiting), q.held, q.limit)
}

// settle brings a phone's part in line with what has been seen of it: a boot holds a slot from its start until it has completed, and
// nothing else does.
func (q *bootQueue) settle(c *controller, saw sight, now time.Time, t Timing) {
	r := &c.rec
	switch {
	case !saw.known:
		// What it holds it may still need.
	case r.wantsGuest() && saw.guestUp() && saw.obs.Guest.BootGeneration == r.BootGeneration && !r.booted():
		q.hold(c, now)
	case !r.wantsGuest(), saw.guestUp(), nextStart(r, now, t).After(now):
		q.leave(c, now)
	}
}

// queue has a phone wait for its boot slot.
func (c *controller) queue(r *Record) {
	c.s.mu.Lock()
	c.s.boots.enqueue(c, r.BootAsked, time.Now())
	waits := c.slot == slotQueued
	c.s.mu.Unlock()
	if waits {
		c.progress(r, "QUEUED: waiting for a boot slot")
	}
}

// BootQueue returns how many phones boot now, and how many wait for a slot.
func (s *Supervisor) BootQueue() (booting, queued int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boots.held, len(s.boots.waiting)
}
