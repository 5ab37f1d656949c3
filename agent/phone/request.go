package phone

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
)

// Limits of a request.
const (
	// MaxPhones is how many phones one request may name.
	MaxPhones = 100
	// MaxGrace is the longest time that a guest may be given to shut down.
	MaxGrace = 10 * time.Minute
)

// Request asks for a change of what phones should be doing.
type Request struct {
	// Kind is what is asked for: any but Clone, which is part of a creation, and ImportData, which comes with an archive.
	Kind operation.Kind `json:"kind"`
	// IDs names the phones, 1..MaxPhones, none twice.
	IDs []string `json:"ids"`
	// Grace is how long the guest may take to shut down before it is killed, 0..MaxGrace; nil means the default. PowerOff, Restart
	// and Freeze only.
	Grace *time.Duration `json:"grace,omitempty"`
	// Force kills at once, and lets PowerOff, Freeze and Delete supersede more of what is in their way.
	Force bool `json:"force,omitempty"`
	// Image is the reference of an image whose present content the phone is to have; empty means that it keeps its own. Restart and
	// Reset only.
	Image string `json:"image,omitempty"`
	// Freeze is the reason that Freeze adds.
	Freeze FreezeReason `json:"freeze,omitempty"`
	// Unfreeze holds the reasons that Unfreeze removes; none means all.
	Unfreeze []FreezeReason `json:"unfreeze,omitempty"`
	// Patch is what Update changes; required there.
	Patch *Patch `json:"patch,omitempty"`
	// RequestID is the caller's own name for the request; a retry with it returns the first call's operation.
	RequestID string `json:"-"`
	// RequestedBy is the identity that asks.
	RequestedBy string `json:"-"`
}

// check refuses requests that are wrong whatever the phones are doing.
func (q *Request) check() error {
	if err := operation.CheckIDs(q.IDs, MaxPhones); err != nil {
		return err
	}
	if err := operation.CheckRequestID(q.RequestID); err != nil {
		return err
	}
	if q.Grace != nil && (*q.Grace < 0 || *q.Grace > MaxGrace) {
		return fault.Field("grace", "%s must be 0..%s", *q.Grace, MaxGrace)
	}
	return q.checkKind()
}

// checkKind checks what only one kind of request has.
func (q *Request) checkKind() error {
	if len(q.Image) > maxImage {
		return fault.Field("image", "must name an image of this host, in 1..%d characters", maxImage)
	}
	switch q.Kind {
	case operation.Freeze:
		return checkReason("reason", q.Freeze)
	case operation.Unfreeze:
		for _, reason := range q.Unfreeze {
			if err := checkReason("reasons", reason); err != nil {
				return err
			}
		}
	case operation.Update:
		return q.Patch.check()
	}
	return nil
}

func checkReason(field string, reason FreezeReason) error {
	if !reason.Valid() {
		return fault.Field(field, "%d must be one of %d..%d: EXPIRED, OVERDUE, VIOLATION, POLICE, ADMIN", reason, FrozenExpired, FrozenAdmin)
	}
	return nil
}

// fingerprint tells a retry from another request. Fields that are added must leave it as it was where they are not set: the operations
// of an earlier release hold its fingerprints.
func (q *Request) fingerprint() string {
	data, err := json.Marshal(q)
	if err != nil {
		panic(fmt.Sprintf("encode request: %v", err)) // strings, numbers and booleans always encode
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// stop is how the request wants a guest to be ended.
func (q *Request) stop(now time.Time, t Timing) Stop {
	stop := Stop{At: now, Grace: t.Grace}
	if q.Grace != nil {
		stop.Grace = *q.Grace
	}
	if q.Force {
		stop.Grace = 0
	}
	return stop
}

// applied is what a request did to a record, beside what the record says.
type applied struct {
	// frozen is the reason that was added, unfrozen those that were removed, fields those of the spec that were changed.
	frozen   *Freeze
	unfrozen []FreezeReason
	fields   []string
}

// apply changes desired state. The request has been admitted, so everything about it is right.
func (s *Supervisor) apply(q *Request, r *Record, now time.Time, img Image) applied {
	wall := s.wall()
	switch q.Kind {
	case operation.PowerOn:
		r.On, r.OffAsked, r.OffReason, r.Hold = true, false, "", nil
		r.forgetCrashes()
		r.boot(now)
	case operation.PowerOff:
		r.turnOff(true, "")
		r.Stop = q.stop(now, s.timing)
	case operation.Restart:
		r.Hold, r.Stop = nil, q.stop(now, s.timing)
		r.forgetCrashes()
		r.take(img)
		r.boot(now)
	case operation.Reset:
		r.reset(now, img)
	case operation.Delete:
		r.Deleting, r.Stop = true, Stop{At: now}
	case operation.Freeze:
		f := Freeze{Reason: q.Freeze, Since: wall, RequestedBy: q.RequestedBy}
		added := !r.frozenFor(f.Reason)
		r.freeze(f, q.stop(now, s.timing))
		if added {
			return applied{frozen: &f}
		}
	case operation.Unfreeze:
		return applied{unfrozen: r.unfreeze(q.Unfreeze)}
	case operation.Update:
		return r.update(q.Patch, s.cfg.Host, wall)
	}
	return applied{}
}

// reset asks for the next generation of root file system and data.
func (r *Record) reset(now time.Time, img Image) {
	r.DataGeneration = r.nextGeneration()
	r.take(img)
	r.DataAndroid, r.GrowFrom = "", 0
	r.forgetCrashes()
	r.Stop = Stop{At: now} // its data goes anyway: there is nothing to shut down for
	if r.wantsGuest() {
		r.boot(now)
	} else if r.Hold != nil {
		r.turnOff(false, "")
	}
}
