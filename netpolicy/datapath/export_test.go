package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/phonehost/phonehost/netpolicy/pinned"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// OpenAs is Open of a build whose programs are another version: the same ones, which the kernel loads once more.
func OpenAs(c Config, version string) (*Datapath, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	return openAs(c, version)
}

// ProgramIDs are the kernel's numbers of the programs that Attach attaches.
func (d *Datapath) ProgramIDs() map[string]uint32 { return d.programs.ids }

// MapIDs are the kernel's numbers of the pinned maps.
func (d *Datapath) MapIDs() map[string]ebpf.MapID {
	all := map[string]ebpf.MapID{}
	for name, m := range d.pinned {
		all[name], _ = pinned.ID(m)
	}
	return all
}

// Elements counts what the maps hold, of all phones together.
func (d *Datapath) Elements() (map[string]int, error) {
	all := map[string]int{}
	for name, m := range d.pinned {
		n, err := count(m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if n > 0 {
			all[name] = n
		}
	}
	return all, nil
}

func count(m *ebpf.Map) (n int, err error) {
	switch m.Type() {
	case ebpf.ArrayOfMaps:
		slots, err := pinned.Occupied(m)
		return len(slots), err
	case ebpf.Hash:
		key := make([]byte, m.KeySize())
		for err = m.NextKey(nil, key); err == nil; err = m.NextKey(key, key) {
			n++
		}
	}
	return n, nil
}

// Deny writes a denial as a program would.
func (d *Datapath) Deny(slot uint32, port uint16, count uint64) error {
	m, err := pinned.Inner(d.maps.denials, slot)
	if err != nil {
		return err
	}
	defer m.Close()
	key := bpfDenialKey{Peer: [16]byte{10: 0xff, 11: 0xff, 12: 192, 14: 2, 15: 1}, Rule: RuleDefault, Port: port, Protocol: 6, Reason: uint8(ReasonDefault)}
	at := pinned.Now()
	return m.Put(key, bpfDenial{Count: count, Bytes: 60 * count, First: at.Kernel - 1e9, Last: at.Kernel})
}

// Track writes a flow as a program would.
func (d *Datapath) Track(slot uint32, port uint16, expires int64) error {
	m, err := pinned.Inner(d.maps.flows, slot)
	if err != nil {
		return err
	}
	defer m.Close()
	at := pinned.Now()
	key := bpfFlowKey{Peer: [16]byte{10: 0xff, 11: 0xff, 12: 192, 14: 2, 15: 1}, PeerPort: 443, PhonePort: port, Protocol: 6}
	return m.Put(key, bpfFlow{Started: at.Kernel - 100, Expires: uint64(int64(at.Kernel) + expires), Generation: 7, Rule: 3, State: 1, Packets: [2]uint64{2, 1}, Bytes: [2]uint64{100, 50}})
}

// Unlist counts dropped packets that found no room, as a program would on the first processor.
func (d *Datapath) Unlist(slot uint32, n uint64) error {
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	each := make([]bpfCounters, processors)
	each[0].Unlisted = n
	return d.maps.counters.Put(slot, each)
}

// ProgramFD is the file descriptor of a program.
func (d *Datapath) ProgramFD(name string) int { return d.programs.byName[name].FD() }

// Cells reads the object of a policy.
func (d *Datapath) Cells(slot uint32) ([]policy.Cell, error) { return cells(d.maps.policies, slot) }

// ProtectedCells reads what is protected.
func (d *Datapath) ProtectedCells() ([]policy.Cell, error) { return cells(d.maps.protected, 0) }

func cells(outer *ebpf.Map, slot uint32) ([]policy.Cell, error) {
	m, err := pinned.Inner(outer, slot)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	all := make([]policy.Cell, m.MaxEntries())
	for i := range all {
		if err := m.Lookup(uint32(i), &all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// WriteCell tries to change an object that is in force.
func (d *Datapath) WriteCell(slot uint32) error {
	m, err := pinned.Inner(d.maps.policies, slot)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Put(uint32(0), policy.Cell{})
}

// NamesOf returns by which names an address is open for the phone in a slot, and until when.
func (d *Datapath) NamesOf(slot uint32, address netip.Addr) map[uint64]time.Time {
	var v bpfNameValue
	if err := d.maps.names.Lookup(bpfNameKey{Slot: slot, Address: bytes16(address)}, &v); err != nil {
		return nil
	}
	at := pinned.Now()
	all := map[uint64]time.Time{}
	for _, l := range v.Lease {
		if l.Id != 0 {
			all[l.Id] = at.Time(l.Until)
		}
	}
	return all
}

// FlowElements counts the elements of a phone's table of flows, expired or not.
func (d *Datapath) FlowElements(slot uint32) (int, error) {
	m, err := pinned.Inner(d.maps.flows, slot)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	return count(m)
}

// SecondVersion loads the programs once more, as another version, and returns what has Attach attach the one and the other by turns.
func (d *Datapath) SecondVersion() (alternate func(), err error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, err
	}
	all, err := d.loadPrograms(spec, d.pins.programs("second"))
	if err != nil {
		return nil, err
	}
	other, err := numbered(all)
	return func() { d.programs, other = other, d.programs }, err
}

// Clear takes away all phones, policies and protected addresses.
func (d *Datapath) Clear() error {
	phones, err := d.Phones()
	if err != nil {
		return err
	}
	for link := range phones {
		err = errors.Join(err, d.RemovePhone(link))
	}
	attached, err2 := d.Attached()
	err = errors.Join(err, err2)
	for id := range attached {
		err = errors.Join(err, d.Detach(id))
	}
	policies, err2 := pinned.Occupied(d.maps.policies)
	err = errors.Join(err, err2)
	for _, slot := range policies {
		err = errors.Join(err, d.UnloadPolicy(slot))
	}
	return errors.Join(err, d.clearOrphans(), pinned.DeleteKey(d.maps.protected, uint32(0)))
}
