package phone

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/container"
)

// setLimits gives a running guest what it may use by the spec of now. A guest that does not run gets it at its start.
func (c *controller) setLimits(ctx context.Context, r *Record, saw sight) error {
	asked := r.LimitsAsked
	var err error
	if saw.guestUp() {
		err = c.s.cfg.Runtime.SetLimits(ctx, r.container())
	}
	if err != nil && c.tryAgain(ctx, stepLimits, err) {
		return err
	}
	return c.s.change(c.id, func(tx *store.Tx, r *Record) error {
		r.LimitsSet = asked
		return c.s.changeStep(tx, r, err)
	})
}

// grow brings the data volume to the spec's size. Where that is not possible the spec has the former size again.
func (c *controller) grow(ctx context.Context, r *Record) error {
	size := r.Spec.DataBytes
	err := c.s.cfg.Volumes.GrowData(ctx, r.container())
	if err != nil && c.tryAgain(ctx, stepGrow, err) {
		return err
	}
	return c.s.change(c.id, func(tx *store.Tx, r *Record) error {
		if r.GrowFrom == 0 || r.Spec.DataBytes != size {
			return nil // reset, or asked to grow further
		}
		if err != nil {
			r.Spec.DataBytes = r.GrowFrom
		}
		r.GrowFrom = 0
		return c.s.changeStep(tx, r, err)
	})
}

// tryAgain reports whether a step that failed is to be tried again: it was interrupted, containerd does not answer, or it may end in
// another way the next time and has not been tried often.
func (c *controller) tryAgain(ctx context.Context, s step, err error) bool {
	return errors.Is(ctx.Err(), context.Canceled) || errdefs.IsUnavailable(err) || !permanent(err) && c.attempt(s) < c.s.timing.StartAttempts
}

// changeStep records that a part of the Update under way is done, or has failed for good, and ends it with its last part.
func (s *Supervisor) changeStep(tx *store.Tx, r *Record, failed error) error {
	if r.Change != nil && failed != nil && r.Change.Failure == nil {
		task := *r.Change
		f := failure(fault.Code(failed), orDefault(fault.Reason(failed), fault.UpdateFailed), failed.Error(), time.Now())
		f.Kind = task.Kind
		task.Failure = &f
		r.Change = &task
	}
	if !r.changed() {
		return nil
	}
	return s.finishChange(tx, r)
}

// note is what a guest and a display are started with that an Update changes only at the next start. The engine keeps it with their
// containers, so that it is known of what runs, whoever started it.
type note struct {
	Display    Display `json:"display"`
	Properties string  `json:"properties"`
}

// note returns the note of the next start.
func (s Spec) note() string {
	properties := s.Properties
	if properties == nil {
		properties = map[string]string{}
	}
	sorted, err := json.Marshal(properties)
	if err != nil {
		panic(fmt.Sprintf("encode properties: %v", err)) // strings always encode
	}
	sum := sha256.Sum256(sorted)
	data, err := json.Marshal(note{Display: s.Display, Properties: hex.EncodeToString(sum[:8])})
	if err != nil {
		panic(fmt.Sprintf("encode note: %v", err)) // so do numbers
	}
	return string(data)
}

// pendingRestart names the fields of the spec that what runs does not have yet.
func (s Spec) pendingRestart(guest container.Task) []string {
	if guest.State != container.TaskRunning {
		return nil
	}
	var has, wants note
	var fields []string
	if json.Unmarshal([]byte(guest.Note), &has) == nil && json.Unmarshal([]byte(s.note()), &wants) == nil {
		if has.Display != wants.Display {
			fields = append(fields, "display")
		}
		if has.Properties != wants.Properties {
			fields = append(fields, "properties")
		}
	} // else an earlier release started it, which could not change any of these
	if guest.MemoryBytes > s.MemoryBytes {
		fields = append(fields, "memory_bytes")
	}
	return fields
}

// sameDisplay reports whether a display that runs is the one that the spec wants.
func (s Spec) sameDisplay(display container.Task) bool {
	var has note
	return json.Unmarshal([]byte(display.Note), &has) != nil || has.Display == s.Display
}
