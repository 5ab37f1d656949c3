package phone

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/profile"
)

// Get returns one phone, or ErrNotFound.
func (s *Supervisor) Get(id string) (Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.phones[id]; c != nil {
		return s.view(c), nil
	}
	if err := s.broken[id]; err != nil {
		return Snapshot{}, err
	}
	return Snapshot{}, noSuchPhone(id)
}

// List returns all phones in the order of their ids.
func (s *Supervisor) List() []Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Snapshot, 0, len(s.phones))
	for _, c := range s.phones {
		all = append(all, s.view(c))
	}
	slices.SortFunc(all, func(a, b Snapshot) int { return strings.Compare(a.Record.Spec.ID, b.Record.Spec.ID) })
	return all
}

// view returns what readers see of a phone: its snapshot, and its place in the queue as it is now. s.mu is held.
func (s *Supervisor) view(c *controller) Snapshot {
	snap := c.snap
	if snap.Status == Starting {
		if snap.QueuePosition = s.boots.position(c); snap.QueuePosition > 0 {
			snap.Reason = s.boots.words(snap.QueuePosition)
		}
	}
	return snap
}

// Next returns the phone of a snapshot in the engine's words, as its next start would use it.
func (s Snapshot) Next() container.Phone { return s.Record.container() }

// Next returns a phone in the words of the engine of containers as its next start uses it, with its name servers.
func (s *Supervisor) Next(snap Snapshot) container.Phone { return s.next(&snap.Record) }

// next is Next for a record.
func (s *Supervisor) next(r *Record) container.Phone {
	p := r.container()
	ipv4, ipv6 := s.cfg.Pools.Gateways()
	for _, gateway := range []netip.Addr{ipv4, ipv6} {
		if gateway.IsValid() {
			p.DNS = append(p.DNS, gateway.String())
		}
	}
	return p
}

// Profile returns the phone's profile.
func (s Snapshot) Profile() (*profile.Profile, error) { return profile.Get(s.Record.Spec.Profile) }

// CheckOn returns nil while the phone's display runs or should; else ErrNotFound, or a fault with reason NOT_RUNNING.
func (s *Supervisor) CheckOn(id string) error {
	snap, err := s.Get(id)
	if err != nil {
		return err
	}
	if snap.Status == Stopped || snap.Status == PoweredOff {
		return fault.New(errdefs.ErrFailedPrecondition, fault.NotRunning, "phone %s is %s", id, snap.Status)
	}
	return nil
}

// CountByStatus returns how many phones are in each status.
func (s *Supervisor) CountByStatus() [6]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var counts [6]int
	for _, c := range s.phones {
		counts[c.snap.Status]++
	}
	return counts
}

// ImageUsers returns how many phones name an image.
func (s *Supervisor) ImageUsers(ref string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.phones {
		if c.rec.Spec.Image == ref {
			n++
		}
	}
	return n
}

// Refresh gives a phone a new revision and tells its watchers, because something that a Snapshot does not hold has changed: its
// viewers, or what its display reports.
func (s *Supervisor) Refresh(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.phones[id]; c != nil {
		c.snap.Revision = s.nextRevision()
		s.tell(id)
	}
}

// DisplayChanged is Refresh for a display that was connected or lost, or on which a guest has begun to draw or has ceased to: the phone's
// controller looks at it too.
func (s *Supervisor) DisplayChanged(id string) {
	s.Refresh(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.phones[id]; c != nil {
		c.poke()
	}
}

// Frozen returns how many phones are frozen.
func (s *Supervisor) Frozen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.phones {
		if c.rec.frozen() {
			n++
		}
	}
	return n
}

// noSuchPhone is the error for an unknown id.
func noSuchPhone(id string) error {
	return fault.New(errdefs.ErrNotFound, fault.NoSuchPhone, "no phone %q on this host", fault.Clip(id))
}
