package phone

import (
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
)

// Lease says until when a phone may be used. It is judged by the host's wall clock, whether or not a control plane can be reached.
type Lease struct {
	// ExpiresAt is when the phone is powered off and frozen as FrozenExpired; zero means never.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// RetainUntil is how long the owner promises to keep the data; it is only reported.
	RetainUntil time.Time `json:"retain_until,omitzero"`
}

// Over reports whether the lease has ended.
func (l Lease) Over(now time.Time) bool { return !l.ExpiresAt.IsZero() && !now.Before(l.ExpiresAt) }

// equal compares moments, not their forms.
func (l Lease) equal(o Lease) bool {
	return l.ExpiresAt.Equal(o.ExpiresAt) && l.RetainUntil.Equal(o.RetainUntil)
}

// checkAhead refuses an end that is not ahead.
func (l Lease) checkAhead(now time.Time) error {
	if l.Over(now) {
		return fault.Field("spec.lease.expires_at", "%s is not ahead: it is %s now", l.ExpiresAt.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkLease refuses what needs a lease that is not over.
func (r *Record) checkLease(now time.Time) error {
	if !r.Spec.Lease.Over(now) {
		return nil
	}
	return fault.New(errdefs.ErrFailedPrecondition, fault.LeaseExpired, "the lease of phone %s ended at %s: renew it",
		r.Spec.ID, r.Spec.Lease.ExpiresAt.UTC().Format(time.RFC3339))
}

// expiryWords say, for a phone that is frozen for the end of its lease, when that was.
func (r *Record) expiryWords() string {
	if !r.frozenFor(FrozenExpired) || r.Spec.Lease.ExpiresAt.IsZero() {
		return ""
	}
	return " (its lease ended at " + r.Spec.Lease.ExpiresAt.UTC().Format(time.RFC3339) + ")"
}

// checkUnfreeze refuses to take FrozenExpired away while the lease is over. No reason named means all.
func (r *Record) checkUnfreeze(reasons []FreezeReason, now time.Time) error {
	if r.frozenFor(FrozenExpired) && (len(reasons) == 0 || slices.Contains(reasons, FrozenExpired)) {
		return r.checkLease(now)
	}
	return nil
}

// mustExpire reports whether the lease is over and the phone has not been frozen for it.
func (r *Record) mustExpire(now time.Time) bool {
	return r.Spec.Lease.Over(now) && !r.frozenFor(FrozenExpired) && !r.Deleting
}

// judgeAgain returns when the lease should be looked at again, in the terms of now: zero for never. Clocks drift, so a moment far away
// is approached in steps.
func (r *Record) judgeAgain(now, wall time.Time, t Timing) time.Time {
	if r.Spec.Lease.ExpiresAt.IsZero() || r.frozenFor(FrozenExpired) || r.Deleting {
		return time.Time{}
	}
	return now.Add(min(max(r.Spec.Lease.ExpiresAt.Sub(wall), 0), t.Rejudge))
}

// expire freezes a phone whose lease is over. An operation that was to leave it running fails; any other goes on.
func (c *controller) expire() error {
	wall := c.s.wall()
	return c.s.change(c.id, func(tx *store.Tx, r *Record) error {
		if !r.mustExpire(wall) {
			return nil // renewed meanwhile
		}
		if r.Task != nil && (r.Task.Kind == operation.PowerOn || r.Task.Kind == operation.Restart) {
			text := fmt.Sprintf("the lease of %s ended at %s", c.id, r.Spec.Lease.ExpiresAt.UTC().Format(time.RFC3339))
			r.fail(failure(codes.FailedPrecondition, fault.LeaseExpired, text, wall))
		}
		f := Freeze{Reason: FrozenExpired, Since: wall, RequestedBy: byLease}
		r.freeze(f, Stop{At: time.Now(), Grace: c.s.timing.Grace})
		return c.s.noteFrozen(tx, c.id, r.operationID(), f)
	})
}

// wall returns the time by the host's wall clock.
func (s *Supervisor) wall() time.Time { return s.cfg.Now().Round(0) }

// judgeLeases has every controller look at its phone's lease again, because the wall clock was set.
func (s *Supervisor) judgeLeases() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.phones {
		if !c.rec.Spec.Lease.ExpiresAt.IsZero() {
			c.poke()
		}
	}
}
