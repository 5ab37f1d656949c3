package phone

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/profile"
)

// operationID returns the id of the operation under way, or "".
func (r *Record) operationID() string {
	if r.Task == nil {
		return ""
	}
	return r.Task.OperationID
}

// end records that a guest ended and what follows from it, in one transaction: a crash before it finds the same end again, a
// crash after it finds it dealt with.
func (c *controller) end(ctx context.Context, r *Record, saw sight) error {
	c.s.mu.Lock()
	memory := c.kills
	c.s.mu.Unlock()
	log, wish, err := "", profile.Crashed, error(nil)
	if unasked(r, saw) {
		log = c.logTail(ctx, r)
		if wish, err = c.wishOf(ctx, r, saw, log); err != nil {
			return err
		}
	}
	now := time.Now()
	err = c.s.change(c.id, func(tx *store.Tx, r *Record) error {
		if !ended(r, saw) {
			return nil
		}
		e := observedEnding(r, saw, c.s.cfg.HostBoot, memory, now)
		e.log, e.wish = log, wish
		meaning := applyEnding(r, e, c.s.timing)
		code := ""
		if !e.gone {
			code = strconv.FormatUint(uint64(e.code), 10)
		}
		return c.s.cfg.Journal.Append(tx, event.Event{
			Time: e.at, Kind: event.GuestExited, PhoneID: c.id, OperationID: r.operationID(), Message: e.String(),
			Attributes: map[string]string{"exit_code": code, "meaning": meaning, "log": log},
		})
	})
	if err == nil {
		c.resetBoot()
	}
	return err
}

// maxLogTail bounds the guest's last words that an event carries, in bytes.
const maxLogTail = 4096

// logTail returns the last lines that the present guest printed, at most maxLogTail bytes of valid UTF-8; empty where they cannot be
// had.
func (c *controller) logTail(ctx context.Context, r *Record) string {
	tail, err := c.s.cfg.Runtime.LogTail(ctx, c.id, container.Guest, c.began(r), maxLogTail)
	if err != nil {
		c.logger.Debug("last lines of the guest not read", "error", err)
	}
	return tail
}

// wishOf is what a guest that has ended asked for by its end, as its profile reads it from its exit code, its log and, where the profile
// needs it, its data. Data that cannot be read says nothing; the error is that of a step that was interrupted.
func (c *controller) wishOf(ctx context.Context, r *Record, saw sight, log string) (profile.Ending, error) {
	kind, err := profile.Get(r.Spec.Profile)
	g := saw.obs.Guest
	if err != nil || g.State != container.TaskStopped || g.HostStopped {
		return profile.Crashed, nil
	}
	found := profile.Evidence{StartedAt: c.began(r), Log: strings.Split(log, "\n")}
	if kind.NeedsBootReason != nil && kind.NeedsBootReason(g.ExitCode) {
		found.BootReason, err = c.s.cfg.Volumes.BootReason(ctx, r.container())
		if errors.Is(ctx.Err(), context.Canceled) {
			return profile.Crashed, ctx.Err()
		}
		if err != nil {
			c.logger.Warn("why the guest ended was not read from its data; its log has to tell", "error", err)
		}
	}
	return kind.Ending(g.ExitCode, found), nil
}

// began is when the present guest, or the one that has just ended, started: as seen by this agent, or as recorded, or else the earliest
// that it can be. Zero if nothing is known.
func (c *controller) began(r *Record) time.Time {
	switch {
	case c.startedOf == r.BootGeneration && !c.startedAt.IsZero():
		return c.startedAt
	case r.Started.Generation == r.BootGeneration && !r.Started.At.IsZero():
		return r.Started.At
	}
	return r.BootAsked
}

// renew makes the file systems of a reset while the phone is off, so that the reset is complete when its operation ends.
func (c *controller) renew(ctx context.Context, r *Record) error {
	if r.imported() {
		c.progress(r, "making a fresh root file system")
	} else {
		c.progress(r, "making fresh file systems")
	}
	err := c.s.cfg.Runtime.Prepare(ctx, r.container())
	if err == nil {
		return c.keep(ctx, r)
	}
	if r.Task == nil || c.tryAgain(ctx, stepRenew, err) {
		return err
	}
	if r.imported() {
		c.logger.Warn("root file system not made; the next start makes it", "error", err)
		return c.keep(ctx, r)
	}
	return c.s.change(c.id, func(_ *store.Tx, r *Record) error {
		r.fail(failure(fault.Code(err), orDefault(fault.Reason(err), HoldStartFailed), err.Error(), time.Now()))
		return nil
	})
}

// keep drops the file systems of other generations, and records that they are gone.
func (c *controller) keep(ctx context.Context, r *Record) error {
	generation := r.DataGeneration
	if err := c.s.cfg.Runtime.KeepGeneration(ctx, c.id, generation); err != nil {
		return err
	}
	return c.s.change(c.id, func(_ *store.Tx, r *Record) error {
		r.KeptGeneration = generation
		return nil
	})
}

// finish ends the operation under way.
func (c *controller) finish() error {
	return c.s.change(c.id, func(tx *store.Tx, r *Record) error { return c.s.finishTask(tx, r) })
}

// finishTask ends the operation under way in the transaction that records its outcome.
func (s *Supervisor) finishTask(tx *store.Tx, r *Record) error {
	task := r.Task
	r.Task = nil
	return s.endTask(tx, r, task)
}

// finishChange ends the Update under way in the transaction that records its outcome.
func (s *Supervisor) finishChange(tx *store.Tx, r *Record) error {
	task := r.Change
	r.Change = nil
	return s.endTask(tx, r, task)
}

// endTask ends an operation that is no longer the phone's, as its Failure says; nil is none.
func (s *Supervisor) endTask(tx *store.Tx, r *Record, task *Task) error {
	if task == nil {
		return nil
	}
	id := r.Spec.ID
	if task.Failure != nil {
		r.LastFailure = task.Failure
		return s.cfg.Operations.End(tx, task.OperationID, id, operation.Failed, task.Failure)
	}
	if r.LastFailure != nil && overcome(r.LastFailure.Kind, task.Kind) {
		r.LastFailure = nil
	}
	return s.cfg.Operations.End(tx, task.OperationID, id, operation.Succeeded, nil)
}

// overcome reports whether the success of an operation makes an earlier failure history: that of its own kind, and, for a start, the
// guest's want of memory, which has no kind.
func overcome(failed, succeeded operation.Kind) bool {
	switch succeeded {
	case operation.PowerOn, operation.Restart, operation.Reset:
		return failed == succeeded || failed == 0
	}
	return failed == succeeded
}

// destroy removes a deleted phone: first all that belongs to it, then its record, so that a crash in between finds the record and
// goes on.
func (c *controller) destroy(ctx context.Context, r *Record) error {
	c.progress(r, "removing all that belongs to the phone")
	c.s.cfg.Displays.Close(c.id)
	if r.Import != nil {
		if err := c.dropArchive(r.Import); err != nil {
			return err
		}
	}
	if err := c.s.cfg.Runtime.Destroy(ctx, c.id); err != nil {
		return err
	}
	if err := c.removeNetwork(ctx); err != nil {
		return err
	}
	if err := c.s.cfg.AppLists.Forget(ctx, c.id); err != nil {
		return err
	}
	if err := c.s.remove(c.id); err != nil {
		return err
	}
	return errGone
}
