package phone

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/binder"
)

// Limits of a request.
const (
	// MaxPhones is how many phones one request may name.
	MaxPhones = 100
	// MaxRequestID is the most characters of a request id.
	MaxRequestID = 64
	// MaxGrace is the longest time that a guest may be given to shut down.
	MaxGrace = 10 * time.Minute
)

// Request asks for a change of what phones should be doing.
type Request struct {
	// Kind is what is asked for.
	Kind operation.Kind `json:"kind"`
	// IDs names the phones, 1..MaxPhones, none twice.
	IDs []string `json:"ids"`
	// Grace is how long the guest may take to shut down before it is killed, 0..MaxGrace; nil means the default. PowerOff and
	// Restart only.
	Grace *time.Duration `json:"grace,omitempty"`
	// Force kills at once, and lets PowerOff and Delete supersede what is in their way.
	Force bool `json:"force,omitempty"`
	// RequestID is the caller's own name for the request; a retry with it returns the first call's operation.
	RequestID string `json:"-"`
	// RequestedBy is the identity that asks.
	RequestedBy string `json:"-"`
}

// check refuses requests that are wrong whatever the phones are doing.
func (q *Request) check() error {
	if len(q.IDs) == 0 || len(q.IDs) > MaxPhones {
		return fault.Field("phone_ids", "%d ids must be 1..%d", len(q.IDs), MaxPhones)
	}
	sorted := slices.Sorted(slices.Values(q.IDs))
	for i := 1; i < len(sorted); i++ {
		if sorted[i] == sorted[i-1] {
			return fault.Field("phone_ids", "%q is there twice", clip(sorted[i]))
		}
	}
	if len(q.RequestID) > MaxRequestID {
		return fault.Field("request_id", "%d characters are more than %d", len(q.RequestID), MaxRequestID)
	}
	if q.Grace != nil && (*q.Grace < 0 || *q.Grace > MaxGrace) {
		return fault.Field("grace", "%s must be 0..%s", *q.Grace, MaxGrace)
	}
	return nil
}

// fingerprint tells a retry from another request.
func (q *Request) fingerprint() string {
	data, err := json.Marshal(q)
	if err != nil {
		panic(fmt.Sprintf("encode request: %v", err)) // strings, numbers and booleans always encode
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// prepared is what a request needs to know before its transaction, because it cannot be asked inside one.
type prepared struct {
	// phones is what was asked for each phone.
	phones map[string]answer
	// binder is what the kernel offers; only for requests that start phones.
	binder binder.Support
}

// answer is what a request needs to know of one phone.
type answer struct {
	err    error
	digest string
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
	if q.Kind == operation.PowerOn {
		if hostErr = s.checkDisk(); hostErr == nil {
			ready.binder, hostErr = s.checkBinder()
		}
	}
	for _, id := range q.IDs {
		p := answer{err: hostErr}
		if q.Kind == operation.Reset {
			if snap, err := s.Get(id); err == nil {
				img, err := s.image(ctx, snap.Record.Spec.Image)
				p = answer{err: err, digest: img.Digest}
			}
		}
		ready.phones[id] = p
	}
	return ready
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
		r, err := s.admit(tx, id, q, ready.phones[id].err)
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
		r, accepted := changed[id]
		if !accepted {
			continue
		}
		if err := s.supersede(tx, &r, op); err != nil {
			return op, err
		}
		q.apply(&r, now, s.timing, ready.phones[id].digest)
		r.Task = &Task{OperationID: op.ID, Kind: q.Kind}
		tx.OnCommit(func() { s.committed(id, r, true) })
		if err := records.Put(tx, []byte(id), r); err != nil {
			return op, err
		}
	}
	return op, nil
}

// admit returns the record of a phone that accepts the request, or why it refuses.
func (s *Supervisor) admit(tx *store.Tx, id string, q Request, unready error) (Record, error) {
	r, err := records.Get(tx, []byte(id))
	if errdefs.IsNotFound(err) {
		return r, noSuchPhone(id)
	}
	if err != nil {
		return r, err
	}
	s.mu.Lock()
	c := s.phones[id]
	var saw sight
	if c != nil {
		saw = c.sight
	}
	s.mu.Unlock()
	status, _ := statusOf(&r, saw, time.Now(), s.timing)
	if err := refusal(id, q.Kind, q.Force, status, r.Task); err != nil {
		return r, err
	}
	return r, unready
}

// supersede ends the operation that a request goes before.
func (s *Supervisor) supersede(tx *store.Tx, r *Record, by operation.Operation) error {
	if r.Task == nil {
		return nil
	}
	id := r.Spec.ID
	err := fault.New(errdefs.ErrAborted, fault.Superseded, "%s of %s was given up for %s %s", r.Task.Kind, id, by.Kind, by.ID)
	f := failure(fault.Code(err), fault.Superseded, err.Error(), by.CreateTime)
	f.Kind = r.Task.Kind
	return s.cfg.Operations.End(tx, r.Task.OperationID, id, operation.Aborted, &f)
}

// apply changes desired state.
func (q *Request) apply(r *Record, now time.Time, t Timing, digest string) {
	stop := Stop{At: now, Grace: t.Grace}
	if q.Grace != nil {
		stop.Grace = *q.Grace
	}
	if q.Force {
		stop.Grace = 0
	}
	switch q.Kind {
	case operation.PowerOn:
		r.On, r.OffAsked, r.OffReason, r.Hold, r.Crashes = true, false, "", nil, nil
		r.boot()
	case operation.PowerOff:
		r.turnOff(true, "")
		r.Stop = stop
	case operation.Restart:
		r.Hold, r.Crashes, r.Stop = nil, nil, stop
		r.boot()
	case operation.Reset:
		r.DataGeneration++
		r.ImageDigest = orDefault(digest, r.ImageDigest)
		r.Crashes, r.Stop = nil, Stop{At: now} // its data goes anyway: there is nothing to shut down for
		if r.wantsGuest() {
			r.boot()
		} else if r.Hold != nil {
			r.turnOff(false, "")
		}
	case operation.Delete:
		r.Deleting, r.Stop = true, Stop{At: now}
	}
}
