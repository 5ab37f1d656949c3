package appguard

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// Kind is what was refused. The numbers are those of enum denial_kind.
type Kind uint32

// The kinds.
const (
	KindInstall = Kind(bpfDenialKindDENIAL_INSTALL)
	KindLaunch  = Kind(bpfDenialKindDENIAL_LAUNCH)
	KindNetwork = Kind(bpfDenialKindDENIAL_NETWORK)
)

// kinds are all of them.
var kinds = []Kind{KindInstall, KindLaunch, KindNetwork}

// String is the word for a kind.
func (k Kind) String() string {
	switch k {
	case KindInstall:
		return "install"
	case KindLaunch:
		return "launch"
	case KindNetwork:
		return "network"
	}
	return fmt.Sprintf("kind %d", uint32(k))
}

// Denial is refusals that are alike.
type Denial struct {
	Kind Kind
	// UID is the app's that was not to run or to have a network; of an installation that of the process that installs.
	UID uint32
	// Package is what was not to be installed, as its directory has it: any bytes but zero and "/".
	Package string
	// Unlisted refusals found no room in the table: of them a Kind and a Count alone are known.
	Unlisted bool
	// Count is how many.
	Count       uint64
	First, Last time.Time
}

// DrainDenials takes the denials of the phone in a slot and reports them; report is not called when there are none.
//
// No refusal is lost to it, and none reported twice: the table is replaced by an empty one, and read when the kernel says that no program
// uses it any more (a grace period of RCU). What was taken stays pinned until report returns without an error: else, or when the process is killed
// before, the next call reports it, so that a reader that was killed between may see the same once more.
func (g *Guard) DrainDenials(slot uint32, report func([]Denial) error) error {
	defer g.slots.Lock(slot)()
	if err := g.drain(slot, report); err != nil {
		return fmt.Errorf("drain denials of slot %d: %w", slot, pinned.Classed(err))
	}
	return nil
}

func (g *Guard) drain(slot uint32, report func([]Denial) error) error {
	if slot >= g.slotCount {
		return noSlot(g.slotCount)
	}
	taken, err := pinned.Take(g.maps.denials, g.specs.denials, slot, g.pins.draining(slot))
	if err != nil {
		return err
	}
	var list []Denial
	if taken != nil {
		defer taken.Close()
		if list, err = denialsIn(taken); err != nil {
			return err
		}
	}
	unlisted, total, err := g.unlisted(slot)
	if err != nil {
		return err
	}
	if list = append(list, unlisted...); len(list) > 0 {
		if err := report(list); err != nil {
			return err
		}
	}
	if len(unlisted) > 0 {
		if err := g.maps.reported.Put(slot, total); err != nil {
			return fmt.Errorf("map reported: %w", err)
		}
	}
	return pinned.Unpin(g.pins.draining(slot))
}

// unlisted returns what found no room since it was reported last, and how many there were in all.
func (g *Guard) unlisted(slot uint32) (list []Denial, total reported, err error) {
	var c bpfCounters
	if err := g.maps.counters.Lookup(slot, &c); err != nil {
		return nil, total, fmt.Errorf("map counters: %w", err)
	}
	var former reported
	if err := g.maps.reported.Lookup(slot, &former); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, total, fmt.Errorf("map reported: %w", err)
	}
	total = c.Unlisted
	for _, k := range kinds {
		if n := total[k] - former[k]; n > 0 {
			list = append(list, Denial{Kind: k, Unlisted: true, Count: n})
		}
	}
	return list, total, nil
}

// denialsIn reads a table of denials.
func denialsIn(m *ebpf.Map) ([]Denial, error) {
	var all []Denial
	at := pinned.Now()
	for e, err := range pinned.Elements[bpfDenialKey, bpfDenial](m) {
		if err != nil {
			return nil, err
		}
		name, _, _ := bytes.Cut(e.Key.Name[:], []byte{0})
		all = append(all, Denial{
			Kind: Kind(e.Key.Kind), UID: e.Key.Number, Package: string(name), Count: e.Value.Count, First: at.Time(e.Value.First), Last: at.Time(e.Value.Last),
		})
	}
	return all, nil
}

// Counters are a phone's totals since SetPhone made it.
type Counters struct {
	// Denied is how many were refused, by Kind, and Unlisted how many of them found no room in the table of denials.
	Denied, Unlisted map[Kind]uint64
	// Lost is how many events found no room.
	Lost uint64
}

// Counters returns the totals of the phone in a slot. errdefs.ErrInvalidArgument: there is no such slot.
func (g *Guard) Counters(slot uint32) (Counters, error) {
	if slot >= g.slotCount {
		return Counters{}, fmt.Errorf("counters of slot %d: %w", slot, noSlot(g.slotCount))
	}
	var c bpfCounters
	if err := g.maps.counters.Lookup(slot, &c); err != nil {
		return Counters{}, fmt.Errorf("counters of slot %d: %w", slot, pinned.Classed(err))
	}
	all := Counters{Denied: map[Kind]uint64{}, Unlisted: map[Kind]uint64{}, Lost: c.Lost}
	for _, k := range kinds {
		all.Denied[k], all.Unlisted[k] = c.Denied[k], c.Unlisted[k]
	}
	return all, nil
}

func noSlot(slots uint32) error {
	return fmt.Errorf("slots are below %d: %w", slots-1, errdefs.ErrInvalidArgument)
}
