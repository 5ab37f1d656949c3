package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// part does one part of an operation, from its wait for a turn to its end on disk. again is whether an earlier agent had begun it.
func (r *Runner) part(op operation.Operation, id string, l *lane, again bool) {
	defer r.leave([]string{id})
	release, err := r.wait(r.ctx, l)
	if err != nil {
		return
	}
	defer release()
	w := r.work(op, id)
	w.Again = again
	crashpoint.Reached("job/began")
	out, err := r.do(op.Kind, w)
	crashpoint.Reached("job/done")
	if r.ctx.Err() != nil {
		return // the next agent finds it RUNNING
	}
	r.end(op, w, out, err)
}

// wait waits for a turn in a lane and on the host.
func (r *Runner) wait(ctx context.Context, l *lane) (release func(), err error) {
	for i, turn := range []chan struct{}{l.turns, r.host} {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			if i == 1 {
				<-l.turns
			}
			return nil, context.Cause(ctx)
		}
	}
	return func() { <-r.host; <-l.turns }, nil
}

// Turn waits for a turn in a phone beside its jobs, for work that is no operation because its caller waits for it. The caller calls
// release when it has ended. Errors: TOO_MANY_JOBS, SHUTTING_DOWN, the end of ctx.
func (r *Runner) Turn(ctx context.Context, id string) (release func(), err error) {
	if err := r.take(id); err != nil {
		return nil, err
	}
	r.mu.Lock()
	l := r.lanes[id]
	r.mu.Unlock()
	free, err := r.wait(ctx, l)
	if err != nil {
		r.leave([]string{id})
		return nil, err
	}
	return func() { free(); r.leave([]string{id}) }, nil
}

func (r *Runner) work(op operation.Operation, id string) Work {
	return Work{OperationID: op.ID, PhoneID: id, Payload: op.Payload, Progress: func(text string) { r.cfg.Operations.Progress(op.ID, id, text) }}
}

// do has the handler do a part in a phone that still runs.
func (r *Runner) do(kind operation.Kind, w Work) (*operation.Output, error) {
	before, err := r.running(w.PhoneID)
	if err != nil {
		return nil, err
	}
	out, err := r.cfg.Handlers[kind].Do(r.ctx, w)
	if err != nil && r.ctx.Err() == nil && mayHaveEnded(err) && EndedWith(r.ctx, r.cfg.Phones, before) {
		err = errors.Join(Ended(w.PhoneID), err)
	}
	return out, err
}

// mayHaveEnded tells errors that the end of a guest can bring about from those that have a cause of their own.
func mayHaveEnded(err error) bool { return fault.Reason(err) == "" || errdefs.IsAborted(err) }

// end stores the end of a part, and cleans up after the last one.
func (r *Runner) end(op operation.Operation, w Work, out *operation.Output, err error) {
	result := operation.Result{PhoneID: w.PhoneID, State: operation.Succeeded, Output: out}
	if err != nil {
		result.State, result.Failure = operation.Failed, Failure(op.Kind, err, time.Now())
	}
	if !r.store(op, result) {
		return
	}
	crashpoint.Reached("job/ended")
	r.clean(op)
	crashpoint.Reached("job/cleaned")
}

// storeAgain is how long the end of a part that could not be stored, on a full disk for instance, waits for the next try.
const storeAgain = time.Second

// store stores the end of a part, as soon as that can be done: until then the part is RUNNING, for those who wait for it as on disk. It
// returns false if the agent ends before; then the next one finds the part as one that was interrupted.
func (r *Runner) store(op operation.Operation, result operation.Result) bool {
	for {
		err := r.cfg.DB.Update(func(tx *store.Tx) error { return r.cfg.Operations.EndWith(tx, op.ID, result) })
		if err == nil {
			return true
		}
		r.cfg.Logger.Error("end of a job not stored", "operation_id", op.ID, "phone_id", result.PhoneID, "error", err)
		select {
		case <-time.After(storeAgain):
		case <-r.ctx.Done():
			return false
		}
	}
}

// clean removes what an operation's payload names, once all of it has ended.
func (r *Runner) clean(op operation.Operation) {
	clean := r.cfg.Handlers[op.Kind].Clean
	if clean == nil {
		return
	}
	if now, err := r.cfg.Operations.Get(op.ID); err == nil && now.State == operation.Running {
		return
	}
	clean(op.Payload)
}

// Resume takes up the operations that an earlier agent left. It is called once, after the phones have been adopted and before Submit.
func (r *Runner) Resume() error {
	ops, err := r.cfg.Operations.List(operation.ListOptions{RunningOnly: true, Limit: math.MaxInt})
	if err != nil {
		return fmt.Errorf("resume jobs: %w", err)
	}
	for _, op := range ops {
		h, ours := r.cfg.Handlers[op.Kind]
		if !ours {
			continue
		}
		ids := parts(op)
		if h.Again {
			r.again(op, ids)
			continue
		}
		for _, id := range ids {
			r.wg.Go(func() { r.interrupted(h, op, id) })
		}
	}
	return nil
}

// Payloads returns the payloads of the operations of a kind that have not ended. It is for before Resume.
func (r *Runner) Payloads(kind operation.Kind) ([]json.RawMessage, error) {
	ops, err := r.cfg.Operations.List(operation.ListOptions{RunningOnly: true, Limit: math.MaxInt})
	if err != nil {
		return nil, fmt.Errorf("payloads of jobs: %w", err)
	}
	var all []json.RawMessage
	for _, op := range ops {
		if op.Kind == kind {
			all = append(all, op.Payload)
		}
	}
	return all, nil
}

// again begins parts anew. A phone that has too many waits for nobody: its parts wait their turn as they would have.
func (r *Runner) again(op operation.Operation, ids []string) {
	r.mu.Lock()
	for _, id := range ids {
		l := r.lanes[id]
		if l == nil {
			l = &lane{turns: make(chan struct{}, PerPhone)}
			r.lanes[id] = l
		}
		l.parts++
	}
	r.mu.Unlock()
	r.begin(op, ids, true)
}

// abandonTime bounds the clearing up after an interrupted part.
const abandonTime = 30 * time.Second

// interrupted ends a part that an earlier agent had begun.
func (r *Runner) interrupted(h Handler, op operation.Operation, id string) {
	w := r.work(op, id)
	if h.Abandon != nil {
		ctx, cancel := context.WithTimeout(r.ctx, abandonTime)
		defer cancel()
		if err := h.Abandon(ctx, w); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			r.cfg.Logger.Warn("what an interrupted job has left in the guest was not ended", "operation_id", op.ID, "phone_id", id, "error", err)
		}
		if r.ctx.Err() != nil {
			return
		}
	}
	crashpoint.Reached("job/abandoned")
	r.end(op, w, nil, fault.New(errdefs.ErrAborted, Interrupted, "the agent ended while %s of %s was under way; how far it had come is not known", op.Kind, id))
}
