package job

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/store"
)

// Request asks for an operation in running phones.
type Request struct {
	// Kind has a Handler.
	Kind operation.Kind
	// IDs names the phones, 1..phone.MaxPhones, none twice.
	IDs []string
	// Payload is what the handler needs; it is stored as JSON.
	Payload any
	// Fingerprint tells a retry from another request where the payload does not, because it names something made for this call; empty
	// means the payload.
	Fingerprint string
	// RequestID is the caller's own name for the request; a retry with it returns the first call's operation.
	RequestID string
	// RequestedBy is the identity that asks.
	RequestedBy string
}

// Submit accepts a request and returns its operation, which has begun when Submit returns. Phones that refuse are in its results. When
// every phone refuses, the first refusal is the error, and no operation is made. first is false where an earlier call had made the
// operation: then the caller's payload is not used.
func (r *Runner) Submit(q Request) (op operation.Operation, first bool, err error) {
	payload, err := json.Marshal(q.Payload)
	if err != nil {
		return op, false, fmt.Errorf("encode the payload of %s: %w", q.Kind, err)
	}
	if _, known := r.cfg.Handlers[q.Kind]; !known {
		return op, false, fmt.Errorf("submit %s: no handler: %w", q.Kind, errdefs.ErrNotImplemented)
	}
	if err := operation.CheckIDs(q.IDs, phone.MaxPhones); err != nil {
		return op, false, err
	}
	if err := operation.CheckRequestID(q.RequestID); err != nil {
		return op, false, err
	}
	mark := fingerprint(q, payload)
	var lanes []string
	err = r.cfg.DB.Update(func(tx *store.Tx) (err error) {
		r.leave(lanes) // of an attempt that is made again
		lanes, first = nil, false
		earlier, err := r.cfg.Operations.Retry(tx, q.RequestedBy, q.RequestID, mark)
		if err != nil {
			return err
		}
		if earlier != nil {
			op = *earlier
			return nil
		}
		op = operation.Operation{Kind: q.Kind, RequestID: q.RequestID, RequestedBy: q.RequestedBy, Fingerprint: mark, Payload: payload}
		if op.Results, lanes, err = r.enter(q); err != nil {
			return err
		}
		first = true
		op, err = r.cfg.Operations.Create(tx, op)
		return err
	})
	if err != nil {
		r.leave(lanes)
		return operation.Operation{}, false, err
	}
	if first {
		r.begin(op, lanes, false)
	}
	return op, first, nil
}

// fingerprint tells a request from another under the same request id.
func fingerprint(q Request, payload []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\x00%q\x00", q.Kind, q.IDs)
	if q.Fingerprint != "" {
		payload = []byte(q.Fingerprint)
	}
	h.Write(payload)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// enter asks every phone, and takes a place for the parts of those that accept. The results hold the refusals; if there is nothing else,
// the first is the error.
func (r *Runner) enter(q Request) (results []operation.Result, lanes []string, err error) {
	results = make([]operation.Result, len(q.IDs))
	var firstRefusal error
	now := time.Now()
	for i, id := range q.IDs {
		results[i].PhoneID = id
		_, err := r.running(id)
		if err == nil {
			err = r.take(id)
		}
		if err == nil {
			lanes = append(lanes, id)
			continue
		}
		if firstRefusal == nil {
			firstRefusal = err
		}
		results[i].State, results[i].Failure = operation.Failed, Failure(q.Kind, err, now)
	}
	if len(lanes) == 0 {
		return nil, nil, firstRefusal
	}
	return results, lanes, nil
}

// take takes a place among a phone's parts.
func (r *Runner) take(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fault.New(errdefs.ErrUnavailable, fault.ShuttingDown, "the agent is shutting down")
	}
	l := r.lanes[id]
	if l == nil {
		l = &lane{turns: make(chan struct{}, PerPhone)}
		r.lanes[id] = l
	}
	if l.parts >= MaxWaiting {
		return fault.New(errdefs.ErrResourceExhausted, TooMany, "phone %s has %d commands and installations under way already", id, l.parts)
	}
	l.parts++
	return nil
}

// leave gives places back.
func (r *Runner) leave(ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if l := r.lanes[id]; l.parts > 1 {
			l.parts--
		} else {
			delete(r.lanes, id)
		}
	}
}

// begin starts the parts of an operation that has been stored. again is whether an earlier agent had begun them.
func (r *Runner) begin(op operation.Operation, ids []string, again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return // the next agent takes them up
	}
	for _, id := range ids {
		l := r.lanes[id]
		r.wg.Go(func() { r.part(op, id, l, again) })
	}
}

// Failure puts an error into the words of an operation's result.
func Failure(kind operation.Kind, err error, at time.Time) *operation.Failure {
	return &operation.Failure{Kind: kind, Code: int32(fault.Code(err)), Reason: fault.Reason(err), Message: fault.Readable(fault.Words(err)), Time: at}
}

// parts returns the phones of an operation's parts that have not ended.
func parts(op operation.Operation) []string {
	var ids []string
	for _, result := range op.Results {
		if result.State == operation.Running {
			ids = append(ids, result.PhoneID)
		}
	}
	return slices.Clip(ids)
}
