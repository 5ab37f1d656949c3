package phone

import (
	"context"
	"slices"
	"time"

	"github.com/phonehost/phonehost/agent/event"
)

// collectLoop removes what no phone owns, and forgets old operations, at start and then every hour.
func (s *Supervisor) collectLoop() {
	for {
		s.collect(s.ctx)
		if n, err := s.cfg.Operations.Expire(); err != nil {
			s.cfg.Logger.Warn("old operations not forgotten", "error", err)
		} else if n > 0 {
			s.cfg.Logger.Debug("old operations forgotten", "count", n)
		}
		timer := time.NewTimer(s.timing.Collect)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// collect finds what is named after a phone that has no record, and removes it. What a phone owned when the search began is left
// for the next time: it may have been deleted meanwhile, with all that the search found.
func (s *Supervisor) collect(ctx context.Context) {
	owned := map[string]bool{}
	for _, snap := range s.List() {
		owned[snap.Record.Spec.ID] = true
	}
	inRuntime, err := s.cfg.Runtime.IDs(ctx)
	if err != nil {
		s.cfg.Logger.Warn("orphans of the runtime not looked for", "error", err)
	}
	networks, err := s.cfg.Networks.List()
	if err != nil {
		s.cfg.Logger.Warn("orphans of the network not looked for", "error", err)
	}
	ids := slices.Concat(inRuntime, networks)
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		if ctx.Err() != nil {
			return
		}
		if owned[id] {
			continue
		}
		if done := s.claim(id); done != nil {
			s.removeOrphan(ctx, id, slices.Contains(inRuntime, id), slices.Contains(networks, id))
			done()
		}
	}
}

// claim marks an id that no phone has as being collected, and returns the function that lets go of it; nil if a phone has it, or
// had it when the agent started and its record cannot be read.
func (s *Supervisor) claim(id string) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phones[id] != nil || s.broken[id] != nil || s.collecting[id] != nil {
		return nil
	}
	return s.claimLocked(id)
}

// claimLocked marks an id. s.mu is held.
func (s *Supervisor) claimLocked(id string) (done func()) {
	free := make(chan struct{})
	s.collecting[id] = free
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.collecting, id)
		close(free)
	}
}

// reserve waits until nothing of an id is being collected, and keeps the collection away from it until release is called.
func (s *Supervisor) reserve(ctx context.Context, id string) (release func(), err error) {
	for {
		s.mu.Lock()
		free := s.collecting[id]
		if free == nil {
			release = s.claimLocked(id)
			s.mu.Unlock()
			return release, nil
		}
		s.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// removeOrphan removes the remains of a phone that has no record.
func (s *Supervisor) removeOrphan(ctx context.Context, id string, inRuntime, network bool) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.StepTimeout)
	defer cancel()
	remove := func(object string, err error) {
		if err != nil {
			s.cfg.Logger.Warn("orphan not removed", "phone_id", id, "object", object, "error", err)
			return
		}
		s.cfg.Logger.Info("orphan removed", "phone_id", id, "object", object)
		s.cfg.Journal.Emit(event.Event{
			Kind: event.OrphanRemoved, PhoneID: id, Message: "remains of a phone that does not exist were removed",
			Attributes: map[string]string{"object": object},
		})
	}
	if inRuntime {
		s.cfg.Displays.Close(id)
		remove("containers and files", s.cfg.Runtime.Destroy(ctx, id))
	}
	if network {
		remove("network", s.cfg.Networks.Remove(ctx, id))
	}
}
