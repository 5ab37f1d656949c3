package appguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// Guard is the programs, attached, and their maps.
type Guard struct {
	config    Config
	pins      pins
	log       *slog.Logger
	owned     *os.File // the lock of the pins
	version   string
	slotCount uint32 // the canary's included
	maps      pinnedMaps
	specs     tables
	pinned    map[string]*ebpf.Map // all of them
	tries     *tries
	reading   atomic.Bool  // Events has a reader
	slots     pinned.Locks // held while what a slot has is changed

	choosing sync.Mutex // held while links are changed, or the canary runs
	cgroups  map[string]link.Link
	links    map[string]link.Link // of the mechanism, by program
	canary   *os.File             // the canary's cgroup

	mu     sync.Mutex
	owners map[uint32]phone // by slot
	status Status
}

// phone is what "phones" has for a slot; the zero value is nothing.
type phone struct {
	cgroup uint64
	trie   *trie
	value  bpfPhone
}

// Open finds what an earlier Guard has left pinned, or begins with nothing, clears away what a process left that was killed, attaches the programs, and
// has the canary show which mechanism is obeyed. That none is for launches is no error: see Status. Close leaves all in force.
//
// errdefs.ErrFailedPrecondition: Dir is on no BPF file system, CgroupRoot is no cgroup v2, or phones use maps that are of another size than the Config wants;
// errdefs.ErrUnavailable: another process has the pins; errdefs.ErrInvalidArgument: a Config that cannot be; errdefs.ErrPermissionDenied: this process may not use
// bpf(2); errdefs.ErrNotImplemented: the kernel lacks cgroup programs.
func Open(ctx context.Context, c Config) (*Guard, error) {
	return openAs(ctx, c, programVersion())
}

// openAs opens a guard whose programs are called version.
func openAs(ctx context.Context, c Config, version string) (_ *Guard, err error) {
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("appguard: %w", err)
	}
	g := &Guard{
		config: c, pins: pins(filepath.Clean(c.Dir)), log: c.Logger, version: version,
		owners: map[uint32]phone{}, cgroups: map[string]link.Link{}, links: map[string]link.Link{},
	}
	if err := g.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("appguard: %w", pinned.Classed(err)), g.Close())
	}
	return g, nil
}

func (g *Guard) open(ctx context.Context) (err error) {
	if err := g.pins.make(); err != nil {
		return err
	}
	if g.owned, err = pinned.Own(string(g.pins)); err != nil {
		return err
	}
	if err := g.openTables(); err != nil {
		return err
	}
	if err := g.restore(); err != nil {
		return fmt.Errorf("clear away what a former process left: %w", err)
	}
	if err := g.openCgroups(); err != nil {
		return err
	}
	if err := g.attachCgroups(); err != nil {
		return err
	}
	if err := g.choose(ctx); err != nil {
		return err
	}
	return g.removeOthers(ctx)
}

// openTables opens the maps and writes the settings.
func (g *Guard) openTables() error {
	spec, err := loadBpf()
	if err != nil {
		return fmt.Errorf("the programs' object: %w", err)
	}
	specs, tables := mapSpecs(g.config.MaxPhones+1, spec)
	g.specs = tables
	err = g.openMaps(specs)
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		if err := g.replaceMaps(err); err != nil {
			return err
		}
		err = g.openMaps(specs)
	}
	if err != nil {
		return err
	}
	g.tries = &tries{
		names: g.maps.names, digests: g.maps.digests, spec: tables.names, byDigest: map[digest]*trie{}, byIndex: map[uint32]*trie{}, leaving: map[uint32]bool{},
	}
	return g.set(g.config.NoKill)
}

// set writes the settings.
func (g *Guard) set(noKill bool) error {
	var flags bpfSettingFlag
	if noKill {
		flags = bpfSettingFlagSETTING_NO_KILL
	}
	if err := g.maps.settings.Put(uint32(0), bpfSettings{Level: uint32(g.config.Level), Flags: uint32(flags)}); err != nil {
		return fmt.Errorf("map settings: %w", err)
	}
	return nil
}

// restore learns which phones there are, and clears what no phone has.
func (g *Guard) restore() error {
	users := map[uint32]int{}
	former := map[uint64]uint32{} // cgroups that were being replaced, by slot
	for e, err := range pinned.Elements[uint64, bpfPhone](g.maps.phones) {
		if err != nil {
			return err
		}
		now := phone{cgroup: e.Key, value: e.Value}
		if other, twice := g.owners[e.Value.Uids/2]; twice { // killed between the new cgroup and the end of the old one: ids grow
			if other.cgroup > now.cgroup {
				other, now = now, other
			}
			former[other.cgroup] = other.value.Uids / 2
		}
		g.owners[e.Value.Uids/2] = now
	}
	for cgroup := range former {
		if err := pinned.DeleteKey(g.maps.phones, cgroup); err != nil {
			return err
		}
	}
	for _, p := range g.owners {
		users[uint32(p.value.Names)]++
	}
	if err := g.tries.adopt(users); err != nil {
		return err
	}
	for slot, p := range g.owners {
		p.trie = g.tries.byIndex[uint32(p.value.Names)]
		g.owners[slot] = p
	}
	return g.clearOrphans()
}

