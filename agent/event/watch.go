package event

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
)

const (
	// maxSend bounds the events that a watcher gets at once.
	maxSend = 256
	// maxScan bounds the events that one read transaction looks at.
	maxScan = 4096
)

// WatchOptions say which events a watcher gets.
type WatchOptions struct {
	// After is the number after which to begin; 0 means the oldest kept.
	After uint64
	// OnlyNew begins with the next event that happens; After must be 0.
	OnlyNew bool
	// PhoneID leaves out events of other phones, and those of none; empty means all.
	PhoneID string
	// NoFollow ends after the events that exist now.
	NoFollow bool
}

// Watch calls send with 1..256 events at a time, in order, without a gap and without a repeat, until the context ends, send fails,
// or NoFollow is satisfied (nil). It fails with a fault of class ErrOutOfRange when events that it should send are no longer
// kept (JOURNAL_TRIMMED), or After is ahead of the journal (JOURNAL_RESET: the state directory is not the one that the caller
// knew). However slow send is, nobody else waits for it.
func (j *Journal) Watch(ctx context.Context, opts WatchOptions, send func([]Event) error) error {
	if opts.OnlyNew && opts.After != 0 {
		return fault.Field("after_seq", "must be 0 with only_new")
	}
	cursor, err := j.begin(opts)
	if err != nil {
		return err
	}
	for {
		more := j.wait()
		events, next, err := j.read(cursor, opts.PhoneID)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			if err := send(events); err != nil {
				return err
			}
		}
		if next != cursor {
			cursor = next
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		}
		if opts.NoFollow {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin returns the number after which a watcher begins.
func (j *Journal) begin(opts WatchOptions) (uint64, error) {
	var oldest, newest uint64
	err := j.db.View(func(tx *store.Tx) error {
		oldest, newest = bounds(tx)
		return nil
	})
	switch {
	case err != nil:
		return 0, err
	case opts.OnlyNew:
		return newest, nil
	case opts.After > newest:
		return 0, fault.New(errdefs.ErrOutOfRange, fault.JournalReset,
			"event %d has not happened: the journal's newest is %d, so it is not the journal that gave that number", opts.After, newest).
			With("newest_seq", strconv.FormatUint(newest, 10))
	case opts.After == 0 && oldest > 0:
		return oldest - 1, nil
	}
	return opts.After, nil
}

// read returns the next events after a number, and the number up to which it has looked.
func (j *Journal) read(after uint64, phoneID string) (events []Event, next uint64, err error) {
	next = after
	err = j.db.View(func(tx *store.Tx) error {
		if oldest, _ := bounds(tx); after+1 < oldest {
			return trimmed(after, oldest)
		}
		c := tx.Bucket(store.Events).Cursor()
		scanned := 0
		for k, data := c.Seek(store.Key64(after + 1)); k != nil && len(events) < maxSend && scanned < maxScan; k, data = c.Next() {
			e := Event{Seq: store.Number64(k)}
			if err := json.Unmarshal(data, &e); err != nil {
				return fmt.Errorf("decode event %d: %w: %w", e.Seq, err, errdefs.ErrDataLoss)
			}
			next = e.Seq
			scanned++
			if phoneID == "" || e.PhoneID == phoneID {
				events = append(events, e)
			}
		}
		return nil
	})
	return events, next, err
}

// trimmed is the error for a watcher that is behind the oldest event.
func trimmed(after, oldest uint64) error {
	return fault.New(errdefs.ErrOutOfRange, fault.JournalTrimmed,
		"events after %d are no longer kept: the oldest is %d", after, oldest).
		With("oldest_seq", strconv.FormatUint(oldest, 10))
}
