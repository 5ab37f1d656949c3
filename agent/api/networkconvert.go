package api

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// The numbers of protocols and reasons are the same in the engine and in the API (a test compares them); directions count from 1 here.

// addressText is an address as the API writes it; none is empty.
func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

// addressFromProto reads an address; empty is none.
func addressFromProto(field, text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fault.Field(field, "%q must be an IP address", fault.Clip(text))
	}
	return a.Unmap(), nil
}

// networkFromProto reads what a phone's network should be.
func networkFromProto(m *phonehostv1.NetworkSpec) (n phone.Network, err error) {
	n = phone.Network{Policy: m.GetPolicy(), UpBits: m.GetUpBitsPerSecond(), DownBits: m.GetDownBitsPerSecond()}
	if n.IPv4, err = addressFromProto("spec.network.ipv4", m.GetIpv4()); err != nil {
		return n, err
	}
	if n.IPv6, err = addressFromProto("spec.network.ipv6", m.GetIpv6()); err != nil {
		return n, err
	}
	for i, f := range m.GetForwards() {
		forward, err := forwardFromProto("spec.network.forwards["+strconv.Itoa(i)+"]", f)
		if err != nil {
			return n, err
		}
		n.Forwards = append(n.Forwards, forward)
	}
	return n, nil
}

func networkToProto(n phone.Network) *phonehostv1.NetworkSpec {
	m := &phonehostv1.NetworkSpec{
		Ipv4: addressText(n.IPv4), Ipv6: addressText(n.IPv6), Policy: n.Policy, UpBitsPerSecond: n.UpBits, DownBitsPerSecond: n.DownBits,
	}
	for _, f := range n.Forwards {
		m.Forwards = append(m.Forwards, forwardToProto(f))
	}
	return m
}

// forwardFromProto reads a forward; package phone says whether it can be.
func forwardFromProto(field string, m *phonehostv1.Forward) (phone.Forward, error) {
	f := phone.Forward{Protocol: policy.Protocol(min(m.GetProtocol(), 255)), Port: uint16(m.GetPort())}
	if m.GetPort() > 65535 {
		return f, fault.Field(field+".port", "%d must be 1..65535", m.GetPort())
	}
	listen, err := netip.ParseAddrPort(m.GetListen())
	if err != nil {
		return f, fault.Field(field+".listen", "%q must be ADDRESS:PORT, such as 127.0.0.1:6001 or [2001:db8::1]:6001", fault.Clip(m.GetListen()))
	}
	f.Listen = listen
	return f, nil
}

func forwardToProto(f phone.Forward) *phonehostv1.Forward {
	return &phonehostv1.Forward{Listen: f.Listen.String(), Protocol: phonehostv1.NetworkProtocol(f.Protocol), Port: uint32(f.Port)}
}

// networkStateToProto is what a phone has of a network; nil where it has no address.
func networkStateToProto(s phone.Snapshot) *phonehostv1.NetworkState {
	r := s.Record
	if !r.IPv4.IsValid() {
		return nil
	}
	return &phonehostv1.NetworkState{
		Ipv4: addressText(r.IPv4), Ipv6: addressText(r.IPv6), Cut: r.NetworkCut, InForce: s.NetworkInForce, Problem: s.NetworkProblem,
	}
}

func phoneNetworkToProto(snap phone.Snapshot, pools phone.Pools, s netpolicy.Status) *phonehostv1.PhoneNetwork {
	r := snap.Record
	ipv4, ipv6 := pools.Gateways()
	c := &phonehostv1.NetworkCounters{
		SentPackets: s.Counters.Packets[policy.Egress], SentBytes: s.Counters.Bytes[policy.Egress],
		ReceivedPackets: s.Counters.Packets[policy.Ingress], ReceivedBytes: s.Counters.Bytes[policy.Ingress],
	}
	for _, reason := range slices.Sorted(maps.Keys(s.Counters.Dropped)) {
		c.Dropped = append(c.Dropped, &phonehostv1.DroppedPackets{Reason: reasonToProto(reason), Packets: s.Counters.Dropped[reason]})
	}
	slices.SortFunc(c.Dropped, func(a, b *phonehostv1.DroppedPackets) int { return cmp.Compare(a.GetReason(), b.GetReason()) })
	return &phonehostv1.PhoneNetwork{
		PhoneId: r.Spec.ID, Spec: networkToProto(r.Spec.Network), State: networkStateToProto(snap), Ipv4Gateway: addressText(ipv4), Ipv6Gateway: addressText(ipv6),
		Up: s.Up, Interface: s.Interface, Mtu: uint32(s.MTU), Generation: s.Generation, Counters: c, Flows: uint32(s.Flows), MaxFlows: uint32(s.MaxFlows),
	}
}

