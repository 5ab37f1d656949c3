package phone

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/binder"
)

// prepared is what a request needs to know before its transaction, because it cannot be asked inside one.
type prepared struct {
	// phones is what was asked for each phone.
	phones map[string]answer
	// binder is what the kernel offers; only for requests that start phones.
	binder binder.Support
}

// answer is what a request needs to know of one phone: the image that it gets, or why it cannot have it.
type answer struct {
	err   error
	image Image
}

// Submit accepts a request: it changes desired state and creates the operation in one transaction, and returns the operation. Phones
// that refuse are in its results. When every phone refuses, the first refusal is the error, and nothing has changed.
func (s *Supervisor) Submit(ctx context.Context, q Request) (operation.Operation, error) {
	if err := q.check(); err != nil {
		return operation.Operation{}, err
	}
	ready := s.prepareRequest(ctx, q)
	var op operation.Operation
	err := s.cfg.DB.Update(func(tx *store.Tx) (err error) {
		if err := s.accepting(); err != nil {
			return err
		}
		earlier, err := s.cfg.Operations.Retry(tx, q.RequestedBy, q.RequestID, q.fingerprint())
		if err != nil {
			return err
		}
		if earlier != nil {
			op = *earlier
			return nil
		}
		op, err = s.submit(tx, q, ready)
		return err
	})
	return op, err
}

// accepting returns an error while the supervisor does not run.
func (s *Supervisor) accepting() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		return fault.New(errdefs.ErrUnavailable, fault.ShuttingDown, "the agent is shutting down")
	}
	return nil
}

// prepareRequest asks the host and the images what the request depends on.
func (s *Supervisor) prepareRequest(ctx context.Context, q Request) prepared {
	ready := prepared{phones: make(map[string]answer, len(q.IDs))}
	var hostErr error
	if q.Kind == operation.PowerOn || q.Kind == operation.Reset || q.Kind == operation.Restart && q.Image != "" {
		hostErr = s.CheckDisk()
	}
	if q.Kind == operation.PowerOn && hostErr == nil {
		ready.binder, hostErr = s.checkBinder()
	}
	images := map[string]answer{} // by reference
	for _, id := range q.IDs {
		p := answer{err: hostErr}
		if ref := s.imageFor(q, id); ref != "" && p.err == nil {
			asked, known := images[ref]
			if !known {
				asked.image, asked.err = s.image(ctx, ref, q.imageField())
				images[ref] = asked
			}
			p = asked
		}
		ready.phones[id] = p
	}
	return ready
}

// imageFor returns the reference of the image that a request gives a phone, or "".
func (s *Supervisor) imageFor(q Request, id string) string {
	switch {
	case q.Image != "" && (q.Kind == operation.Restart || q.Kind == operation.Reset):
		return q.Image
	case q.Kind == operation.Reset:
		if snap, err := s.Get(id); err == nil {
			return snap.Record.Spec.Image
		}
	}
	return ""
}

// imageField is the field of the request that names the image.
func (q *Request) imageField() string {
	if q.Image != "" {
		return "image"
	}
	return "spec.image"
}

// submit is the transaction of a request.
func (s *Supervisor) submit(tx *store.Tx, q Request, ready prepared) (operation.Operation, error) {
	op := operation.Operation{
		Kind: q.Kind, RequestID: q.RequestID, RequestedBy: q.RequestedBy, Fingerprint: q.fingerprint(),
		Results: make([]operation.Result, len(q.IDs)),
	}
	changed := make(map[string]Record, len(q.IDs))
	var firstRefusal error
	devices := binders{support: ready.binder, count: func() (map[string]bool, error) { return s.binderUsers(tx) }}
	now := time.Now()
	for i, id := range q.IDs {
		op.Results[i].PhoneID = id
		r, err := s.admit(tx, id, q, ready.phones[id])
		if err == nil && q.Kind == operation.PowerOn {
			err = devices.take(id, binderNeed(r.Spec.Profile))
		}
		if err == nil {
			changed[id] = r
			continue
		}
		if firstRefusal == nil {
			firstRefusal = err
		}
		f := failure(fault.Code(err), fault.Reason(err), err.Error(), now)
		f.Kind = q.Kind
		op.Results[i].State, op.Results[i].Failure = operation.Failed, &f
	}
	if len(changed) == 0 {
		return op, firstRefusal
	}
	op, err := s.cfg.Operations.Create(tx, op)
	if err != nil {
		return op, err
	}
	for _, id := range q.IDs {
		if r, accepted := changed[id]; accepted {
			if err := s.accept(tx, q, r, op, now, ready.phones[id].image); err != nil {
				return op, err
			}
		}
	}
	return s.cfg.Operations.Read(tx, op.ID)
}

