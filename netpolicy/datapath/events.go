package datapath

import (
	"context"
	"iter"
	"time"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// EventKind is what an Event tells. The numbers are those of enum event_kind.
type EventKind uint32

// The kinds.
const (
	// EventDenial: the phone's table has a new denial, which DrainDenials brings with its count.
	EventDenial EventKind = 1
	// EventOpened and EventClosed: a sampled flow began, or ended: was closed, was denied by a new policy, or had to make room.
	EventOpened EventKind = 2
	EventClosed EventKind = 3
)

// Event is something that happened to the packets of a phone.
type Event struct {
	Kind EventKind
	// Slot is the phone's.
	Slot uint32
	Time time.Time
	// Flow is the flow of EventOpened and EventClosed.
	Flow Flow
	// Denial is that of EventDenial, without counts.
	Denial Denial
}

// Events yields what happens, as it happens, until ctx ends, in the caller's goroutine. What happened before is yielded first, as far as the
// ring had room: a verdict never waits for a reader, and what is lost is in Counters.Lost. There can be one reader at a time.
//
// An error ends the sequence: errdefs.ErrFailedPrecondition: there is a reader already. That ctx has ended is none.
func (d *Datapath) Events(ctx context.Context) iter.Seq2[Event, error] {
	return pinned.Events(ctx, d.maps.events, &d.reading, func(raw bpfEvent) (Event, bool) { return d.event(raw), true })
}

func (d *Datapath) event(raw bpfEvent) Event {
	at := pinned.Now()
	e := Event{Kind: EventKind(raw.Kind), Slot: raw.Slot, Time: at.Time(raw.Time)}
	if e.Kind == EventDenial {
		e.Denial = denialOf(raw.Denial)
	} else {
		e.Flow = d.flowOf(at, raw.Key, raw.Flow)
	}
	return e
}
