package pinned

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/containerd/errdefs"
)

// Events yields what programs have written to a ring buffer and write, until ctx ends, in the caller's goroutine. Raw is what they write; event makes
// of it what is yielded, and leaves out what it does not tell. reading is the ring's alone: there can be one reader at a time.
//
// An error ends the sequence: errdefs.ErrFailedPrecondition: there is a reader already. That ctx has ended is none.
func Events[Raw, Event any](ctx context.Context, ring *ebpf.Map, reading *atomic.Bool, event func(Raw) (e Event, tell bool)) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var none Event
		if !reading.CompareAndSwap(false, true) {
			yield(none, fmt.Errorf("events: there is a reader already: %w", errdefs.ErrFailedPrecondition))
			return
		}
		defer reading.Store(false)
		reader, err := ringbuf.NewReader(ring)
		if err != nil {
			yield(none, fmt.Errorf("events: %w", Classed(err)))
			return
		}
		stop := context.AfterFunc(ctx, func() { reader.Close() })
		defer func() {
			stop()
			reader.Close()
		}()
		for ctx.Err() == nil {
			raw, err := next[Raw](reader)
			if errors.Is(err, os.ErrClosed) && ctx.Err() != nil {
				return
			}
			if err != nil {
				yield(none, err)
				return
			}
			if e, tell := event(raw); tell && !yield(e, nil) {
				return
			}
		}
	}
}

func next[Raw any](reader *ringbuf.Reader) (raw Raw, err error) {
	record, err := reader.Read()
	if err != nil {
		return raw, fmt.Errorf("events: %w", err)
	}
	if _, err := binary.Decode(record.RawSample, binary.NativeEndian, &raw); err != nil {
		return raw, fmt.Errorf("an event of %d bytes: %w", len(record.RawSample), err)
	}
	return raw, nil
}