// admit returns the record of a phone that accepts the request, or why it refuses.
func (s *Supervisor) admit(tx *store.Tx, id string, q Request, ready answer) (Record, error) {
	r, status, err := s.meet(tx, id)
	if err != nil {
		return r, err
	}
	if err := refusal(q.Kind, q.Force, status, &r); err != nil {
		return r, err
	}
	if err := s.checkLent(id, q); err != nil {
		return r, err
	}
	if ready.err != nil {
		return r, ready.err
	}
	switch q.Kind {
	case operation.PowerOn:
		return r, r.checkLease(s.wall())
	case operation.Restart:
		if err := r.checkLease(s.wall()); err != nil {
			return r, err
		}
		return r, ready.image.fits(&r, r.DataAndroid)
	case operation.Reset:
		return r, ready.image.fits(&r, "")
	case operation.Unfreeze:
		return r, r.checkUnfreeze(q.Unfreeze, s.wall())
	case operation.Update:
		return r, s.checkUpdate(&r, q.Patch)
	}
	return r, nil
}

// meet reads a phone's record in a transaction, and what the phone is doing.
func (s *Supervisor) meet(tx *store.Tx, id string) (Record, Status, error) {
	r, err := records.Get(tx, []byte(id))
	if errdefs.IsNotFound(err) {
		return r, Unknown, noSuchPhone(id)
	}
	if err != nil {
		return r, Unknown, err
	}
	s.mu.Lock()
	var saw sight
	if c := s.phones[id]; c != nil {
		saw = c.sight
	}
	s.mu.Unlock()
	status, _ := statusOf(&r, saw, time.Now(), s.timing)
	return r, status, nil
}

// accept stores what an admitted request makes of one phone.
func (s *Supervisor) accept(tx *store.Tx, q Request, r Record, op operation.Operation, now time.Time, img Image) error {
	id := r.Spec.ID
	// What goes on beside what the controller does need not have it begin anew.
	interrupt := q.Kind != operation.Update && q.Kind != operation.Unfreeze
	tx.OnCommit(func() { s.committed(id, r, interrupt) }) // before the hooks of operations that end
	if q.Kind == operation.Delete {
		tx.OnCommit(func() { s.recall(id, op) })
	}
	if err := s.supersede(tx, &r, op); err != nil {
		return err
	}
	did := s.apply(&q, &r, now, img)
	if err := s.note(tx, &r, op.ID, did); err != nil {
		return err
	}
	if err := s.assign(tx, &r, op); err != nil {
		return err
	}
	return records.Put(tx, []byte(id), r)
}

// assign makes the operation the phone's own, or ends it where nothing but the record had to change.
func (s *Supervisor) assign(tx *store.Tx, r *Record, op operation.Operation) error {
	task := &Task{OperationID: op.ID, Kind: op.Kind}
	switch op.Kind {
	case operation.Unfreeze:
		return s.endTask(tx, r, task)
	case operation.Update:
		if r.changed() {
			return s.endTask(tx, r, task)
		}
		r.Change = task
	default:
		r.Task = task
	}
	return nil
}

// note appends the events of what a request did.
func (s *Supervisor) note(tx *store.Tx, r *Record, operationID string, did applied) error {
	id := r.Spec.ID
	if did.frozen != nil {
		if err := s.noteFrozen(tx, id, operationID, *did.frozen); err != nil {
			return err
		}
	}
	if len(did.fields) > 0 {
		fields := strings.Join(did.fields, ",")
		err := s.cfg.Journal.Append(tx, event.Event{
			Kind: event.PhoneUpdated, PhoneID: id, OperationID: operationID, Message: id + " was changed: " + fields,
			Attributes: map[string]string{"fields": fields},
		})
		if err != nil {
			return err
		}
	}
	return s.noteUnfrozen(tx, r, operationID, did.unfrozen)
}

// supersede ends the operations that a request goes before.
func (s *Supervisor) supersede(tx *store.Tx, r *Record, by operation.Operation) error {
	if by.Kind == operation.Update || by.Kind == operation.Unfreeze {
		return nil // these go on beside
	}
	if r.imported() {
		if err := s.finishTask(tx, r); err != nil {
			return err
		}
	}
	if r.Task != nil && r.Task.Failure != nil {
		r.LastFailure = r.Task.Failure
	}
	if err := s.abort(tx, r.Spec.ID, r.Task, by); err != nil {
		return err
	}
	if by.Kind != operation.Delete {
		return nil
	}
	if err := s.abort(tx, r.Spec.ID, r.Change, by); err != nil {
		return err
	}
	r.Change = nil
	return errors.Join(s.stopReading(tx, r), s.abortReaders(tx, r, by))
}

// abort ends an operation that another goes before; nil is none. One that would have failed anyway fails.
func (s *Supervisor) abort(tx *store.Tx, id string, task *Task, by operation.Operation) error {
	if task == nil {
		return nil
	}
	if task.Failure != nil {
		return s.cfg.Operations.End(tx, task.OperationID, id, operation.Failed, task.Failure)
	}
	err := fault.New(errdefs.ErrAborted, fault.Superseded, "%s of %s was given up for %s %s", task.Kind, id, by.Kind, by.ID)
	f := failure(fault.Code(err), fault.Superseded, err.Error(), by.CreateTime)
	f.Kind = task.Kind
	return s.cfg.Operations.End(tx, task.OperationID, id, operation.Aborted, &f)
}
