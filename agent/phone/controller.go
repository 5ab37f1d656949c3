package phone

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/container"
)

// controller drives one phone. Its loop is the only caller of the runtime's changing calls for this phone.
type controller struct {
	s      *Supervisor
	id     string
	logger *slog.Logger
	// wake has room for one: a controller that is told ten times looks once.
	wake chan struct{}
	// adopted is closed after the first look.
	adopted chan struct{}

	// Guarded by Supervisor.mu:

	// rec is the record as it was last committed.
	rec Record
	// sight is what the loop saw last; the loop alone sets it, but for the loss of containerd.
	sight sight
	// requested is whether a request has changed the record since the loop looked.
	requested bool
	// snap is what was last published.
	snap Snapshot
	// interrupt ends the step under way, because a request has changed what should be.
	interrupt context.CancelFunc
	// displayGone ends the wait for a display that has just ended; nil while nobody waits.
	displayGone context.CancelFunc
	// kills is what is known of the kernel's killing for want of memory in the present guest.
	kills kills
	// link is the phone's network in the kernel; its turn is taken without Supervisor.mu.
	link link
	// slot is the phone's part in the admission of boots, and slotAsked its place in the queue.
	slot      slot
	slotAsked time.Time

	// Owned by the loop:

	mem memory
	// fails counts the failures of the step mem.failed in a row; asks the questions to the booting guest, silences those in a row
	// that it did not answer in time; displays the ends of displays in a row.
	fails, asks, silences, displays int
	// displayStart is when a display was last started after it had ended.
	displayStart time.Time
	// seen is the guest's last answer to the question whether it has booted.
	seen string
	// startedAt is when the guest that was last seen running started, by the clock as it was then, and startedOf its boot generation;
	// zero when none was.
	startedAt time.Time
	startedOf uint64
}

// poke has the loop look again.
func (c *controller) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run is the controller's goroutine: observe, plan, act, until the context ends or the phone is gone.
func (c *controller) run(ctx context.Context) {
	for ctx.Err() == nil {
		// The step's context is made before the record is read: a request that comes in between is not missed.
		sctx, cancel := c.stepContext(ctx)
		saw := c.observe(ctx)
		r, requested := c.s.saw(c, saw)
		if requested {
			c.mem.renewals = 0
			if c.fails = min(c.fails, 1); saw.known { // a look that has just failed is made again at its time
				c.note(stepIdle, nil, false)
			}
		}
		if saw.known && saw.guestUp() {
			c.startedAt, c.startedOf = saw.obs.Guest.StartedAt, saw.obs.Guest.BootGeneration
		}
		c.mem.slot, c.mem.wall, c.mem.networkAt = c.s.slotOf(c), c.s.wall(), c.s.networkDue(c, saw)
		c.lookAtDisplay()
		p := next(&r, saw, c.mem, time.Now(), c.s.timing)
		if p.step == stepQueue { // needs nobody, and so no other look
			c.queue(&r)
			c.mem.slot = c.s.slotOf(c)
			p = next(&r, saw, c.mem, time.Now(), c.s.timing)
		}
		if p.step != stepEnd {
			c.s.publish(c)
		}
		if p.step == stepIdle {
			cancel()
			c.wait(ctx, p.at)
			continue
		}
		began := time.Now()
		pointOfStep(p.step, "before")
		err := c.act(sctx, p.step, &r, saw)
		pointOfStep(p.step, "after")
		interrupted := sctx.Err() != nil
		c.logger.Debug("step", "step", p.step.String(), "operation_id", r.operationID(), "took", time.Since(began), "error", err)
		cancel()
		if errors.Is(err, errGone) {
			return
		}
		if p.step != stepNetwork { // which keeps its own count: it goes on beside what else is tried again
			c.note(p.step, err, interrupted)
		}
	}
}

// stepContext returns the context of the next step, which a request may end.
func (c *controller) stepContext(ctx context.Context) (context.Context, context.CancelFunc) {
	sctx, cancel := context.WithCancel(ctx)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.interrupt = cancel
	return sctx, cancel
}

// sameStart is more than the difference between two looks at one process as to when it began, which is reckoned from its age: the clocks are read one
// after the other. Greater ones are steps of the wall clock.
const sameStart = time.Second

// observe asks the runtime what is. A runtime that cannot answer leaves what was seen before, marked as not known.
func (c *controller) observe(ctx context.Context) sight {
	octx, cancel := context.WithTimeout(ctx, c.s.timing.AskTimeout)
	defer cancel()
	before := c.s.sightOf(c)
	obs, err := c.s.cfg.Runtime.Observe(octx, c.id)
	if err == nil {
		if !before.known {
			c.note(stepIdle, nil, false)
		}
		if g, was := &obs.Guest, before.obs.Guest; g.PID == was.PID && g.BootGeneration == was.BootGeneration && g.StartedAt.Sub(was.StartedAt).Abs() < sameStart {
			g.StartedAt = was.StartedAt
		}
		return sight{known: true, obs: obs}
	}
	if ctx.Err() == nil {
		c.mem.failed = stepIdle
		c.fails++
		c.mem.retryAt = time.Now().Add(backoff(c.s.timing.Retry, c.fails))
		if !errdefs.IsUnavailable(err) {
			c.logger.Warn("phone not observed", "error", err)
		}
	}
	return sight{known: false, obs: before.obs}
}

// lookAtDisplay finds out whether the guest has begun to draw, and then it is asked at once whether it has booted.
func (c *controller) lookAtDisplay() {
	drawn := c.s.cfg.Displays.HasContent(c.id)
	if drawn && !c.mem.drawn {
		c.asks, c.mem.nextAsk = 0, time.Time{}
	}
	c.mem.drawn = drawn
}

// note remembers how a step went.
func (c *controller) note(s step, err error, interrupted bool) {
	if err == nil {
		c.mem.failed, c.mem.retryAt, c.fails = stepIdle, time.Time{}, 0
		return
	}
	if interrupted {
		c.fails = 0
		return
	}
	if c.mem.failed != s {
		c.fails = 0
	}
	c.fails++
	c.mem.failed = s
	c.mem.retryAt = time.Now().Add(backoff(c.s.timing.Retry, c.fails))
	if s == stepRenew {
		c.mem.renewals++
	}
	c.logger.Warn("step not done", "step", s.String(), "attempt", c.fails, "error", err)
}

// wait blocks until the controller is woken, a time comes, or the context ends.
func (c *controller) wait(ctx context.Context, at time.Time) {
	var timer <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-c.wake:
	case <-timer:
	case <-ctx.Done():
	}
}

// progress tells the watchers of the operation under way what is being done.
func (c *controller) progress(r *Record, text string) {
	if r.Task != nil {
		c.s.cfg.Operations.Progress(r.Task.OperationID, c.id, text)
	}
}

// handleEvent takes an event of the runtime that concerns this phone. Supervisor.mu is held.
func (c *controller) handleEvent(e container.Event) {
	switch {
	case e.Kind == container.OOM && e.Role == container.Guest:
		c.kills.last = e.Time
	case e.Kind == container.Exited && e.Role == container.Display && c.displayGone != nil:
		c.displayGone()
	}
	c.poke()
}
