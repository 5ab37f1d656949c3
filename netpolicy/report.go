package netpolicy

import (
	"context"
	"sync"
	"time"

	"github.com/phonehost/phonehost/netpolicy/datapath"
)

// denialWindow is for how long denials are gathered before they are reported.
const denialWindow = time.Second

// watchers are those who are told what happens. A watcher that does not keep up misses what it has no room for; for denials it is
// told their number with the next ones (Denial.Count adds up).
type watchers struct {
	mu      sync.Mutex
	denials map[chan []Denial]struct{}
	flows   map[chan Flow]struct{}
}

// Denials reports dropped packets, those of a second that are alike as one, until the context ends; the channel is closed then.
func (e *Engine) Denials(ctx context.Context) <-chan []Denial {
	return subscribe(ctx, &e.watch.mu, &e.watch.denials, 16)
}

// WatchFlows reports sampled flows as they begin and as they end, until the context ends; the channel is closed then.
func (e *Engine) WatchFlows(ctx context.Context) <-chan Flow {
	return subscribe(ctx, &e.watch.mu, &e.watch.flows, 256)
}

// subscribe adds a channel to a set until the context ends.
func subscribe[T any](ctx context.Context, mu *sync.Mutex, set *map[chan T]struct{}, room int) <-chan T {
	c := make(chan T, room)
	mu.Lock()
	defer mu.Unlock()
	if *set == nil {
		*set = map[chan T]struct{}{}
	}
	(*set)[c] = struct{}{}
	context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		delete(*set, c)
		close(c)
	})
	return c
}

// publish hands a value to all of a set that have room for it.
func publish[T any](mu *sync.Mutex, set *map[chan T]struct{}, value T) {
	mu.Lock()
	defer mu.Unlock()
	for c := range *set {
		select {
		case c <- value:
		default:
		}
	}
}

// report passes on what the programs tell, until the channel is closed. A denial starts the window at whose end those of all phones that
// have any are read: nothing is read while nothing is dropped.
func (e *Engine) report(ctx context.Context, events <-chan datapath.Event) {
	drainer := e.data.NewDrainer()
	window := time.NewTimer(denialWindow)
	window.Stop()
	defer window.Stop()
	pending := false
	for {
		select {
		case event, open := <-events:
			if !open {
				return
			}
			if event.Kind != datapath.EventDenial {
				e.reportFlow(event)
				continue
			}
			if !pending {
				pending = true
				window.Reset(denialWindow)
			}
		case <-window.C:
			more := e.reportDenials(drainer)
			pending = more
			if more {
				window.Reset(denialWindow)
			}
		case <-ctx.Done():
			return
		}
	}
}
