package appguard

import (
	"context"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// OpenAs is Open of a build whose programs are another version: the same ones, which the kernel loads once more.
func OpenAs(ctx context.Context, c Config, version string) (*Guard, error) {
	return openAs(ctx, c, version)
}

// NoKill has refused launches fail alone, or be killed again.
func (g *Guard) NoKill(yes bool) error { return g.set(yes) }

// Elements counts what maps hold of phones but for the canary, by map; what holds nothing is left out.
func (g *Guard) Elements() (map[string]int, error) {
	all := map[string]int{}
	add := func(name string, n int) {
		if n > 0 {
			all[name] = n
		}
	}
	for _, outer := range []string{bpfMapNames, bpfMapUids, bpfMapDenials} {
		slots, err := pinned.Occupied(g.pinned[outer])
		if err != nil {
			return nil, err
		}
		add(outer, len(slots)-1)
	}
	for _, name := range []string{bpfMapPhones, mapStates, mapReported} {
		m, n := g.pinned[name], 0
		key := make([]byte, m.KeySize())
		var err error
		for err = m.NextKey(nil, key); err == nil; err = m.NextKey(key, key) {
			n++
		}
		if name == mapReported {
			n++
		}
		add(name, n-1)
	}
	entries, err := os.ReadDir(filepath.Dir(g.pins.draining(0)))
	add("draining", len(entries))
	return all, err
}

// TrieOf is the index of the names that the phone in a slot has.
func (g *Guard) TrieOf(slot uint32) uint32 { return uint32(g.phone(slot).value.Names) }

// Denies asks the trie of the phone in a slot about a package, as the programs do.
func (g *Guard) Denies(slot uint32, name string) (denied, found bool, err error) {
	p := g.phone(slot)
	m, err := pinned.Inner(g.maps.names, uint32(p.value.Names))
	if err != nil {
		return false, false, err
	}
	defer m.Close()
	key := Name{Name: name}.key()
	key.Bits = uint32(8 * len(key.Name))
	var bits uint32
	if err := m.Lookup(key, &bits); err != nil {
		return p.value.Flags&uint16(bpfPhoneFlagPHONE_UNLISTED_DENY) != 0, false, nil
	}
	return bits&uint32(bpfNameBitNAME_INSTALL_DENY) != 0, true, nil
}

// Deny writes a denial as a program would.
func (g *Guard) Deny(slot, uid uint32, count uint64) error {
	m, err := pinned.Inner(g.maps.denials, slot)
	if err != nil {
		return err
	}
	defer m.Close()
	now := pinned.Now().Kernel
	return m.Put(bpfDenialKey{Kind: uint32(KindLaunch), Number: uid}, bpfDenial{Count: count, First: now, Last: now})
}

// Detach takes links off as somebody could who may use bpf(2).
func (g *Guard) Detach() {
	for name, l := range g.links {
		_ = pinned.Unpin(filepath.Join(g.pins.links(g.version), name))
		l.Close()
	}
	for name, l := range g.cgroups {
		_ = pinned.Unpin(g.pins.cgroup(name))
		l.Close()
	}
	g.links, g.cgroups = nil, nil
}

// MapIDs are the kernel's numbers of the pinned maps.
func (g *Guard) MapIDs() map[string]ebpf.MapID {
	all := map[string]ebpf.MapID{}
	for name, m := range g.pinned {
		all[name], _ = pinned.ID(m)
	}
	return all
}

// VerifiedInstructions loads every program that this kernel takes and returns of how many instructions the verifier looked.
func (g *Guard) VerifiedInstructions() (map[string]uint32, map[string]error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, map[string]error{"": err}
	}
	counts, errs := map[string]uint32{}, map[string]error{}
	for name := range spec.Programs {
		programs, err := g.load(name)
		if err != nil {
			errs[name] = err
			continue
		}
		if info, err := programs[name].Info(); err == nil {
			counts[name], _ = info.VerifiedInstructions()
		}
		closePrograms(programs)
	}
	return counts, errs
}
