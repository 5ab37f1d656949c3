package netpolicy

import (
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// A link that is deleted comes back at once, but not as often as a guest likes to delete it: mendBurst times, and then once in mendEvery. In
// between the phone has none.
const (
	mendEvery = 10 * time.Second
	mendBurst = 2
)

// followLinks makes the links anew that somebody deletes, in full force, until the context ends. A guest with CAP_NET_ADMIN can delete its own.
func (e *Engine) followLinks(ctx context.Context) {
	gone, later := e.wire.WatchGone(ctx), make(chan string)
	for {
		var ids []string
		select {
		case id, open := <-gone:
			if !open {
				return
			}
			if ids = []string{id}; id == "" { // any
				e.mu.Lock()
				ids = slices.Sorted(maps.Keys(e.phones))
				e.mu.Unlock()
			}
		case id := <-later:
			ids = []string{id}
		}
		for _, id := range ids {
			if wait := e.mend(ctx, id); wait > 0 {
				time.AfterFunc(wait, func() {
					select {
					case later <- id:
					case <-ctx.Done():
					}
				})
			}
		}
	}
}

// mend makes a phone's link anew if it is gone. It returns after what time that is to be tried, or tried again; 0: there is nothing left to do.
func (e *Engine) mend(ctx context.Context, id string) (wait time.Duration) {
	defer e.lock(id)()
	p, err := e.phone(id)
	if err != nil {
		return 0 // removed meanwhile
	}
	index, err := e.wire.Index(id)
	if err == nil && index == p.link.Index {
		return 0
	}
	if err == nil {
		if wait := p.due(); wait > 0 {
			return wait
		}
		err = e.ensure(ctx, p.Phone)
	}
	if ctx.Err() != nil {
		return 0
	}
	if err != nil {
		e.log.Warn("a phone's link is gone and cannot be made anew yet", "phone_id", id, "again_in", mendEvery, "error", err)
		return mendEvery
	}
	e.log.Warn("a phone's link was deleted, by the guest or on the host, and is made anew", "phone_id", id, "link", p.link.Name)
	return 0
}

// due returns how long a phone's link is not to be made anew yet, or takes the place and returns 0. The phone is locked.
func (p attached) due() time.Duration {
	place := p.mends.Reserve()
	wait := place.Delay()
	if wait > 0 {
		place.Cancel()
	}
	return wait
}

// newMends bounds how often one phone's link is made anew.
func newMends() *rate.Limiter { return rate.NewLimiter(rate.Every(mendEvery), mendBurst) }
