package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Denial is dropped packets that are alike.
type Denial struct {
	// Direction is that of the packets.
	Direction policy.Direction
	// Protocol is the number in the IP header; 0 where there is none.
	Protocol uint8
	// Peer is the zero value where there is none.
	Peer netip.Addr
	// Port is the peer's for what the phone sent, else the phone's.
	Port   uint16
	Reason Reason
	Class  Class
	// Rule is the index of the rule that decided, RuleDefault, or RuleNone when none was asked.
	Rule uint32
	// Count is how many packets, and Bytes how long they were together.
	Count, Bytes uint64
	First, Last  time.Time
}

// Denials returns what the table of the phone in a slot holds and DrainDenials has not taken yet. errdefs.ErrInvalidArgument: there is no such slot.
func (d *Datapath) Denials(slot uint32) ([]Denial, error) {
	m, err := d.table(d.maps.denials, slot)
	if m == nil || err != nil {
		return nil, err
	}
	defer m.Close()
	list, err := denialsIn(m)
	if err != nil {
		return nil, fmt.Errorf("denials of slot %d: %w", slot, classed(err))
	}
	return list, nil
}

func denialsIn(m *ebpf.Map) ([]Denial, error) {
	var all []Denial
	at := now()
	for e, err := range elements[bpfDenialKey, bpfDenial](m) {
		if err != nil {
			return nil, err
		}
		denial := denialOf(e.key)
		denial.Count, denial.Bytes, denial.First, denial.Last = e.value.Count, e.value.Bytes, at.time(e.value.First), at.time(e.value.Last)
		all = append(all, denial)
	}
	return all, nil
}

// denialOf is a denial without its counts.
func denialOf(k bpfDenialKey) Denial {
	return Denial{
		Direction: policy.Direction(k.Direction), Protocol: k.Protocol, Peer: addrOf(k.Peer), Port: k.Port, Reason: Reason(k.Reason), Class: Class(k.Class), Rule: k.Rule,
	}
}

// DrainDenials takes the denials of the phone in a slot and reports them; report is not called when there are none. Dropped packets that
// found no room in the table come as one Denial of ReasonOther, which has a Count alone.
//
// No packet is lost to it, and none reported twice: the table is replaced by an empty one, and read when the kernel says that no program
// uses it any more (a grace period of RCU). What was taken stays pinned until report returns without an error: else, or when the process is killed
// before, the next call reports it, so that a reader that was killed between may see the same once more.
func (d *Datapath) DrainDenials(slot uint32, report func([]Denial) error) error {
	defer d.slots.lock(slot)()
	taken, err := d.takeDenials(slot)
	if err != nil {
		return fmt.Errorf("drain denials of slot %d: %w", slot, classed(err))
	}
	var list []Denial
	if taken != nil {
		defer taken.Close()
		if list, err = denialsIn(taken); err != nil {
			return fmt.Errorf("drain denials of slot %d: %w", slot, classed(err))
		}
	}
	counters, err := d.Counters(slot)
	if err != nil {
		return err
	}
	var reported uint64
	if err := d.maps.reported.Lookup(slot, &reported); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("drain denials of slot %d: %w", slot, classed(err))
	}
	if counters.Unlisted > reported {
		list = append(list, Denial{Reason: ReasonOther, Rule: RuleNone, Count: counters.Unlisted - reported})
	}
	if len(list) > 0 {
		if err := report(list); err != nil {
			return err
		}
	}
	if counters.Unlisted > reported {
		if err := d.maps.reported.Put(slot, counters.Unlisted); err != nil {
			return fmt.Errorf("drain denials of slot %d: %w", slot, classed(err))
		}
	}
	if err := removePin(d.pins.draining(slot)); err != nil {
		return fmt.Errorf("drain denials of slot %d: %w", slot, err)
	}
	return nil
}

// takeDenials returns a table that no program uses any more, nil when there are no denials. The slot is locked.
func (d *Datapath) takeDenials(slot uint32) (_ *ebpf.Map, err error) {
	current, err := d.table(d.maps.denials, slot)
	if current == nil || err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			current.Close()
		}
	}()
	path := d.pins.draining(slot)
	former, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if former != nil {
		same, err := sameMap(former, current)
		if !same || err != nil { // taken before, and not reported
			current.Close()
			return former, err
		}
		former.Close()
	} else {
		if empty, err := isEmpty(current); empty || err != nil {
			current.Close()
			return nil, err
		}
		if err := current.Pin(path); err != nil {
			return nil, err
		}
	}
	if err := putTable(d.maps.denials, d.specs.denials, slot); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return current, nil
}

// sameMap tells whether two handles are of one map.
func sameMap(a, b *ebpf.Map) (bool, error) {
	x, err := mapID(a)
	if err != nil {
		return false, err
	}
	y, err := mapID(b)
	return x == y, err
}

func mapID(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, &UnsupportedError{Feature: "ids of maps", Since: "Linux 4.13", Err: ebpf.ErrNotSupported}
	}
	return id, nil
}

func isEmpty(m *ebpf.Map) (bool, error) {
	var key bpfDenialKey
	err := m.NextKey(nil, &key)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return true, nil
	}
	return false, err
}
