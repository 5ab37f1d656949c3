package netpolicy

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Test tells what would become of a flow that is not there yet: the kernel's own program judges its first packet, without a trace. For
// a Probe with a Name it is told what the rules make of an address that was given out under that name.
//
// errdefs.ErrNotFound: the phone has no network; errdefs.ErrInvalidArgument: no such flow can be.
func (e *Engine) Test(_ context.Context, id string, probe Probe) (Decision, error) {
	p, err := e.phone(id)
	if err != nil {
		return Decision{}, err
	}
	e.mu.Lock()
	rules := e.policies[p.Policy].policy
	e.mu.Unlock()
	if probe.Name != "" {
		return byName(p.Policy, rules, probe)
	}
	packet, err := firstPacket(p, probe)
	if err != nil {
		return Decision{}, fmt.Errorf("test of %s: %w", id, err)
	}
	verdict, err := e.data.Judge(p.link.Index, probe.Direction, packet)
	if err != nil {
		return Decision{}, fmt.Errorf("test of %s: %w", id, err)
	}
	d := Decision{
		Allowed: verdict.Allowed(), Reason: verdict.Reason.String(), Class: verdict.Class.String(), Peer: probe.Peer, Rule: ruleNumber(verdict.Rule),
	}
	d.Text = fmt.Sprintf("policy %s: %s", p.Policy, words(rules, probe, verdict, d))
	return d, nil
}

// words says why the kernel's verdict is what it is.
func words(rules policy.Policy, probe Probe, v datapath.Verdict, d Decision) string {
	switch {
	case d.Rule == RuleGateway:
		return "it is a service of the phone's gateway, which every phone may use"
	case d.Rule == RuleForward:
		return "a forward of the host leads to this port"
	case d.Rule == RuleNone:
		return "it is dropped before any rule is asked: " + d.Reason
	}
	q := policy.Query{Direction: probe.Direction, Peer: probe.Peer, Protocol: probe.Protocol, Port: probe.Port, ProtectedBits: -1}
	if v.Class != 0 {
		q.ProtectedBits = int(v.Bits)
	}
	return rules.Explain(q, policy.Verdict{Allow: d.Allowed, Rule: d.Rule, Protected: v.Reason == datapath.ReasonProtected})
}

// firstPacket makes the packet that begins a flow: a SYN, a datagram, an echo request.
func firstPacket(p attached, probe Probe) ([]byte, error) {
	peer := probe.Peer.Unmap()
	own := p.IPv4
	if peer.Is6() {
		own = p.IPv6
	}
	if !peer.IsValid() || !own.IsValid() {
		return nil, fmt.Errorf("the phone has no address of the family of %s: %w", probe.Peer, errdefs.ErrInvalidArgument)
	}
	source, target, from, to := own, peer, p.link.MAC, p.link.GatewayMAC
	if probe.Direction == policy.Ingress {
		source, target, from, to = peer, own, p.link.GatewayMAC, p.link.MAC
	}
	transport, protocol, err := firstSegment(probe, peer.Is6())
	if err != nil {
		return nil, err
	}
	packet := append(append([]byte{}, to...), from...)
	if peer.Is6() {
		packet = binary.BigEndian.AppendUint16(packet, unix.ETH_P_IPV6)
		packet = append(packet, 0x60, 0, 0, 0)
		packet = binary.BigEndian.AppendUint16(packet, uint16(len(transport)))
		packet = append(packet, protocol, 64)
	} else {
		packet = binary.BigEndian.AppendUint16(packet, unix.ETH_P_IP)
		packet = append(packet, 0x45, 0)
		packet = binary.BigEndian.AppendUint16(packet, uint16(20+len(transport)))
		packet = append(packet, 0, 0, 0x40, 0, 64, protocol, 0, 0) // don't fragment
	}
	packet = append(packet, source.AsSlice()...)
	packet = append(packet, target.AsSlice()...)
	return append(packet, transport...), nil
}

// probePort is the port of the side that begins a probed flow: the first of those that are nobody's (RFC 6335, section 6).
const probePort = 49152

// firstSegment makes what the IP header is before.
func firstSegment(probe Probe, ip6 bool) (segment []byte, protocol byte, err error) {
	ports := binary.BigEndian.AppendUint16(nil, probePort)
	ports = binary.BigEndian.AppendUint16(ports, probe.Port)
	switch probe.Protocol {
	case policy.TCP:
		return append(ports, 0, 0, 0, 0, 0, 0, 0, 0, 5<<4, 0x02, 0xff, 0xff, 0, 0, 0, 0), unix.IPPROTO_TCP, nil
	case policy.UDP:
		return append(ports, 0, 8, 0, 0), unix.IPPROTO_UDP, nil
	case policy.ICMP:
		if ip6 {
			return []byte{128, 0, 0, 0, 0, 1, 0, 1}, unix.IPPROTO_ICMPV6, nil
		}
		return []byte{8, 0, 0, 0, 0, 1, 0, 1}, unix.IPPROTO_ICMP, nil
	}
	return nil, 0, fmt.Errorf("a flow is TCP, UDP or ICMP: %w", errdefs.ErrInvalidArgument)
}

// byName decides a probe towards a name.
func byName(name string, rules policy.Policy, probe Probe) (Decision, error) {
	if probe.Direction != policy.Egress {
		return Decision{}, fmt.Errorf("a name says nothing about who begins a flow towards the phone; give an address: %w", errdefs.ErrInvalidArgument)
	}
	if ok, rule := rules.Resolves(probe.Name); !ok {
		d := Decision{Reason: "NAME", Rule: rule, Text: fmt.Sprintf("policy %s: the name server refuses %s: ", name, probe.Name)}
		if rule >= 0 {
			d.Text += fmt.Sprintf("rule %d denies it: %s", rule+1, rules.Rules[rule])
		} else {
			d.Text += "no rule with a name matches it, and the default is deny-all"
		}
		return d, nil
	}
	q := policy.Query{
		Direction: probe.Direction, Peer: probe.Peer, Protocol: probe.Protocol, Port: probe.Port, Names: rules.MatchNames(probe.Name), ProtectedBits: -1,
	}
	if !q.Peer.IsValid() {
		q.Peer = netip.IPv6Unspecified() // no rule with a CIDR that means somebody matches it
	}
	v := rules.Evaluate(q)
	reason := "NONE"
	if !v.Allow {
		reason = "RULE"
		if v.Rule < 0 {
			reason = "DEFAULT"
		}
	}
	return Decision{Allowed: v.Allow, Reason: reason, Rule: v.Rule, Text: fmt.Sprintf("policy %s: %s", name, rules.Explain(q, v))}, nil
}
