package phone

import (
	"errors"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/profile"
)

// binders decides whether one more phone can have binder devices, while a request is admitted. Phones that are on count, and those
// whose guest's container is there yet: so of many phones that are switched on at once only those are accepted that can start.
type binders struct {
	support binder.Support
	// taken holds the phones that have devices of the pool, or will; nil until it is asked for.
	taken map[string]bool
	// count returns them.
	count func() (map[string]bool, error)
}

// take lets a phone have devices, or returns a fault of reason NO_BINDER.
func (b *binders) take(id string, need profile.Binder) error {
	switch {
	case need == profile.BinderNone:
		return nil
	case b.support.Kind == binder.None && need == profile.BinderRequired:
		return noBinder(id, binder.Missing())
	case b.support.Kind != binder.Pool:
		return nil
	}
	if b.taken == nil {
		var err error
		if b.taken, err = b.count(); err != nil {
			return err
		}
	}
	if size := len(b.support.Triples); !b.taken[id] && len(b.taken) >= size {
		return noBinder(id, binder.Exhausted(size))
	}
	b.taken[id] = true
	return nil
}

func noBinder(id string, why *binder.Refusal) error {
	return fault.New(errors.Unwrap(why), fault.NoBinder, "phone %s cannot be started: %v", id, why)
}

// binderNeed returns what a profile needs; one that is not known needs nothing, and fails elsewhere.
func binderNeed(name string) profile.Binder {
	p, err := profile.Get(name)
	if err != nil {
		return profile.BinderNone
	}
	return p.Binder
}

// checkBinder reads what the kernel offers of binder. Without a Config.Binder it is never short.
func (s *Supervisor) checkBinder() (binder.Support, error) {
	if s.cfg.Binder == nil {
		return binder.Support{Kind: binder.FS}, nil
	}
	return s.cfg.Binder()
}

// Binder returns what the kernel offers of binder, and of a pool how many sets of devices a PowerOn could have now.
func (s *Supervisor) Binder() (support binder.Support, free int, err error) {
	if support, err = s.checkBinder(); err != nil || support.Kind != binder.Pool {
		return support, 0, err
	}
	err = s.cfg.DB.View(func(tx *store.Tx) error {
		users, err := s.binderUsers(tx)
		free = max(0, len(support.Triples)-len(users))
		return err
	})
	return support, free, err
}

// binderUsers returns the phones that have binder devices of the pool, or will because they are on.
func (s *Supervisor) binderUsers(tx *store.Tx) (map[string]bool, error) {
	users := map[string]bool{}
	for e := range records.All(tx) {
		if e.Err != nil {
			continue // what it has is not known; the engine refuses a start that finds no devices
		}
		if binderNeed(e.Value.Spec.Profile) != profile.BinderNone && e.Value.wantsGuest() {
			users[e.Key] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.phones {
		if binderNeed(c.rec.Spec.Profile) != profile.BinderNone && c.sight.obs.Guest.Container {
			users[id] = true
		}
	}
	return users, nil
}