// reasonToProto reads the engine's word for why packets were dropped.
func reasonToProto(reason string) phonehostv1.DenialReason {
	return phonehostv1.DenialReason(phonehostv1.DenialReason_value["DENIAL_REASON_"+reason])
}

// classToProto reads the engine's word for what a protected address belongs to.
func classToProto(class string) phonehostv1.ProtectedClass {
	return phonehostv1.ProtectedClass(phonehostv1.ProtectedClass_value["PROTECTED_CLASS_"+class])
}

func directionToProto(d policy.Direction) phonehostv1.FlowDirection {
	return phonehostv1.FlowDirection(d + 1)
}

func flowsToProto(flows []netpolicy.Flow) []*phonehostv1.Flow {
	all := make([]*phonehostv1.Flow, 0, len(flows))
	for _, f := range flows {
		all = append(all, &phonehostv1.Flow{
			PhoneId: f.Phone, Direction: directionToProto(f.Direction), Protocol: phonehostv1.NetworkProtocol(f.Protocol),
			Peer: addressText(f.Peer.Addr()), PeerPort: uint32(f.Peer.Port()), Port: uint32(f.Port),
			State: phonehostv1.FlowState(phonehostv1.FlowState_value["FLOW_STATE_"+f.State]), Rule: int32(f.Rule),
			StartTime: timestamp(f.Started), LastTime: timestamp(f.Seen),
			SentPackets: f.Packets[policy.Egress], SentBytes: f.Bytes[policy.Egress],
			ReceivedPackets: f.Packets[policy.Ingress], ReceivedBytes: f.Bytes[policy.Ingress],
		})
	}
	return all
}

func denialToProto(d netpolicy.Denial) *phonehostv1.Denial {
	return &phonehostv1.Denial{
		PhoneId: d.Phone, Direction: directionToProto(d.Direction), Protocol: uint32(d.Protocol), Peer: addressText(d.Peer), Port: uint32(d.Port),
		Reason: reasonToProto(d.Reason), ProtectedClass: classToProto(d.Class), Rule: int32(d.Rule), Packets: d.Count, Bytes: d.Bytes,
		FirstTime: timestamp(d.First), LastTime: timestamp(d.Last), Name: d.Name,
	}
}

// probeFromProto reads which flow is tried.
func probeFromProto(q *phonehostv1.TestConnectionRequest) (netpolicy.Probe, error) {
	p := netpolicy.Probe{Direction: policy.Egress, Protocol: policy.TCP, Port: uint16(q.GetPort())}
	switch q.GetDirection() {
	case phonehostv1.FlowDirection_FLOW_DIRECTION_UNSPECIFIED, phonehostv1.FlowDirection_FLOW_DIRECTION_EGRESS:
	case phonehostv1.FlowDirection_FLOW_DIRECTION_INGRESS:
		p.Direction = policy.Ingress
	default:
		return p, fault.Field("direction", "%d is no direction", q.GetDirection())
	}
	switch q.GetProtocol() {
	case phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_UNSPECIFIED:
	case phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_TCP, phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_UDP, phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_ICMP:
		p.Protocol = policy.Protocol(q.GetProtocol())
	default:
		return p, fault.Field("protocol", "%d is no protocol", q.GetProtocol())
	}
	if icmp := p.Protocol == policy.ICMP; q.GetPort() > 65535 || icmp != (q.GetPort() == 0) {
		return p, fault.Field("port", "%d must be 1..65535, and 0 for ICMP", q.GetPort())
	}
	if a, err := netip.ParseAddr(q.GetPeer()); err == nil && a.Zone() == "" {
		p.Peer = a.Unmap()
		return p, nil
	}
	if name := q.GetPeer(); name == "" || len(name) > 253 || p.Direction == policy.Ingress {
		return p, fault.Field("peer", "%q must be an address, or a DNS name where the phone would begin the flow", fault.Clip(name))
	}
	p.Name = q.GetPeer()
	return p, nil
}

// testError says what is missing of a phone that has no network to try.
func testError(id string, err error) error {
	if !errdefs.IsNotFound(err) || fault.Reason(err) != "" {
		return err
	}
	return fault.New(errdefs.ErrFailedPrecondition, fault.NotRunning, "phone %s has no network to try yet: it was not started since it was created, or since the agent was", id)
}
