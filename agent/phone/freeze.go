package phone

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/store"
)

// FreezeReason says why a phone is frozen. The numbers are stored and are those of the API.
type FreezeReason int

// Reasons of a freeze.
const (
	// FrozenExpired means that the lease is over.
	FrozenExpired FreezeReason = 1
	// FrozenOverdue means that a bill is overdue.
	FrozenOverdue FreezeReason = 2
	// FrozenViolation means that the user broke the owner's rules.
	FrozenViolation FreezeReason = 3
	// FrozenPolice means that an authority asked for it.
	FrozenPolice FreezeReason = 4
	// FrozenAdmin means that an operator asked for it.
	FrozenAdmin FreezeReason = 5
)

// freezeNames are the API's words.
var freezeNames = [...]string{
	FrozenExpired: "EXPIRED", FrozenOverdue: "OVERDUE", FrozenViolation: "VIOLATION", FrozenPolice: "POLICE", FrozenAdmin: "ADMIN",
}

// Valid reports whether the reason is one of the table.
func (f FreezeReason) Valid() bool { return f >= FrozenExpired && f <= FrozenAdmin }

// String returns the reason in the API's words.
func (f FreezeReason) String() string {
	if !f.Valid() {
		return fmt.Sprintf("FREEZE_REASON_%d", int(f))
	}
	return freezeNames[f]
}

// Freeze is one of the reasons for which a phone is frozen.
type Freeze struct {
	// Reason is why; a record has each at most once.
	Reason FreezeReason `json:"reason"`
	// Since is when the reason was added.
	Since time.Time `json:"since"`
	// RequestedBy is the identity that asked, or "lease".
	RequestedBy string `json:"requested_by"`
}

// byLease is who asks for a freeze when a lease is over.
const byLease = "lease"

// frozenFor reports whether the phone is frozen for a reason.
func (r *Record) frozenFor(reason FreezeReason) bool {
	return slices.ContainsFunc(r.Freezes, func(f Freeze) bool { return f.Reason == reason })
}

// frozen reports whether the phone must not run.
func (r *Record) frozen() bool { return len(r.Freezes) > 0 }

// freezeWords names the reasons, "POLICE, ADMIN".
func (r *Record) freezeWords() string { return reasonWords(r.freezeReasons(), ", ") }

// freezeReasons returns the reasons in the order of their numbers.
func (r *Record) freezeReasons() []FreezeReason {
	reasons := make([]FreezeReason, 0, len(r.Freezes))
	for _, f := range r.Freezes {
		reasons = append(reasons, f.Reason)
	}
	return reasons
}

func reasonWords(reasons []FreezeReason, separator string) string {
	words := make([]string, 0, len(reasons))
	for _, reason := range reasons {
		words = append(words, reason.String())
	}
	return strings.Join(words, separator)
}

// freeze adds a reason and drops the wish for a guest. A reason that is there stays as it was.
func (r *Record) freeze(f Freeze, stop Stop) {
	if !r.frozenFor(f.Reason) {
		r.Freezes = append(slices.Clone(r.Freezes), f)
		slices.SortFunc(r.Freezes, func(a, b Freeze) int { return int(a.Reason - b.Reason) })
	}
	if r.On {
		r.turnOff(false, "")
		r.Stop = stop
		return
	}
	// A guest that is shutting down already gets no longer than it had.
	if stop.deadline().Before(r.Stop.deadline()) {
		r.Stop = stop
	}
}

// unfreeze removes reasons, all if none is named, and returns those that it removed.
func (r *Record) unfreeze(reasons []FreezeReason) []FreezeReason {
	var removed []FreezeReason
	kept := make([]Freeze, 0, len(r.Freezes))
	for _, f := range r.Freezes {
		if len(reasons) == 0 || slices.Contains(reasons, f.Reason) {
			removed = append(removed, f.Reason)
		} else {
			kept = append(kept, f)
		}
	}
	r.Freezes = kept
	if len(kept) == 0 {
		r.Freezes = nil
	}
	return removed
}

// noteFrozen appends the event of a freeze.
func (s *Supervisor) noteFrozen(tx *store.Tx, id, operationID string, f Freeze) error {
	return s.cfg.Journal.Append(tx, event.Event{
		Kind: event.PhoneFrozen, PhoneID: id, OperationID: operationID, Message: fmt.Sprintf("%s is frozen: %s", id, f.Reason),
		Attributes: map[string]string{"reason": f.Reason.String(), "requested_by": f.RequestedBy},
	})
}

// noteUnfrozen appends the event of reasons that were removed; none is no event.
func (s *Supervisor) noteUnfrozen(tx *store.Tx, r *Record, operationID string, removed []FreezeReason) error {
	if len(removed) == 0 {
		return nil
	}
	id := r.Spec.ID
	message := fmt.Sprintf("%s is no longer frozen for %s", id, reasonWords(removed, ", "))
	if r.frozen() {
		message += ", but still for " + r.freezeWords()
	}
	return s.cfg.Journal.Append(tx, event.Event{
		Kind: event.PhoneUnfrozen, PhoneID: id, OperationID: operationID, Message: message,
		Attributes: map[string]string{"reasons": reasonWords(removed, ","), "frozen": fmt.Sprint(r.frozen())},
	})
}
