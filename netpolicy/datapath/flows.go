package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/pinned"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Flow is a flow of a phone.
type Flow struct {
	// Direction is who began it.
	Direction policy.Direction
	Protocol  policy.Protocol
	// Peer's port is 0 for ICMP. Port is the phone's, or ICMP's identifier.
	Peer  netip.AddrPort
	Port  uint16
	State State
	// Rule is the index of the rule that allowed it, or RuleDefault, RuleGateway, RuleForward.
	Rule uint32
	// Name is the id of the name that its rule has, 0 for none: policy.NameID.
	Name uint64
	// Generation is that of the policy that allowed it.
	Generation uint64
	// Started and Seen are its first and last packet; Expires is when it ends without another.
	Started, Seen, Expires time.Time
	// Packets and Bytes by direction of the packet.
	Packets, Bytes [2]uint64
}

// Flows returns the live flows of the phone in a slot, in no order. Fragments of packets on their way are none.
// errdefs.ErrInvalidArgument: there is no such slot.
func (d *Datapath) Flows(slot uint32) ([]Flow, error) {
	m, err := d.table(d.maps.flows, slot)
	if m == nil || err != nil {
		return nil, err
	}
	defer m.Close()
	var all []Flow
	at := pinned.Now()
	for e, err := range pinned.Elements[bpfFlowKey, bpfFlow](m) {
		if err != nil {
			return nil, fmt.Errorf("flows of slot %d: %w", slot, pinned.Classed(err))
		}
		if e.Key.Fragment == 0 && e.Value.Expires > at.Kernel {
			all = append(all, d.flowOf(at, e.Key, e.Value))
		}
	}
	return all, nil
}

// table opens the table of a slot, nil for one without a phone.
func (d *Datapath) table(outer *ebpf.Map, slot uint32) (*ebpf.Map, error) {
	if slot >= d.maxPhones {
		return nil, noSlot(slot, d.maxPhones)
	}
	m, err := pinned.Inner(outer, slot)
	return m, pinned.Classed(err)
}

func noSlot(slot, slots uint32) error {
	return fmt.Errorf("slot %d: slots are below %d: %w", slot, slots, errdefs.ErrInvalidArgument)
}

func (d *Datapath) flowOf(at pinned.Moment, k bpfFlowKey, f bpfFlow) Flow {
	flow := Flow{
		Direction: policy.Direction(f.Direction), Protocol: protocolOf(k.Protocol), Peer: netip.AddrPortFrom(addrOf(k.Peer), k.PeerPort), Port: k.PhonePort,
		State: State(f.State), Rule: f.Rule, Name: f.Name, Generation: f.Generation, Started: at.Time(f.Started), Expires: at.Time(f.Expires),
		Packets: f.Packets, Bytes: f.Bytes,
	}
	flow.Seen = flow.Expires.Add(-d.timeouts.of(flow.Protocol, flow.State))
	if flow.Seen.Before(flow.Started) {
		flow.Seen = flow.Started
	}
	return flow
}

// protocolOf is a number of the IP header as rules know it; Any for one that they do not.
func protocolOf(number uint8) policy.Protocol {
	switch number {
	case unix.IPPROTO_TCP:
		return policy.TCP
	case unix.IPPROTO_UDP:
		return policy.UDP
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return policy.ICMP
	}
	return policy.Any
}

// of is how long a flow lives after a packet.
func (t Timeouts) of(p policy.Protocol, s State) time.Duration {
	switch p {
	case policy.TCP:
		return [...]time.Duration{t.TCPNew, t.TCPEstablished, t.TCPClosing, t.TCPClosed}[min(s, 3)]
	case policy.UDP:
		return [...]time.Duration{t.UDPNew, t.UDPEstablished}[min(s, 1)]
	}
	return t.ICMP
}

// Sweep removes the expired flows of the phone in a slot, which the programs do not see any more but which take memory. The programs do
// so themselves when a table is full.
func (d *Datapath) Sweep(slot uint32) error {
	m, err := d.table(d.maps.flows, slot)
	if m == nil || err != nil {
		return err
	}
	defer m.Close()
	at := pinned.Now()
	for e, err := range pinned.Elements[bpfFlowKey, bpfFlow](m) {
		if err != nil {
			return fmt.Errorf("sweep slot %d: %w", slot, pinned.Classed(err))
		}
		if e.Value.Expires > at.Kernel {
			continue
		}
		if err := sweepFlow(m, e.Key, at); err != nil {
			return fmt.Errorf("sweep slot %d: %w", slot, pinned.Classed(err))
		}
	}
	return nil
}

// sweepFlow removes a flow that has expired. One that a packet has revived since it was read is put back.
func sweepFlow(m *ebpf.Map, key bpfFlowKey, at pinned.Moment) error {
	var f bpfFlow
	err := m.LookupAndDelete(key, &f)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	if err != nil || f.Expires <= at.Kernel {
		return err
	}
	if err := m.Update(key, f, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return err
	}
	return nil
}