// clearOrphans empties what no phone has.
func (g *Guard) clearOrphans() error {
	tables, err := pinned.Occupied(g.maps.uids)
	if err != nil {
		return err
	}
	for _, index := range tables {
		if p := g.owners[index/2]; p.cgroup == 0 || p.value.Uids != index {
			if err := pinned.DeleteKey(g.maps.uids, index); err != nil {
				return err
			}
		}
	}
	denials, err := pinned.Occupied(g.maps.denials)
	if err != nil {
		return err
	}
	for _, slot := range denials {
		if g.owners[slot].cgroup == 0 {
			if err := g.clearSlot(slot); err != nil {
				return err
			}
		}
	}
	ownerless := func(slot uint32) bool { return g.owners[slot].cgroup == 0 }
	if err := pinned.DeleteIf(g.maps.states, func(slot uint32, _ state) bool { return ownerless(slot) }); err != nil {
		return err
	}
	if err := pinned.DeleteIf(g.maps.reported, func(slot uint32, _ reported) bool { return ownerless(slot) }); err != nil {
		return err
	}
	return g.clearDraining()
}

// clearDraining removes drained denials of slots that no phone has.
func (g *Guard) clearDraining() error {
	dir := filepath.Dir(g.pins.draining(0))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		slot, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || g.owners[uint32(slot)].cgroup == 0 {
			if err := pinned.Unpin(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *Guard) canarySlot() uint32 { return g.slotCount - 1 }

// phone returns what a slot has.
func (g *Guard) phone(slot uint32) phone {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.owners[slot]
}

func (g *Guard) setOwner(slot uint32, p phone) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.cgroup == 0 {
		delete(g.owners, slot)
	} else {
		g.owners[slot] = p
	}
}

func (g *Guard) slotOf(cgroup uint64) (slot uint32, found bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for slot, p := range g.owners {
		if p.cgroup == cgroup {
			return slot, true
		}
	}
	return 0, false
}

// claim makes sure that no other slot has a cgroup.
func (g *Guard) claim(cgroup uint64, slot uint32) error {
	if other, found := g.slotOf(cgroup); found && other != slot {
		return fmt.Errorf("set the apps of cgroup %d: it is in slot %d already: %w", cgroup, other, errdefs.ErrAlreadyExists)
	}
	return nil
}

// Version names the programs that this build brings: a digest, in hexadecimal.
func (g *Guard) Version() string { return g.version }

// Status tells what is enforced, as the last canary has shown it.
func (g *Guard) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.status
}

// Close gives the handles up. What is attached stays in force. Events must have ended.
func (g *Guard) Close() error {
	closeLinks(g.links)
	closeLinks(g.cgroups)
	pinned.CloseMaps(g.pinned)
	if g.canary != nil {
		g.canary.Close()
	}
	if g.owned == nil {
		return nil
	}
	return g.owned.Close()
}

// Remove takes away all pins of a directory, and with them all programs, and the canary's cgroup: nothing is refused any more. It is for a host from which phonehost is
// removed, and for tests; a Guard that is open must be closed before.
func Remove(dir, cgroupRoot string) error {
	if err := pinned.OnBPF(dir); err != nil {
		return fmt.Errorf("appguard: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("appguard: %w", err)
	}
	for _, cgroup := range []string{canaryCgroup(cgroupRoot), filepath.Dir(canaryCgroup(cgroupRoot))} {
		if err := pinned.Unpin(cgroup); err != nil { // a cgroup goes by rmdir(2), as pins do
			return fmt.Errorf("appguard: %w", err)
		}
	}
	return nil
}

// DropFormer ends what was pinned by agents of another LAYOUT, and is in force beside this one's until then: when SetPhone has told all phones.
func (g *Guard) DropFormer() error {
	entries, err := os.ReadDir(string(g.pins))
	if err != nil {
		return fmt.Errorf("appguard: %w", err)
	}
	for _, e := range entries {
		if path := filepath.Join(string(g.pins), e.Name()); path != g.pins.dir() {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("appguard: %w", err)
			}
		}
	}
	return nil
}
