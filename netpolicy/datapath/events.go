package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/containerd/errdefs"

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
	return func(yield func(Event, error) bool) {
		if !d.reading.CompareAndSwap(false, true) {
			yield(Event{}, fmt.Errorf("events: there is a reader already: %w", errdefs.ErrFailedPrecondition))
			return
		}
		defer d.reading.Store(false)
		reader, err := ringbuf.NewReader(d.maps.events)
		if err != nil {
			yield(Event{}, fmt.Errorf("events: %w", pinned.Classed(err)))
			return
		}
		stop := context.AfterFunc(ctx, func() { reader.Close() })
		defer func() {
			stop()
			reader.Close()
		}()
		for ctx.Err() == nil {
			e, err := d.nextEvent(reader)
			if errors.Is(err, os.ErrClosed) && ctx.Err() != nil {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func (d *Datapath) nextEvent(reader *ringbuf.Reader) (Event, error) {
	record, err := reader.Read()
	if err != nil {
		return Event{}, fmt.Errorf("events: %w", err)
	}
	var raw bpfEvent
	if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &raw); err != nil {
		return Event{}, fmt.Errorf("an event of %d bytes: %w", len(record.RawSample), err)
	}
	at := pinned.Now()
	e := Event{Kind: EventKind(raw.Kind), Slot: raw.Slot, Time: at.Time(raw.Time)}
	if e.Kind == EventDenial {
		e.Denial = denialOf(raw.Denial)
	} else {
		e.Flow = d.flowOf(at, raw.Key, raw.Flow)
	}
	return e, nil
}
