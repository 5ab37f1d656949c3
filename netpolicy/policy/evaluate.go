package policy

import (
	"net/netip"
)

// Query is a new flow.
type Query struct {
	// Direction is who begins it.
	Direction Direction
	// Peer is the phone's peer.
	Peer netip.Addr
	// Protocol is TCP, UDP or ICMP.
	Protocol Protocol
	// Port is the peer's port for Egress, the phone's for Ingress; without meaning for ICMP.
	Port uint16
	// Names are the DNS names by which the peer's address was given out to the phone.
	Names []string
	// ProtectedBits is the length of the protected prefix that the peer belongs to, 0..128, IPv4's as 96 + its own; -1: it is not protected.
	ProtectedBits int
}

// Verdict is what becomes of a flow.
type Verdict struct {
	Allow bool
	// Rule is the index of the rule that decides, from 0; -1 if the default does.
	Rule int
	// Protected tells that what decides would allow the flow, but does not name the protected prefix that the peer belongs to.
	Protected bool
}

// Evaluate decides a flow. It is the definition of what a policy means: the first rule that matches.
func (p Policy) Evaluate(q Query) Verdict {
	for i, r := range p.Rules {
		if r.matches(q) {
			return decision{true, i, mappedBits(r.CIDR), r.Action == Allow}.verdict(false, q.ProtectedBits)
		}
	}
	return decision{}.verdict(p.Default == AllowInternet && q.Direction == Egress, q.ProtectedBits)
}

func (r Rule) matches(q Query) bool {
	return r.Direction == q.Direction && (r.Protocol == Any || r.Protocol == q.Protocol) && r.matchesPort(q.Port) && r.matchesPeer(q)
}

func (r Rule) matchesPort(port uint16) bool {
	for _, p := range r.Ports {
		if p.First <= port && port <= p.Last {
			return true
		}
	}
	return len(r.Ports) == 0
}

func (r Rule) matchesPeer(q Query) bool {
	if r.Name != "" {
		for _, n := range q.Names {
			if matchName(r.Name, normalName(n)) {
				return true
			}
		}
		return false
	}
	return r.CIDR == netip.Prefix{} || r.CIDR.Contains(normal(q.Peer))
}
