package appguard

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// Bits are what an app may not do.
type Bits uint32

// What Bits are made of. The zero value: the app is known, and may do all.
const (
	DenyRun     = Bits(bpfUidBitUID_RUN_DENY)
	DenyNetwork = Bits(bpfUidBitUID_NETWORK_DENY)
)

// How Android gives uids; see layout.h.
const (
	perUser      = 100000
	firstApp     = 10000
	firstSandbox = 20000
	endSandbox   = 30000
)

// AppID returns whose a uid is: the same for all Android users, and for an app and its SDK sandbox. Isolated processes keep theirs, 90000..99999.
func AppID(uid uint32) uint32 {
	app := uid % perUser
	if app >= firstSandbox && app < endSandbox {
		app -= firstSandbox - firstApp
	}
	return app
}

// Phone is what a phone's apps may do.
type Phone struct {
	// Slot is where the phone's counters and denials are, below Config.MaxPhones. A phone keeps its slot when it gets another cgroup.
	Slot uint32
	// Names are the packages that are listed, and UnlistedDeny forbids the installation of all others.
	Names        []Name
	UnlistedDeny bool
	// Apps are all apps that are known, by app id, 0..19999. App ids below 10000, the system's, need be there only if they are denied something.
	Apps map[uint32]Bits
	// UnknownDeny forbids to run, and the network, to apps that are not among Apps, and IsolatedDeny to isolated processes.
	UnknownDeny, IsolatedDeny bool
}

// maxApps bounds Apps: there are no more app ids.
const maxApps = firstSandbox

func (g *Guard) check(cgroup uint64, p Phone) error {
	invalid := func(text string, args ...any) error {
		return fmt.Errorf("set the apps of cgroup %d: %w: %w", cgroup, fmt.Errorf(text, args...), errdefs.ErrInvalidArgument)
	}
	if cgroup == 0 {
		return invalid("no cgroup has this id")
	}
	if p.Slot >= g.slotCount {
		return invalid("slots are below %d", g.slotCount-1)
	}
	for app, bits := range p.Apps {
		if app >= maxApps {
			return invalid("app id %d: app ids are below %d", app, maxApps)
		}
		if bits&^(DenyRun|DenyNetwork) != 0 {
			return invalid("app id %d: %#x is nothing that an app can be denied", app, uint32(bits))
		}
	}
	return nil
}

// flags are those of struct phone.
func (p Phone) flags() bpfPhoneFlag {
	var f bpfPhoneFlag
	for _, each := range []struct {
		set  bool
		flag bpfPhoneFlag
	}{
		{p.UnlistedDeny, bpfPhoneFlagPHONE_UNLISTED_DENY}, {p.UnknownDeny, bpfPhoneFlagPHONE_UNKNOWN_DENY | bpfPhoneFlagPHONE_NETWORK},
		{p.IsolatedDeny, bpfPhoneFlagPHONE_ISOLATED_DENY | bpfPhoneFlagPHONE_NETWORK},
	} {
		if each.set {
			f |= each.flag
		}
	}
	for app, bits := range p.Apps {
		if app < firstApp {
			f |= bpfPhoneFlagPHONE_SYSTEM
		}
		if bits&DenyNetwork != 0 {
			f |= bpfPhoneFlagPHONE_NETWORK
		}
	}
	return f
}

// digest is the digest of all that SetPhone is told; names are sorted.
func (p Phone) digest(names []Name) digest {
	h := sha256.New()
	put := func(v any) { _ = binary.Write(h, binary.LittleEndian, v) } // a hash takes all
	put(digestOf(names))
	put(uint32(p.flags()))
	for _, app := range slices.Sorted(maps.Keys(p.Apps)) {
		put([2]uint32{app, uint32(p.Apps[app])})
	}
	return digest(h.Sum(nil))
}

// SetPhone puts in force what the apps of a phone may do, in all processes below its cgroup, at once: every verdict is by what was or by what is,
// never by parts of both. What is the same already is left alone. Apps that run and may not any more run on: see Kill.
//
// A slot is one phone's: with another cgroup the phone's former one is without rules. errdefs.ErrAlreadyExists: the cgroup is another slot's;
// errdefs.ErrInvalidArgument: what cannot be; errdefs.ErrResourceExhausted: too many lists, or no memory.
func (g *Guard) SetPhone(cgroup uint64, p Phone) error {
	if err := g.check(cgroup, p); err != nil {
		return err
	}
	if p.Slot == g.canarySlot() {
		return fmt.Errorf("set the apps of cgroup %d: slots are below %d: %w", cgroup, g.canarySlot(), errdefs.ErrInvalidArgument)
	}
	return g.setPhone(cgroup, p)
}

func (g *Guard) setPhone(cgroup uint64, p Phone) error {
	names, err := sorted(p.Names)
	if err != nil {
		return fmt.Errorf("set the apps of cgroup %d: %w", cgroup, err)
	}
	defer g.slots.Lock(p.Slot)()
	if err := g.claim(cgroup, p.Slot); err != nil {
		return err
	}
	was, want := g.phone(p.Slot), state{Cgroup: cgroup, Digest: p.digest(names)}
	var have state
	if err := g.maps.states.Lookup(p.Slot, &have); err == nil && have == want && was.cgroup == cgroup {
		return nil
	}
	tr, err := g.tries.acquire(names)
	if err != nil {
		return fmt.Errorf("set the apps of cgroup %d: %w", cgroup, pinned.Classed(err))
	}
	now := phone{cgroup: cgroup, trie: tr, value: bpfPhone{Uids: 2 * p.Slot, Names: uint16(tr.index), Flags: uint16(p.flags())}}
	if was.cgroup != 0 {
		now.value.Uids = was.value.Uids ^ 1
	}
	if err := g.replace(p, was, now); err != nil {
		return fmt.Errorf("set the apps of cgroup %d: %w", cgroup, pinned.Classed(err))
	}
	if err := g.maps.states.Put(p.Slot, want); err != nil {
		return fmt.Errorf("set the apps of cgroup %d: map states: %w", cgroup, pinned.Classed(err))
	}
	return nil
}

