package phone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// NetworkChange is what is to change of phones' networks. What is nil stays.
type NetworkChange struct {
	// Policy is the name of a policy.
	Policy *string
	// Cut takes the phones off the network, or ends that.
	Cut *bool
	// UpBits and DownBits are bandwidths, as in Network.
	UpBits, DownBits *uint64
}

// networksAtOnce is how many phones' networks one call changes at the same time.
const networksAtOnce = 8

// ChangeNetworks changes the networks of up to MaxPhones phones: what is asked for is stored, then brought about in the kernel for those that
// run, and the call waits for that. The errors are those of the phones, in their order; nil where all is done.
//
// Errors of a phone: ErrNotFound; faults with reason BUSY for one that is being deleted, and NETWORK_FAILED for what is stored and could
// not be brought about yet. Errors of the call, after which nothing has changed: ErrInvalidArgument; ErrNotFound with reason NO_SUCH_POLICY;
// ErrFailedPrecondition with reason NETWORK_DISABLED.
func (s *Supervisor) ChangeNetworks(ctx context.Context, ids []string, change NetworkChange, requestedBy string) ([]error, error) {
	if err := s.CheckNetworks(); err != nil {
		return nil, err
	}
	if err := operation.CheckIDs(ids, MaxPhones); err != nil {
		return nil, err
	}
	if err := change.check(); err != nil {
		return nil, err
	}
	refused, err := s.editPhones(ids, requestedBy, func(tx *store.Tx) error {
		if change.Policy == nil {
			return nil
		}
		return s.checkPolicy(tx, *change.Policy)
	}, func(_ *store.Tx, r *Record) ([]string, error) { return change.apply(r), nil })
	if err != nil {
		return nil, err
	}
	var acting errgroup.Group
	acting.SetLimit(networksAtOnce)
	for i, id := range ids {
		if refused[i] == nil {
			acting.Go(func() error { refused[i] = s.enforce(ctx, id); return nil })
		}
	}
	return refused, acting.Wait()
}

// check refuses a change that no phone can have.
func (c NetworkChange) check() error {
	if c.UpBits != nil {
		if err := checkBits("up_bits_per_second", *c.UpBits); err != nil {
			return err
		}
	}
	if c.DownBits != nil {
		if err := checkBits("down_bits_per_second", *c.DownBits); err != nil {
			return err
		}
	}
	if c.Policy != nil {
		return CheckPolicyName("policy", *c.Policy)
	}
	return nil
}

// apply changes a record, and names the fields that it changed.
func (c NetworkChange) apply(r *Record) (fields []string) {
	set := func(name string, differs bool) {
		if differs {
			fields = append(fields, name)
		}
	}
	n := &r.Spec.Network
	if c.Policy != nil {
		set("network.policy", n.Policy != *c.Policy)
		n.Policy = *c.Policy
	}
	if c.Cut != nil {
		set("network.cut", r.NetworkCut != *c.Cut)
		r.NetworkCut = *c.Cut
	}
	if c.UpBits != nil {
		set("network.up_bits_per_second", n.UpBits != *c.UpBits)
		n.UpBits = *c.UpBits
	}
	if c.DownBits != nil {
		set("network.down_bits_per_second", n.DownBits != *c.DownBits)
		n.DownBits = *c.DownBits
	}
	return fields
}

// AddForward has a port of the host lead to a phone; the same forward again changes nothing. It stores the wish and brings it about, as
// ChangeNetworks does. Errors: those of ChangeNetworks; ErrInvalidArgument for an address that is none of the host's; ErrAlreadyExists with reason
// FORWARD_TAKEN, or PORT_TAKEN where a process of the host listens.
func (s *Supervisor) AddForward(ctx context.Context, id string, f Forward, requestedBy string) (Forward, error) {
	if err := s.CheckNetworks(); err != nil {
		return f, err
	}
	f.Protocol = orDefault(f.Protocol, policy.TCP)
	if err := f.check("forward"); err != nil {
		return f, err
	}
	if err := s.checkListen("forward.listen", f); err != nil {
		return f, err
	}
	snap, err := s.Get(id)
	if err != nil {
		return f, err
	}
	if !slices.Contains(snap.Record.Spec.Network.Forwards, f) { // its own stay its own, whoever listens there by now
		if err := s.checkFree(ctx, "forward.listen", f); err != nil {
			return f, err
		}
	}
	return f, s.editForwards(ctx, id, requestedBy, func(tx *store.Tx, r *Record) ([]Forward, error) {
		have := r.Spec.Network.Forwards
		if slices.Contains(have, f) {
			return have, nil
		}
		if len(have) >= MaxForwards {
			return nil, fault.Field("forward", "phone %s has %d forwards already", id, MaxForwards)
		}
		if err := checkForwardsFree(tx, "", f); err != nil {
			return nil, err
		}
		return append(slices.Clone(have), f), nil
	})
}

// checkFree refuses a forward at an address that is none of the host's, and on a port where one of its processes listens. field is where the request has
// the address.
func (s *Supervisor) checkFree(ctx context.Context, field string, f Forward) error {
	err := s.cfg.Networks.CheckForward(ctx, netpolicy.Forward{Listen: f.Listen, Protocol: f.Protocol, Port: f.Port})
	words := fault.Readable(fault.Words(err))
	switch {
	case err == nil:
		return nil
	case errdefs.IsConflict(err):
		return fault.New(errdefs.ErrAlreadyExists, fault.PortTaken, "%s", words)
	case errdefs.IsInvalidArgument(err):
		return fault.Field(field, "%s", words)
	case errdefs.IsFailedPrecondition(err):
		return fault.New(errdefs.ErrFailedPrecondition, fault.NetworkDisabled, "%s", words)
	}
	return fmt.Errorf("see whether %s can be listened on: %w", f.Listen, err)
}

