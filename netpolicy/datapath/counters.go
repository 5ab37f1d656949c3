package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// maxReasons is MAX_REASONS of layout.h.
const maxReasons = 32

// Counters are a phone's totals since SetPhone made it.
type Counters struct {
	// Packets and Bytes that passed, by the direction of the packet: policy.Egress left the phone.
	Packets, Bytes [2]uint64
	// Dropped packets by Reason.
	Dropped [maxReasons]uint64
	// Unlisted is how many dropped packets found no room in the table of denials.
	Unlisted uint64
	// Lost is how many events found no room in the ring.
	Lost uint64
}

// Counters returns the totals of the phone in a slot. errdefs.ErrInvalidArgument: there is no such slot.
func (d *Datapath) Counters(slot uint32) (Counters, error) {
	if slot >= d.maxPhones {
		return Counters{}, fmt.Errorf("counters of slot %d: slots are below %d: %w", slot, d.maxPhones, errdefs.ErrInvalidArgument)
	}
	var each []bpfCounters
	if err := d.maps.counters.Lookup(slot, &each); err != nil {
		return Counters{}, fmt.Errorf("counters of slot %d: %w", slot, pinned.Classed(err))
	}
	var sum Counters
	for _, c := range each {
		for i := range sum.Packets {
			sum.Packets[i] += c.Packets[i]
			sum.Bytes[i] += c.Bytes[i]
		}
		for i := range sum.Dropped {
			sum.Dropped[i] += c.Dropped[i]
		}
		sum.Unlisted += c.Unlisted
		sum.Lost += c.Lost
	}
	return sum, nil
}

// zeroCounters is for slots that no link has.
func (d *Datapath) zeroCounters(slot uint32) error {
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	if err := d.maps.counters.Put(slot, make([]bpfCounters, processors)); err != nil {
		return fmt.Errorf("map counters: %w", err)
	}
	return nil
}
