package appguard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/containerd/errdefs"

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
	return func(yield func(Event, error) bool) {
		if !g.reading.CompareAndSwap(false, true) {
			yield(Event{}, fmt.Errorf("events: there is a reader already: %w", errdefs.ErrFailedPrecondition))
			return
		}
		defer g.reading.Store(false)
		reader, err := ringbuf.NewReader(g.maps.events)
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
			e, err := nextEvent(reader)
			if errors.Is(err, os.ErrClosed) && ctx.Err() != nil {
				return
			}
			if err == nil && e.Slot == g.canarySlot() {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func nextEvent(reader *ringbuf.Reader) (Event, error) {
	record, err := reader.Read()
	if err != nil {
		return Event{}, fmt.Errorf("events: %w", err)
	}
	var raw bpfEvent
	if _, err := binary.Decode(record.RawSample, binary.NativeEndian, &raw); err != nil {
		return Event{}, fmt.Errorf("an event of %d bytes: %w", len(record.RawSample), err)
	}
	return Event{Slot: raw.Slot, Kind: Kind(raw.Kind)}, nil
}
