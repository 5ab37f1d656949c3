package netpolicy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/netpolicy/resolver"
)

// loaded is a policy that the kernel has. The kernel's object carries digests of its name and of what it says, by which another Engine
// knows it again: slots stay with their policies, and what has not changed is not loaded again.
type loaded struct {
	slot       uint32
	generation uint64
	says       uint64
	policy     policy.Policy
	known      bool // SetPolicy has said what it is; false for one that only the kernel has so far
}

// digest is the first 8 bytes of SHA-256.
func digest(text string) uint64 {
	sum := sha256.Sum256([]byte(text))
	return binary.LittleEndian.Uint64(sum[:])
}

// unnamed is how a policy is called that the kernel has and no SetPolicy has named yet.
func unnamed(name uint64) string { return fmt.Sprintf("\x00%016x", name) }

// readPolicies learns which policies the kernel has.
func (e *Engine) readPolicies() error {
	objects, err := e.data.LoadedPolicies()
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for slot, o := range objects {
		e.policies[unnamed(o.Name)] = loaded{slot: slot, generation: o.Generation, says: o.Says}
	}
	return nil
}

// SetPolicy puts a policy in force under a name, for all its phones at once: no packet is judged by a part of it. Established flows
// are judged by it with their next packet. errdefs.ErrInvalidArgument for a policy that cannot be; errdefs.ErrFailedPrecondition for another policy under
// DefaultPolicy; errdefs.ErrResourceExhausted when there are too many policies.
func (e *Engine) SetPolicy(ctx context.Context, name string, p policy.Policy) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if name == DefaultPolicy && (p.Default != policy.AllowInternet || len(p.Rules) > 0) {
		return fmt.Errorf("policy %s is what phones have that were given none, and cannot be changed; choose another name: %w", name, errdefs.ErrFailedPrecondition)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now, found := e.policies[name]
	former := name
	if !found {
		former = unnamed(digest(name))
		now, found = e.policies[former]
	}
	if !found {
		slot, err := e.freeSlot()
		if err != nil {
			return err
		}
		now = loaded{slot: slot}
	}
	says := digest(string(policy.Format(p)))
	same := found && now.says == says
	now.policy, now.says, now.known = p, says, true
	if !same {
		now.generation = e.nextGeneration()
		object, err := policy.Compile(p, now.generation)
		if err != nil {
			return err
		}
		object.SetDigests(digest(name), says)
		if err := e.data.LoadPolicy(now.slot, object); err != nil {
			return fmt.Errorf("policy %s: %w", name, err)
		}
	}
	delete(e.policies, former)
	e.policies[name] = now
	return e.tellLocked()
}

// DropPolicy forgets a policy. That it is not there is no error. errdefs.ErrFailedPrecondition while a phone has it, and for DefaultPolicy.
func (e *Engine) DropPolicy(_ context.Context, name string) error {
	if name == DefaultPolicy {
		return fmt.Errorf("policy %s is what phones have that were given none, and cannot be removed: %w", name, errdefs.ErrFailedPrecondition)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, p := range e.phones {
		if p.Policy == name {
			return fmt.Errorf("policy %s is phone %s's: %w", name, id, errdefs.ErrFailedPrecondition)
		}
	}
	p, found := e.policies[name]
	if !found {
		return nil
	}
	if err := e.data.UnloadPolicy(p.slot); err != nil {
		return fmt.Errorf("policy %s: %w", name, err)
	}
	delete(e.policies, name)
	return e.tellLocked()
}

// freeSlot returns the lowest slot that no policy has. mu is held.
func (e *Engine) freeSlot() (uint32, error) {
	taken := map[uint32]bool{}
	for _, p := range e.policies {
		taken[p.slot] = true
	}
	for slot := range uint32(maxPolicies) {
		if !taken[slot] {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("there are %d policies, and no room for another: %w", maxPolicies, errdefs.ErrResourceExhausted)
}

// nextGeneration returns a number that no object of this boot of the host has had. mu is held.
func (e *Engine) nextGeneration() uint64 {
	next := uint64(time.Now().UnixNano())
	for _, p := range e.policies {
		next = max(next, p.generation+1)
	}
	return next
}

// tell writes what the name server has to know.
func (e *Engine) tell() error {
	return resolver.WriteState(e.cfg.NameServerState, e.state())
}
