package phone

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/data"
	"github.com/phonehost/phonehost/agent/fault"
)

// TrimData gives the blocks that a phone's data volume does not use back to the host's disk, and returns how many bytes were found to
// give. A phone that is off is held meanwhile, as by Lend; a guest that ends, ends the trim.
//
// Errors: ErrNotFound, with reason NO_DATA for a phone that has no volume yet; faults of class ErrFailedPrecondition with reason BUSY;
// of ErrUnavailable with reason CONTAINERD_LOST; of ErrAborted with reason SUPERSEDED or GUEST_ENDED.
func (s *Supervisor) TrimData(ctx context.Context, id string) (bytes uint64, err error) {
	lent, snap, release, err := s.Lend(ctx, id, "its data is being trimmed")
	if err == nil {
		defer release()
		return s.trim(lent, snap)
	}
	if fault.Reason(err) != fault.NotOff {
		return 0, err
	}
	if snap, err = s.Get(id); err != nil {
		return 0, err
	}
	if snap.Status != Running {
		return 0, fault.New(errdefs.ErrFailedPrecondition, fault.Busy, "phone %s is %s", id, snap.Status)
	}
	return s.trimRunning(ctx, snap)
}

// trimRunning trims the volume that a guest has.
func (s *Supervisor) trimRunning(ctx context.Context, snap Snapshot) (uint64, error) {
	ctx, end := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { s.endWithGuest(ctx, snap, end) })
	defer watching.Wait()
	defer end(nil)
	return s.trim(ctx, snap)
}

// endWithGuest waits until the guest of a phone ends, and then calls end; it returns when ctx ends.
func (s *Supervisor) endWithGuest(ctx context.Context, snap Snapshot, end context.CancelCauseFunc) {
	id := snap.Record.Spec.ID
	w := s.Watch([]string{id})
	defer w.Close()
	for {
		changes, err := w.Next(ctx)
		if err != nil {
			return
		}
		for _, c := range changes {
			if c.Deleted || c.Snapshot.Status != Running && c.Snapshot.Status != Unknown {
				end(fault.New(errdefs.ErrAborted, fault.GuestEnded, "the guest of %s ended meanwhile", id))
				return
			}
		}
	}
}

// trim makes the call.
func (s *Supervisor) trim(ctx context.Context, snap Snapshot) (uint64, error) {
	bytes, err := s.cfg.Volumes.TrimData(ctx, snap.Next())
	id := snap.Record.Spec.ID
	switch {
	case err == nil:
		return bytes, nil
	case ctx.Err() != nil:
		return bytes, context.Cause(ctx)
	case errdefs.IsNotFound(err):
		return 0, fault.New(errdefs.ErrNotFound, data.NoData, "phone %s has no data volume yet: it was not started since it was created", id)
	case errdefs.IsFailedPrecondition(err):
		return 0, fault.New(errdefs.ErrFailedPrecondition, fault.Busy, "phone %s is busy: %s", id, fault.Words(err))
	}
	return bytes, fmt.Errorf("trim the data of %s: %w", id, err)
}
