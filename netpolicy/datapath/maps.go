package datapath

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// maps are the pinned maps, as layout.h tells, and one of Go's own.
type maps struct {
	clients, counters, denials, events, flows, forwards, names, phones, policies, protected, settings *ebpf.Map
	reported                                                                                          *ebpf.Map
}

// tables are what the maps of maps hold.
type tables struct {
	flows, denials, policies, protected *ebpf.MapSpec
}

// mapReported is how many unlisted drops of a slot DrainDenials has reported, by slot.
const mapReported = "reported"

// mapSpecs says what maps a Config wants, and adapts the object's.
func mapSpecs(c Config, spec *ebpf.CollectionSpec) (map[string]*ebpf.MapSpec, tables) {
	all := map[string]*ebpf.MapSpec{
		mapReported: {Name: mapReported, Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: c.MaxPhones, Flags: pinned.NoPrealloc},
	}
	for name, s := range spec.Maps {
		all[name] = s
	}
	for _, bySlot := range []string{bpfMapFlows, bpfMapDenials, bpfMapCounters, bpfMapSweeps, bpfMapPhones} {
		all[bySlot].MaxEntries = c.MaxPhones
	}
	all[bpfMapClients].MaxEntries = 2 * c.MaxPhones
	all[bpfMapNames].MaxEntries = namesPerPhone * c.MaxPhones
	all[bpfMapFlows].InnerMap.MaxEntries = c.MaxFlows
	all[bpfMapPolicies].InnerMap.Flags |= mmapable
	all[bpfMapProtected].InnerMap.Flags |= mmapable
	for _, outer := range []string{bpfMapFlows, bpfMapDenials, bpfMapPolicies, bpfMapProtected} {
		all[outer].InnerMap = pinned.Plain(all[outer])
	}
	return all, tables{
		flows: all[bpfMapFlows].InnerMap, denials: all[bpfMapDenials].InnerMap, policies: all[bpfMapPolicies].InnerMap, protected: all[bpfMapProtected].InnerMap,
	}
}

// mmapable is BPF_F_MMAPABLE (linux/bpf.h).
const mmapable = 1 << 10

// openMaps finds the maps pinned, or makes and pins them. The error wraps ebpf.ErrMapIncompatible for one that is there and is another.
func (d *Datapath) openMaps(specs map[string]*ebpf.MapSpec) error {
	d.pinned = map[string]*ebpf.Map{}
	d.mapIDs = nil
	for name, spec := range specs {
		m, err := pinned.OpenMap(d.pins.mapPin(name), spec)
		if err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
		d.pinned[name] = m
		id, err := pinned.ID(m)
		if err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
		d.mapIDs = append(d.mapIDs, id)
	}
	d.maps = maps{
		clients: d.pinned[bpfMapClients], counters: d.pinned[bpfMapCounters], denials: d.pinned[bpfMapDenials], events: d.pinned[bpfMapEvents],
		flows: d.pinned[bpfMapFlows], forwards: d.pinned[bpfMapForwards], names: d.pinned[bpfMapNames], phones: d.pinned[bpfMapPhones],
		policies: d.pinned[bpfMapPolicies], protected: d.pinned[bpfMapProtected], settings: d.pinned[bpfMapSettings], reported: d.pinned[mapReported],
	}
	return nil
}

// replaceMaps takes away the maps that do not serve, with all that works on them, if no phone would notice.
func (d *Datapath) replaceMaps(cause error) error {
	attached, err := d.attached()
	if err != nil {
		return err
	}
	if len(attached) > 0 {
		return fmt.Errorf("%w: it serves %d phones, and is not what this configuration wants; to change it restart the host, or remove all phones' networks: %w",
			cause, len(attached), errdefs.ErrFailedPrecondition)
	}
	d.log.Info("pinned maps are made anew", "cause", cause)
	pinned.CloseMaps(d.pinned)
	if err := os.RemoveAll(d.pins.dir()); err != nil {
		return err
	}
	return d.pins.make()
}