// replace has what is written first, then the one element that puts it in force, then takes away what was. The slot is locked.
func (g *Guard) replace(p Phone, was, now phone) (err error) {
	table, err := newTable(g.specs.uids, p.Apps)
	if err != nil {
		return errors.Join(err, g.tries.release(now.trie))
	}
	defer table.Close()
	if err := g.prepare(p.Slot, was, now, table); err != nil {
		return errors.Join(err, g.tries.release(now.trie))
	}
	if err := g.maps.phones.Put(now.cgroup, now.value); err != nil {
		return errors.Join(fmt.Errorf("map phones: %w", err), g.tries.release(now.trie))
	}
	g.setOwner(p.Slot, now)
	if was.cgroup == 0 {
		return nil
	}
	if was.cgroup != now.cgroup {
		if err := pinned.DeleteKey(g.maps.phones, was.cgroup); err != nil {
			return err
		}
	}
	// Once more the same table: the kernel waits until no program is in the middle of a verdict by what was.
	if err := g.maps.uids.Put(now.value.Uids, table); err != nil {
		return fmt.Errorf("index %d of map uids: %w", now.value.Uids, err)
	}
	return g.drop(was)
}

// prepare puts what a phone refers to in its places.
func (g *Guard) prepare(slot uint32, was, now phone, table *ebpf.Map) error {
	if err := pinned.DeleteKey(g.maps.states, slot); err != nil {
		return err
	}
	if was.cgroup == 0 {
		if err := g.zeroSlot(slot); err != nil {
			return err
		}
	}
	there, err := pinned.HasInner(g.maps.denials, slot)
	if err != nil {
		return err
	}
	if !there {
		if err := pinned.PutTable(g.maps.denials, g.specs.denials, slot); err != nil {
			return err
		}
	}
	if err := g.maps.uids.Put(now.value.Uids, table); err != nil {
		return fmt.Errorf("index %d of map uids: %w", now.value.Uids, err)
	}
	return nil
}

// drop takes away what a phone referred to, when no program uses it. Both wait for the same grace period.
func (g *Guard) drop(was phone) error {
	var released error
	var releasing sync.WaitGroup
	releasing.Go(func() { released = g.tries.release(was.trie) })
	err := pinned.DeleteKey(g.maps.uids, was.value.Uids)
	releasing.Wait()
	return errors.Join(err, released)
}

// newTable makes a table of uids.
func newTable(spec *ebpf.MapSpec, apps map[uint32]Bits) (*ebpf.Map, error) {
	spec = spec.Copy()
	spec.MaxEntries = uint32(max(len(apps), 1))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make a table of %d apps: %w", len(apps), err)
	}
	for app, bits := range apps {
		if err := m.Put(app, bits); err != nil {
			m.Close()
			return nil, fmt.Errorf("put app id %d into a table of %d: %w", app, len(apps), err)
		}
	}
	return m, nil
}

// RemovePhone ends what SetPhone began: the phone's apps may do all. Denials that were not drained are lost. A cgroup without rules is no error.
func (g *Guard) RemovePhone(cgroup uint64) error {
	slot, found := g.slotOf(cgroup)
	if !found || slot == g.canarySlot() {
		return nil
	}
	return g.removePhone(slot, cgroup)
}

func (g *Guard) removePhone(slot uint32, cgroup uint64) error {
	defer g.slots.Lock(slot)()
	was := g.phone(slot)
	if was.cgroup != cgroup {
		return nil
	}
	if err := pinned.DeleteKey(g.maps.phones, cgroup); err != nil {
		return fmt.Errorf("remove the apps of cgroup %d: %w", cgroup, pinned.Classed(err))
	}
	g.setOwner(slot, phone{})
	// The first of these waits until no program is in the middle of a verdict.
	if err := errors.Join(g.clearSlot(slot), g.drop(was)); err != nil {
		return fmt.Errorf("remove the apps of cgroup %d: %w", cgroup, pinned.Classed(err))
	}
	return nil
}

// clearSlot takes what is a slot's alone.
func (g *Guard) clearSlot(slot uint32) error {
	there, err := pinned.HasInner(g.maps.denials, slot)
	if err == nil && there {
		err = pinned.DeleteKey(g.maps.denials, slot)
	}
	return errors.Join(err, pinned.Unpin(g.pins.draining(slot)), pinned.DeleteKey(g.maps.states, slot), g.zeroSlot(slot))
}

// Phones returns the slots of all phones that SetPhone has set, also in an earlier process, by cgroup.
func (g *Guard) Phones() map[uint64]uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := map[uint64]uint32{}
	for slot, p := range g.owners {
		if slot != g.canarySlot() {
			all[p.cgroup] = slot
		}
	}
	return all
}
