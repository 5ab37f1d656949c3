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
		return nil, fmt.Errorf("denials of slot %d: %w", slot, pinned.Classed(err))
	}
	return list, nil
}

func denialsIn(m *ebpf.Map) ([]Denial, error) {
	var all []Denial
	at := pinned.Now()
	for e, err := range pinned.Elements[bpfDenialKey, bpfDenial](m) {
		if err != nil {
			return nil, err
		}
		denial := denialOf(e.Key)
		denial.Count, denial.Bytes, denial.First, denial.Last = e.Value.Count, e.Value.Bytes, at.Time(e.Value.First), at.Time(e.Value.Last)
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
	defer d.slots.Lock(slot)()
	taken, err := d.takeDenials(slot)
	if err != nil {
		return fmt.Errorf("drain denials of slot %d: %w", slot, pinned.Classed(err))
	}
	var list []Denial
	if taken != nil {
		defer taken.Close()
		if list, err = denialsIn(taken); err != nil {
			return fmt.Errorf("drain denials of slot %d: %w", slot, pinned.Classed(err))
		}
	}
	counters, err := d.Counters(slot)
	if err != nil {
		return err
	}
	var reported uint64
	if err := d.maps.reported.Lookup(slot, &reported); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("drain denials of slot %d: %w", slot, pinned.Classed(err))
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
			return fmt.Errorf("drain denials of slot %d: %w", slot, pinned.Classed(err))
		}
	}
	if err := pinned.Unpin(d.pins.draining(slot)); err != nil {
		return fmt.Errorf("drain denials of slot %d: %w", slot, err)
	}
	return nil
}

// takeDenials returns a table that no program uses any more, nil when there are no denials. The slot is locked.
func (d *Datapath) takeDenials(slot uint32) (*ebpf.Map, error) {
	if slot >= d.maxPhones {
		return nil, noSlot(slot, d.maxPhones)
	}
	return pinned.Take(d.maps.denials, d.specs.denials, slot, d.pins.draining(slot))
}
