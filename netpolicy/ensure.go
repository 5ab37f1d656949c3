package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/netpolicy/shape"
	"github.com/phonehost/phonehost/netpolicy/wire"
)

// Ensure makes a phone's network what it should be, whether or not the phone runs, and whatever a guest or a crash has left of it. A
// phone that is to be cut is cut before anything else is touched. Errors: errdefs.ErrInvalidArgument for addresses outside of the pools, a slot out of
// range; errdefs.ErrNotFound for a policy that is not set. After an error nothing passes that did not before.
//
// A crash at any point leaves what the next call finishes: the link comes up last, and what is up drops everything until SetPhone.
func (e *Engine) Ensure(ctx context.Context, p Phone) error {
	if p.Slot >= e.cfg.MaxPhones {
		return fmt.Errorf("network of %s: slot %d of %d: %w", p.ID, p.Slot, e.cfg.MaxPhones, errdefs.ErrInvalidArgument)
	}
	defer e.lock(p.ID)()
	if err := e.ensure(ctx, p); err != nil {
		return err
	}
	e.leftPolicy()
	return nil
}

// leftPolicy is called when a phone may have been the last with a policy that only the kernel has.
func (e *Engine) leftPolicy() {
	if err := e.forgetUnnamed(); err != nil {
		e.log.Warn("a policy that no phone has any more stays in the kernel", "error", err)
	}
}

// ensure is Ensure for a phone that is locked.
func (e *Engine) ensure(ctx context.Context, p Phone) error {
	e.mu.Lock()
	rules, found := e.policies[p.Policy]
	former, up := e.phones[p.ID]
	e.mu.Unlock()
	if !found || !rules.known {
		return fmt.Errorf("network of %s: there is no policy %q: %w", p.ID, p.Policy, errdefs.ErrNotFound)
	}
	if up && p.Cut && !former.Cut {
		cut := former
		cut.Cut = true
		if err := e.admit(cut, rules.slot); err != nil {
			return err
		}
	}
	link, err := e.connect(ctx, p)
	if err != nil {
		return err
	}
	if err := e.data.Attach(p.ID, link.Index); err != nil {
		return err
	}
	if err := shape.Set(ctx, link.Index, p.ID, p.UpBits, p.DownBits); err != nil {
		return err
	}
	now := attached{Phone: p, link: link, mends: former.mends}
	if !up {
		now.mends = newMends()
	}
	if err := e.admit(now, rules.slot); err != nil {
		return err
	}
	e.mu.Lock()
	e.phones[p.ID] = now
	delete(e.expected, p.ID)
	e.mu.Unlock()
	if err := e.wire.Up(ctx, wired(p)); err != nil {
		return err
	}
	return e.translate(ctx)
}

// CheckForward refuses a forward that would lead to nobody, or away from somebody, before it is taken on: nat.Check. What other forwards there are does not
// matter here.
func (e *Engine) CheckForward(ctx context.Context, f Forward) error {
	return e.nat.Check(ctx, f.Protocol, f.Listen)
}

// connect makes the phone's link, and beside it the tables of its slot: the kernel has to be waited for in both.
func (e *Engine) connect(ctx context.Context, p Phone) (link wire.Link, err error) {
	var both errgroup.Group
	both.Go(func() error { return e.data.Reserve(p.Slot) })
	both.Go(func() (err error) {
		link, err = e.wire.Ensure(ctx, wired(p))
		return err
	})
	return link, both.Wait()
}

// wired is a phone in wire's words.
func wired(p Phone) wire.Phone { return wire.Phone{ID: p.ID, IPv4: p.IPv4, IPv6: p.IPv6} }

// admit tells the programs which phone a link is. From then on packets pass.
func (e *Engine) admit(p attached, policySlot uint32) error {
	forwards := make([]datapath.Forward, 0, len(p.Forwards))
	for _, f := range p.Forwards {
		forwards = append(forwards, datapath.Forward{Protocol: f.Protocol, Port: f.Port})
	}
	if err := e.data.SetForwards(p.Slot, forwards); err != nil {
		return err
	}
	phone := datapath.Phone{
		Slot: p.Slot, Policy: policySlot, Cut: p.Cut, DHCP: p.DHCP, IPv4: p.IPv4, IPv6: p.IPv6,
		Gateway4: wire.Gateway(e.cfg.Pool4), Prefix4: e.cfg.Pool4.Bits(), MAC: p.link.MAC, GatewayMAC: p.link.GatewayMAC,
	}
	if e.cfg.Pool6.IsValid() {
		phone.Gateway6 = wire.Gateway(e.cfg.Pool6)
	}
	return e.data.SetPhone(p.link.Index, phone)
}

// translation is a forward in the nftables table, and the link that it leads to.
type translation struct {
	nat.Forward
	link int
}

// translations returns what the nftables table should say, in the order of the phones' ids.
func (e *Engine) translations() []translation {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := maps.Clone(e.expected)
	for id, p := range e.phones {
		all[id] = p.Phone
	}
	list := []translation{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		for _, f := range all[id].Forwards {
			to := all[id].IPv4
			if f.Listen.Addr().Is6() {
				to = all[id].IPv6
			}
			list = append(list, translation{nat.Forward{Listen: f.Listen, Protocol: f.Protocol, Phone: to, Port: f.Port}, e.phones[id].link.Index})
		}
	}
	return list
}

