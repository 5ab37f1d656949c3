package service

import (
	"context"
	"math/rand/v2"
	"time"
)

// Back-off between starts of a service that ends: doubled up to the most, and from the least again once it has run for a while.
const (
	leastPause = 250 * time.Millisecond
	mostPause  = 30 * time.Second
	steadyTime = time.Minute
)

// Change is what Keep reports.
type Change struct {
	// Instance is the one that is ready now, if Err is nil and Ended false; or that has ended.
	Instance Instance
	Ended    bool
	// Err is why no instance could be made sure of; Keep tries again.
	Err error
}

// Keep makes sure of a service until ctx ends, which leaves it running: of what specs says last, which must say something once; and again when it
// ends, after a pause that grows, or when containerd was away. report is called for every change, by Keep's goroutine alone.
func (h *Host) Keep(ctx context.Context, specs <-chan Spec, report func(Change)) {
	var spec Spec
	select {
	case spec = <-specs:
	case <-ctx.Done():
		return
	}
	for pause := leastPause; ctx.Err() == nil; {
		began := time.Now()
		next, changed := h.keep(ctx, spec, specs, report)
		if spec = next; changed || time.Since(began) > steadyTime {
			pause = leastPause
		}
		if changed {
			continue
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case spec = <-specs:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, mostPause)
	}
}

// keep makes sure of a spec once and waits until its instance ends, or another spec comes, which it returns.
func (h *Host) keep(ctx context.Context, spec Spec, specs <-chan Spec, report func(Change)) (next Spec, changed bool) {
	i, err := h.Ensure(ctx, spec)
	if err != nil {
		if ctx.Err() == nil {
			report(Change{Err: err})
		}
		return spec, false
	}
	report(Change{Instance: i})
	waiting, stop := context.WithCancel(ctx)
	ended := make(chan Change, 1)
	go func() {
		last, err := h.Wait(waiting, i)
		ended <- Change{Instance: last, Ended: err == nil, Err: err}
	}()
	select {
	case next = <-specs:
		stop()
		<-ended
		return next, true
	case change := <-ended:
		stop()
		if ctx.Err() == nil {
			report(change)
		}
		return spec, false
	}
}
