package datapath

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/pinned"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Verdict is what the programs would do with a packet.
type Verdict struct {
	// Reason is ReasonNone for a packet that passes.
	Reason Reason
	// Class is what the peer belongs to, and Bits the length of its protected prefix, IPv4's as 96 + its own.
	Class Class
	Bits  uint8
	// Begins tells that the packet begins a flow, or would if it passed.
	Begins bool
	// Rule is the index of the rule that decides, or one of RuleDefault...RuleNone; Name is the id of its name, or 0.
	Rule uint32
	Name uint64
}

// Allowed tells whether the packet passes.
func (v Verdict) Allowed() bool { return v.Reason == ReasonNone }

// testContext is struct __sk_buff (linux/bpf.h), with room for what kernels add to its 192 bytes.
type testContext struct {
	_       [2]uint32 // len, pkt_type
	Mark    uint32
	_       [6]uint32 // queue_mapping...ingress_ifindex
	_       uint32
	Ifindex uint32
	_       uint32 // tc_index
	CB      [5]uint32
	_       [47]uint32
}

// Judge asks the programs what they would do now with a packet on a link, whole with its Ethernet header: policy.Egress as one that the phone
// sends. Nothing changes by it: no flow begins, nothing is counted. errdefs.ErrNotFound: there is no such link.
func (d *Datapath) Judge(ifindex int, direction policy.Direction, packet []byte) (Verdict, error) {
	if ifindex < 1 || len(packet) < 14 {
		return Verdict{}, fmt.Errorf("judge a packet of %d bytes on link %d: it has 14 or more: %w", len(packet), ifindex, errdefs.ErrInvalidArgument)
	}
	in := testContext{Mark: uint32(direction), Ifindex: uint32(ifindex)}
	var out testContext
	if _, err := d.programs.byName["judge"].Run(&ebpf.RunOptions{Data: packet, Context: in, ContextOut: &out}); err != nil {
		return Verdict{}, fmt.Errorf("judge a packet on link %d: %w", ifindex, pinned.Classed(err))
	}
	v := *(*bpfVerdict)(unsafe.Pointer(&out.CB))
	return Verdict{
		Reason: Reason(v.Reason), Class: Class(v.Class), Bits: v.Bits, Begins: v.Begins != 0, Rule: v.Rule, Name: uint64(v.Name[0]) | uint64(v.Name[1])<<32,
	}, nil
}
