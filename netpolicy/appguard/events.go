package appguard

import (
	"context"
	"iter"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// Event says that something was refused which the phone's table of denials did not have yet: DrainDenials brings it, with its count.
type Event struct {
	Slot uint32
	Kind Kind
}

// Events yields what happens, as it happens, until ctx ends, in the caller's goroutine; what happened before first, as far as there was room: no verdict waits for
// a reader, and what is lost is in Counters.Lost. There can be one reader at a time.
//
// An error ends the sequence: errdefs.ErrFailedPrecondition: there is a reader already. That ctx has ended is none.
func (g *Guard) Events(ctx context.Context) iter.Seq2[Event, error] {
	return pinned.Events(ctx, g.maps.events, &g.reading, func(raw bpfEvent) (Event, bool) {
		return Event{Slot: raw.Slot, Kind: Kind(raw.Kind)}, raw.Slot != g.canarySlot()
	})
}