// RemoveForward ends the forward that listens somewhere. Errors: those of ChangeNetworks; ErrNotFound with reason NO_SUCH_FORWARD.
func (s *Supervisor) RemoveForward(ctx context.Context, id string, listen netip.AddrPort, protocol policy.Protocol, requestedBy string) error {
	if err := s.CheckNetworks(); err != nil {
		return err
	}
	protocol = orDefault(protocol, policy.TCP)
	return s.editForwards(ctx, id, requestedBy, func(_ *store.Tx, r *Record) ([]Forward, error) {
		is := func(f Forward) bool { return f.Listen == listen && f.Protocol == protocol }
		if !slices.ContainsFunc(r.Spec.Network.Forwards, is) {
			return nil, fault.New(errdefs.ErrNotFound, fault.NoSuchForward, "phone %s has no forward that listens at %s", id, listen)
		}
		return slices.DeleteFunc(slices.Clone(r.Spec.Network.Forwards), is), nil
	})
}

// editForwards stores other forwards of a phone and brings them about.
func (s *Supervisor) editForwards(ctx context.Context, id, requestedBy string, edit func(*store.Tx, *Record) ([]Forward, error)) error {
	refused, err := s.editPhones([]string{id}, requestedBy, nil, func(tx *store.Tx, r *Record) ([]string, error) {
		forwards, err := edit(tx, r)
		if err != nil || slices.Equal(forwards, r.Spec.Network.Forwards) {
			return nil, err
		}
		r.Spec.Network.Forwards = forwards
		return []string{"network.forwards"}, nil
	})
	if err := cmp.Or(err, refused[0]); err != nil {
		return err
	}
	return s.enforce(ctx, id)
}

// checkForwardsFree refuses forwards that listen where one of another phone does. except names a phone whose own do not count.
func checkForwardsFree(tx *store.Tx, except string, forwards ...Forward) error {
	if len(forwards) == 0 {
		return nil
	}
	for e := range records.All(tx) {
		if e.Err != nil || e.Key == except {
			continue
		}
		for _, have := range e.Value.Spec.Network.Forwards {
			for _, f := range forwards {
				if f.collides(have) {
					return fault.New(errdefs.ErrAlreadyExists, fault.ForwardTaken, "%s is taken: a forward of phone %s listens at %s", f.Listen, e.Key, have.Listen)
				}
			}
		}
	}
	return nil
}

// checkPolicy refuses a policy that there is not.
func (s *Supervisor) checkPolicy(tx *store.Tx, name string) error {
	if name == netpolicy.DefaultPolicy {
		return nil
	}
	if s.cfg.HasPolicy != nil {
		if has, err := s.cfg.HasPolicy(tx, name); has || err != nil {
			return err
		}
	}
	return fault.New(errdefs.ErrNotFound, fault.NoSuchPolicy, "no network policy %q on this host", name)
}

// PolicyUsers names the phones that have a policy, in order, as a transaction sees them.
func PolicyUsers(tx *store.Tx, name string) []string {
	var ids []string
	for e := range records.All(tx) {
		if e.Err == nil && orDefault(e.Value.Spec.Network.Policy, netpolicy.DefaultPolicy) == name {
			ids = append(ids, e.Key)
		}
	}
	return ids
}

// editPhones is the transaction of a change: edit changes the record of each phone, and names the fields that it changed. refused has
// the error of each phone that is not changed.
func (s *Supervisor) editPhones(ids []string, requestedBy string, check func(*store.Tx) error, edit func(*store.Tx, *Record) ([]string, error)) (refused []error, err error) {
	refused = make([]error, len(ids))
	return refused, s.cfg.DB.Update(func(tx *store.Tx) error {
		if err := s.accepting(); err != nil {
			return err
		}
		if check != nil {
			if err := check(tx); err != nil {
				return err
			}
		}
		for i, id := range ids {
			if refused[i] = s.editPhone(tx, id, requestedBy, edit); refused[i] != nil && fault.Reason(refused[i]) == "" {
				return refused[i] // of the database
			}
		}
		return nil
	})
}

// editPhone is the part of one phone.
func (s *Supervisor) editPhone(tx *store.Tx, id, requestedBy string, edit func(*store.Tx, *Record) ([]string, error)) error {
	r, status, err := s.meet(tx, id)
	if err != nil {
		return err
	}
	if r.Deleting {
		return busyWith(&r, status, operation.Delete)
	}
	fields, err := edit(tx, &r)
	if err != nil || len(fields) == 0 {
		return err
	}
	tx.OnCommit(func() { s.committed(id, r, false) })
	words := strings.Join(fields, ",")
	err = s.cfg.Journal.Append(tx, event.Event{
		Kind: event.PhoneUpdated, PhoneID: id, Message: id + " was changed: " + words,
		Attributes: map[string]string{"fields": words, "requested_by": requestedBy},
	})
	return errors.Join(err, records.Put(tx, []byte(id), r))
}

// enforce brings a phone's network in line with its record, where there is a network: a phone that is off gets it at its start. The error
// is a fault with reason NETWORK_FAILED; its controller tries again.
func (s *Supervisor) enforce(ctx context.Context, id string) error {
	s.mu.Lock()
	c := s.phones[id]
	there := c != nil && (c.link.made || c.sight.guestUp() || c.rec.wantsGuest())
	s.mu.Unlock()
	if !there {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timing.StepTimeout)
	defer cancel()
	err := c.ensureNetwork(ctx, false)
	if err == nil {
		return nil
	}
	return fault.New(errdefs.ErrUnavailable, fault.NetworkFailed, "the network of %s: stored, and tried again since it could not be changed yet: %s", id, fault.Readable(fault.Words(err)))
}