// translate makes the nftables table what all phones' networks together want, unless it is.
func (e *Engine) translate(ctx context.Context) error {
	e.natting.Lock()
	defer e.natting.Unlock()
	list := e.translations()
	if e.translated != nil && slices.Equal(e.translated, list) {
		return nil
	}
	forwards := make([]nat.Forward, len(list))
	for i, t := range list {
		forwards[i] = t.Forward
	}
	if err := e.nat.Apply(ctx, forwards); err != nil {
		return err
	}
	e.translated = list
	return nil
}

// Remove removes all of a phone's network. What is not there is no error.
func (e *Engine) Remove(ctx context.Context, id string) error {
	defer e.lock(id)()
	links, err := e.data.Attached()
	if err != nil {
		return err
	}
	e.mu.Lock()
	delete(e.phones, id)
	delete(e.expected, id)
	e.mu.Unlock()
	if err := errors.Join(e.translate(ctx), shape.Clear(ctx, id), e.disconnect(ctx, id, links[id]), e.data.Detach(id), e.cfg.NetNS.Delete(id)); err != nil {
		return fmt.Errorf("remove the network of %s: %w", id, err)
	}
	e.leftPolicy()
	return nil
}

// disconnect removes the phone's link, whose programs go with it, and beside it what its slot has: the kernel has to be waited for in both.
// index is 0 for a link without programs.
func (e *Engine) disconnect(ctx context.Context, id string, index int) error {
	var link, slot error
	var both sync.WaitGroup
	both.Go(func() { link = e.wire.Remove(ctx, id) })
	if index != 0 {
		both.Go(func() { slot = e.data.RemovePhone(index) })
	}
	both.Wait()
	return errors.Join(link, slot)
}

// Sweep removes what belongs to no phone of those in keep and is called by none's name: what a crash left half made. Policies that the kernel
// has, that no SetPolicy has named by now and that no phone has, lose their slots.
func (e *Engine) Sweep(ctx context.Context, keep []string) error {
	return errors.Join(shape.Prune(ctx, keep), e.wire.Sweep(ctx, keep), e.forgetUnnamed())
}

// List returns the phones of whose networks anything exists, in order.
func (e *Engine) List() ([]string, error) {
	pairs, err := e.wire.List()
	if err != nil {
		return nil, err
	}
	namespaces, err := e.cfg.NetNS.List()
	if err != nil {
		return nil, err
	}
	links, err := e.data.Attached()
	if err != nil {
		return nil, err
	}
	shaped, err := shape.List()
	if err != nil {
		return nil, err
	}
	all := slices.Concat(pairs, namespaces, slices.Collect(maps.Keys(links)), shaped)
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Status returns what there is of a phone's network. errdefs.ErrNotFound: it is not up.
func (e *Engine) Status(_ context.Context, id string) (Status, error) {
	p, err := e.phone(id)
	if err != nil {
		return Status{}, err
	}
	counters, err := e.data.Counters(p.Slot)
	if err != nil {
		return Status{}, err
	}
	flows, err := e.data.Flows(p.Slot)
	if err != nil {
		return Status{}, err
	}
	e.mu.Lock()
	generation := e.policies[p.Policy].generation
	e.mu.Unlock()
	s := Status{
		Up: true, Interface: p.link.Name, MTU: p.link.MTU, Generation: generation, Flows: len(flows), MaxFlows: int(e.cfg.MaxFlows),
		Counters: Counters{Packets: counters.Packets, Bytes: counters.Bytes, Dropped: map[string]uint64{}},
	}
	for reason, n := range counters.Dropped {
		if n > 0 {
			s.Counters.Dropped[datapath.Reason(reason).String()] = n
		}
	}
	return s, nil
}

// followHost keeps what is protected, and the phones' MTUs, what the host's network makes of them, until the context ends.
func (e *Engine) followHost(ctx context.Context) {
	for range e.wire.Watch(ctx) {
		if err := e.protect(ctx); err != nil {
			e.log.Warn("the addresses that are protected from phones are as they were before the host's network changed", "error", err)
		}
		e.mu.Lock()
		ids := slices.Sorted(maps.Keys(e.phones))
		e.mu.Unlock()
		for _, id := range ids {
			if err := e.follow(ctx, id); err != nil {
				e.log.Warn("a phone's link does not follow the host's network", "phone_id", id, "error", err)
			}
		}
	}
}

// follow mends a phone's link after the host's network has changed.
func (e *Engine) follow(ctx context.Context, id string) error {
	defer e.lock(id)()
	p, err := e.phone(id)
	if err != nil {
		return nil // removed meanwhile
	}
	index, err := e.wire.Index(id)
	if err != nil || index != p.link.Index {
		return err // it is gone, and followLinks makes it anew
	}
	link, err := e.wire.Ensure(ctx, wired(p.Phone))
	if err != nil {
		return err
	}
	if link.Index != p.link.Index { // it has just gone, or the guest has moved its end elsewhere: the new one is down
		return e.ensure(ctx, p.Phone)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p.link = link
	e.phones[id] = p
	return nil
}

// protect tells the programs and the name server which addresses are not the internet's.
func (e *Engine) protect(ctx context.Context) error {
	classes, err := e.wire.Protected(ctx)
	if err != nil {
		return err
	}
	if err := e.data.SetProtected(policy.CompileAddresses(classes)); err != nil {
		return err
	}
	e.changing.Lock()
	defer e.changing.Unlock()
	e.mu.Lock()
	e.classes = classes
	known := map[string]policy.Policy{}
	for name, p := range e.policies {
		if p.known {
			known[name] = p.policy
		}
	}
	e.mu.Unlock()
	// Flows were let in under what was protected then: they are judged again.
	for name, p := range known {
		if err := e.put(name, p); err != nil {
			return err
		}
	}
	return e.tell()
}
