package netpolicy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/policy"
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

// digests is the cell of an object whose last words the kernel does not read: word 1 has the digest of the policy's name, word 2 that of what
// it says.
const digests = 1

// maxPolicies is how many policies the kernel has room for, MAX_POLICIES of layout.h.
const maxPolicies = 1024

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
		name, says := o.Header[digests][1], o.Header[digests][2]
		e.policies[unnamed(name)] = loaded{slot: slot, generation: o.Generation, says: says}
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
	e.changing.Lock()
	defer e.changing.Unlock()
	if err := e.put(name, p); err != nil {
		return err
	}
	return e.tell()
}

// put brings the kernel's object of a policy in line with what it says and what is protected. changing is held.
func (e *Engine) put(name string, p policy.Policy) error {
	now, former, err := e.find(name)
	if err != nil {
		return err
	}
	says := e.says(p)
	if now.says != says || now.generation == 0 {
		now.generation = e.nextGeneration()
		object, err := policy.Compile(p, now.generation)
		if err != nil {
			return err
		}
		object.Cells[digests][1], object.Cells[digests][2] = digest(name), says
		if err := e.data.LoadPolicy(now.slot, object); err != nil {
			return fmt.Errorf("policy %s: %w", name, err)
		}
	}
	now.policy, now.says, now.known = p, says, true
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.policies, former)
	e.policies[name] = now
	return nil
}

// says is the digest of all that flows under a policy depend on: its text, and what is protected.
func (e *Engine) says(p policy.Policy) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return digest(fmt.Sprintf("%s%v", policy.Format(p), e.classes))
}

// find returns a policy and what it is called so far, or a new one with a slot. changing is held.
func (e *Engine) find(name string) (p loaded, called string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, called := range []string{name, unnamed(digest(name))} {
		if p, found := e.policies[called]; found {
			return p, called, nil
		}
	}
	slot, err := e.freeSlot()
	return loaded{slot: slot}, name, err
}

// DropPolicy forgets a policy. That it is not there is no error. errdefs.ErrFailedPrecondition while a phone has it, and for DefaultPolicy.
func (e *Engine) DropPolicy(_ context.Context, name string) error {
	if name == DefaultPolicy {
		return fmt.Errorf("policy %s is what phones have that were given none, and cannot be removed: %w", name, errdefs.ErrFailedPrecondition)
	}
	e.changing.Lock()
	defer e.changing.Unlock()
	p, user := e.use(name)
	if user != "" {
		return fmt.Errorf("policy %s is phone %s's: %w", name, user, errdefs.ErrFailedPrecondition)
	}
	if p.generation == 0 {
		return nil
	}
	if err := e.data.UnloadPolicy(p.slot); err != nil {
		return fmt.Errorf("policy %s: %w", name, err)
	}
	e.mu.Lock()
	delete(e.policies, name)
	e.mu.Unlock()
	return e.tell()
}

// forgetUnnamed takes policies out of the kernel that no SetPolicy has named and that no phone has: those that went from the store while there
// was no Engine, or that their last phone kept until now.
func (e *Engine) forgetUnnamed() error {
	if len(e.unnamed()) == 0 {
		return nil
	}
	e.changing.Lock() // from here on none of them gets a name
	defer e.changing.Unlock()
	phones, err := e.data.Phones()
	if err != nil {
		return err
	}
	used := map[uint32]bool{}
	for _, p := range phones {
		used[p.Policy] = true
	}
	for called, slot := range e.unnamed() {
		if used[slot] {
			continue
		}
		if err := e.data.UnloadPolicy(slot); err != nil {
			return err
		}
		e.mu.Lock()
		delete(e.policies, called)
		e.mu.Unlock()
	}
	return nil
}

// unnamed returns the slots of policies that only the kernel knows.
func (e *Engine) unnamed() map[string]uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	slots := map[string]uint32{}
	for called, p := range e.policies {
		if !p.known {
			slots[called] = p.slot
		}
	}
	return slots
}

// use returns a policy, the zero value if there is none, and a phone that has it.
func (e *Engine) use(name string) (p loaded, user string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, phone := range e.phones {
		if phone.Policy == name {
			user = id
		}
	}
	for id, phone := range e.expected {
		if phone.Policy == name {
			user = id
		}
	}
	return e.policies[name], user
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

// nextGeneration returns a number that no object of this boot of the host has had.
func (e *Engine) nextGeneration() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	next := uint64(time.Now().UnixNano())
	for _, p := range e.policies {
		next = max(next, p.generation+1)
	}
	return next
}
