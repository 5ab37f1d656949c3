package appguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// layout is LAYOUT of layout.h.
const layout = 1

// pins are the paths below a Config's Dir.
type pins string

func (p pins) dir() string                    { return filepath.Join(string(p), "v"+strconv.Itoa(layout)) }
func (p pins) mapPin(name string) string      { return filepath.Join(p.dir(), name) }
func (p pins) programs(version string) string { return filepath.Join(p.dir(), "programs", version) }
func (p pins) links(version string) string    { return filepath.Join(p.dir(), "links", version) }
func (p pins) cgroup(program string) string   { return filepath.Join(p.dir(), "cgroup", program) }
func (p pins) draining(slot uint32) string {
	return filepath.Join(p.dir(), "draining", strconv.FormatUint(uint64(slot), 10))
}

// make makes the directories. An error has class errdefs.ErrFailedPrecondition where there is no BPF file system.
func (p pins) make() error {
	if err := pinned.OnBPF(string(p)); err != nil {
		return err
	}
	for _, sub := range []string{"programs", "links", "cgroup", "draining"} {
		if err := os.MkdirAll(filepath.Join(p.dir(), sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// Maps of Go's own.
const (
	mapDigests  = "digests"
	mapStates   = "states"
	mapReported = "reported"
)

// digest is a SHA-256.
type digest [32]byte

// state is what SetPhone was told last for a slot.
type state struct {
	Cgroup uint64
	Digest digest
}

// reported is how many unlisted refusals of a slot were reported, by kind.
type reported [bpfDenialKindDENIAL_KINDS]uint64

// pinnedMaps are the maps.
type pinnedMaps struct {
	counters, denials, events, names, phones, settings, uids *ebpf.Map
	digests, states, reported                                *ebpf.Map
}

// tables are what the maps of maps hold.
type tables struct {
	names, uids, denials *ebpf.MapSpec
}

// mapSpecs says what maps a number of slots wants, and adapts the object's.
func mapSpecs(slots uint32, spec *ebpf.CollectionSpec) (map[string]*ebpf.MapSpec, tables) {
	all := map[string]*ebpf.MapSpec{
		mapDigests:  {Name: mapDigests, Type: ebpf.Array, KeySize: 4, ValueSize: 32, MaxEntries: 2 * slots},
		mapStates:   {Name: mapStates, Type: ebpf.Hash, KeySize: 4, ValueSize: 40, MaxEntries: slots, Flags: pinned.NoPrealloc},
		mapReported: {Name: mapReported, Type: ebpf.Hash, KeySize: 4, ValueSize: 32, MaxEntries: slots, Flags: pinned.NoPrealloc},
	}
	for name, s := range spec.Maps {
		all[name] = s
	}
	for _, bySlot := range []string{bpfMapCounters, bpfMapDenials} {
		all[bySlot].MaxEntries = slots
	}
	// While a phone changes it may have two of each: cgroups, tables, tries.
	for _, twice := range []string{bpfMapPhones, bpfMapNames, bpfMapUids} {
		all[twice].MaxEntries = 2 * slots
	}
	for _, outer := range []string{bpfMapNames, bpfMapUids, bpfMapDenials} {
		all[outer].InnerMap = pinned.Plain(all[outer])
	}
	return all, tables{names: all[bpfMapNames].InnerMap, uids: all[bpfMapUids].InnerMap, denials: all[bpfMapDenials].InnerMap}
}

// openMaps finds the maps pinned, or makes and pins them. The error wraps ebpf.ErrMapIncompatible for one that is there and is another.
func (g *Guard) openMaps(specs map[string]*ebpf.MapSpec) error {
	g.pinned = map[string]*ebpf.Map{}
	for name, spec := range specs {
		m, err := pinned.OpenMap(g.pins.mapPin(name), spec)
		if err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
		g.pinned[name] = m
	}
	g.maps = pinnedMaps{
		counters: g.pinned[bpfMapCounters], denials: g.pinned[bpfMapDenials], events: g.pinned[bpfMapEvents], names: g.pinned[bpfMapNames],
		phones: g.pinned[bpfMapPhones], settings: g.pinned[bpfMapSettings], uids: g.pinned[bpfMapUids], digests: g.pinned[mapDigests],
		states: g.pinned[mapStates], reported: g.pinned[mapReported],
	}
	g.slotCount = g.maps.counters.MaxEntries()
	return nil
}

// replaceMaps takes away maps that do not serve, with all that works on them, if no phone would notice.
func (g *Guard) replaceMaps(cause error) error {
	pinned.CloseMaps(g.pinned)
	g.pinned = nil
	used, err := phonesAt(g.pins.mapPin(bpfMapPhones))
	if err != nil {
		return err
	}
	if used > 0 {
		return fmt.Errorf("%w: %d phones use it, and it is not what this configuration wants; to change it restart the host, or take all phones off their lists: %w",
			cause, used, errdefs.ErrFailedPrecondition)
	}
	g.log.Info("pinned maps are made anew", "cause", cause)
	if err := os.RemoveAll(g.pins.dir()); err != nil {
		return err
	}
	return g.pins.make()
}

// phonesAt counts the phones in a pinned map but for the canary, which has the last slot.
func phonesAt(path string) (int, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("pinned at %s: %w", path, err)
	}
	defer m.Close()
	n := 0
	for e, err := range pinned.Elements[uint64, bpfPhone](m) {
		if err != nil {
			return 0, err
		}
		if e.Value.Uids/2 != m.MaxEntries()/2-1 {
			n++
		}
	}
	return n, nil
}

// zeroSlot makes the counters of a slot begin anew.
func (g *Guard) zeroSlot(slot uint32) error {
	return errors.Join(g.maps.counters.Put(slot, bpfCounters{}), pinned.DeleteKey(g.maps.reported, slot))
}
