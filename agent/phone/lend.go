package phone

import (
	"context"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
)

// loan is a reader's part in the data of a phone.
type loan struct {
	// what says for whom.
	what string
	// end ends the reader.
	end context.CancelCauseFunc
}

// Lend holds a phone that is off against being started, reset, imported and deleted, so that its data can be read, until release is
// called, which must be. what says for whom, in the refusals that others get ("its data is being exported"). It holds for this life of
// the agent only: a reader dies with it.
//
// Delete with force goes before it: then the context that is returned, a child of ctx, ends with a fault of reason SUPERSEDED as its
// cause, and the phone goes when the reader has let go of its data.
//
// Errors: ErrNotFound; faults of class ErrFailedPrecondition with reason NOT_OFF, or BUSY when something is under way that changes the
// data or copies it; ErrUnavailable with reason CONTAINERD_LOST.
func (s *Supervisor) Lend(ctx context.Context, id, what string) (lent context.Context, snap Snapshot, release func(), err error) {
	lent, end := context.WithCancelCause(ctx)
	token := &loan{what: what, end: end}
	release = func() {
		end(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.lent[id], token)
		if len(s.lent[id]) == 0 {
			delete(s.lent, id)
		}
	}
	// In a transaction, so that it is before or after any request.
	err = s.cfg.DB.Update(func(tx *store.Tx) error {
		if err := s.accepting(); err != nil {
			return err
		}
		r, status, err := s.meet(tx, id)
		if err != nil {
			return err
		}
		if err := refusal(operation.Clone, false, status, &r); err != nil {
			return err
		}
		if len(r.Readers) > 0 {
			return busyWith(&r, status, beingCopied)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lent[id] == nil {
			s.lent[id] = map[*loan]struct{}{}
		}
		s.lent[id][token] = struct{}{}
		return nil
	})
	if err == nil {
		snap, err = s.Get(id)
	}
	if err != nil {
		release()
		return nil, Snapshot{}, nil, err
	}
	return lent, snap, release, nil
}

// recall ends the readers of a phone's data for an operation that goes before them.
func (s *Supervisor) recall(id string, by operation.Operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for token := range s.lent[id] {
		token.end(fault.New(errdefs.ErrAborted, fault.Superseded, "phone %s: %s; it was given up for %s %s", id, token.what, by.Kind, by.ID))
	}
}

// checkLent refuses what would change data that is being read.
func (s *Supervisor) checkLent(id string, q Request) error {
	grows := q.Kind == operation.Update && q.Patch.names("data_bytes")
	switch {
	case q.Kind == operation.PowerOn, q.Kind == operation.Reset, q.Kind == operation.Delete && !q.Force, grows:
		return s.lentTo(id)
	}
	return nil
}

// lentTo refuses what cannot go on beside a reader of the phone's data.
func (s *Supervisor) lentTo(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for token := range s.lent[id] {
		return fault.New(errdefs.ErrFailedPrecondition, fault.Busy, "phone %s is busy: %s", id, token.what)
	}
	return nil
}
