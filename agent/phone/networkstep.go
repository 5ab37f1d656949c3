package phone

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy"
)

// link is what a controller knows of its phone's network in the kernel. Losing it with the agent costs one call for each phone that runs:
// the next agent makes every network what the record says.
type link struct {
	// turn has room for whoever calls Networks for the phone: a change that takes effect at once does not wait for the loop.
	turn chan struct{}

	// Guarded by Supervisor.mu:

	// made is whether this agent has called Networks for it, and set what it was last made; nil after an error.
	made bool
	set  *netpolicy.Phone
	// problem is why the last call failed, and fails how many did in a row; retryAt is when the loop tries again.
	problem string
	fails   int
	retryAt time.Time
}

// ensureNetwork makes the phone's network what the record says now. One that is so already is left alone, unless again is set.
func (c *controller) ensureNetwork(ctx context.Context, again bool) error {
	select {
	case c.link.turn <- struct{}{}:
		defer func() { <-c.link.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	want, due := c.s.wantedNetwork(c, again)
	if !due {
		return nil
	}
	err := c.s.cfg.Networks.Ensure(ctx, want)
	c.s.networkMade(c, want, err)
	return err
}

// wantedNetwork returns what a phone's network should be, and whether that has to be brought about.
func (s *Supervisor) wantedNetwork(c *controller, again bool) (want netpolicy.Phone, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	want = c.rec.network()
	if s.phones[c.id] != c || c.rec.Deleting {
		return want, false
	}
	return want, again || c.link.set == nil || !sameNetwork(*c.link.set, want)
}

// networkMade keeps how a call of Networks went.
func (s *Supervisor) networkMade(c *controller, want netpolicy.Phone, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &c.link
	switch {
	case err == nil:
		l.made, l.set, l.problem, l.fails, l.retryAt = true, &want, "", 0, time.Time{}
	case errors.Is(err, context.Canceled): // by a request that goes before; nobody's fault
		l.made, l.set, l.retryAt = true, nil, time.Time{}
	default:
		problem, level := fault.Readable(fault.Words(err)), slog.LevelWarn
		if problem == l.problem {
			level = slog.LevelDebug // it goes on
		}
		l.made, l.set, l.problem, l.fails = true, nil, problem, l.fails+1
		l.retryAt = time.Now().Add(backoff(s.timing.Retry, l.fails))
		c.logger.Log(context.Background(), level, "network not made what it should be; it is tried again", "attempt", l.fails, "error", err)
	}
	s.publishLocked(c)
}

// networkDue returns when the loop has to look after the phone's network, or zero. A phone that is off gets its own at its start, but one
// that this agent has made is kept as the record says, so that nothing holds a policy that nobody has any more.
func (s *Supervisor) networkDue(c *controller, saw sight) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	byStart := !saw.guestUp() && (!c.link.made || c.rec.wantsGuest())
	if !s.cfg.Pools.Enabled() || byStart || c.link.set != nil && sameNetwork(*c.link.set, c.rec.network()) {
		return time.Time{}
	}
	if c.link.retryAt.IsZero() {
		return s.began // at once
	}
	return c.link.retryAt
}

// look returns what readers see of the phone; the revision is the supervisor's to set. Supervisor.mu is held, or c is not shared yet.
func (c *controller) look() Snapshot {
	snap := snapshot(&c.rec, c.sight, time.Now(), c.s.timing)
	snap.NetworkInForce = c.link.set != nil && sameNetwork(*c.link.set, c.rec.network())
	snap.NetworkProblem = c.link.problem
	return snap
}

// Networks returns what the network of every phone should be.
func (s *Supervisor) Networks() []netpolicy.Phone {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []netpolicy.Phone
	for _, c := range s.phones {
		if !c.rec.Deleting {
			all = append(all, c.rec.network())
		}
	}
	return all
}

// removeNetwork removes all of the phone's network.
func (c *controller) removeNetwork(ctx context.Context) error {
	select {
	case c.link.turn <- struct{}{}:
		defer func() { <-c.link.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.s.cfg.Networks.Remove(ctx, c.id)
}

// settleNetworks brings the records of earlier agents in line with this one's configuration, before anything is made of them.
func (s *Supervisor) settleNetworks() error {
	return s.cfg.DB.Update(func(tx *store.Tx) error {
		var all []Record
		for e := range records.All(tx) {
			if e.Err == nil && !e.Value.Deleting {
				all = append(all, e.Value)
			}
		}
		for _, r := range all {
			id := r.Spec.ID
			defaulted := r.Spec.Network.withDefaults()
			changed := !defaulted.equal(r.Spec.Network)
			r.Spec.Network = defaulted
			moved, err := s.settleAddresses(tx, &r)
			if err != nil {
				s.cfg.Logger.Error("phone has no address; its network cannot be made", "phone_id", id, "error", err)
			}
			if !changed && !moved {
				continue
			}
			if moved {
				s.cfg.Logger.Info("phone has other addresses", "phone_id", id, "ipv4", r.IPv4, "ipv6", r.IPv6)
			}
			if err := records.Put(tx, []byte(id), r); err != nil {
				return err
			}
		}
		return nil
	})
}
