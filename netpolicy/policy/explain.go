package policy

import (
	"fmt"
	"net/netip"
)

// HasNames tells whether there are rules with names.
func (p Policy) HasNames() bool {
	for _, r := range p.Rules {
		if r.Name != "" {
			return true
		}
	}
	return false
}

// PastNameServer tells whether a flow that a verdict allows is one of DNS, or of DNS over TLS or QUIC, past the gateway's name server under a
// policy with names. These are dropped, for who resolves elsewhere is not bound by names, unless a rule with a prefix (Rule.CIDR, not ::/0) allows them.
func (p Policy) PastNameServer(q Query, v Verdict) bool {
	if !v.Allow || q.Direction != Egress || (q.Protocol != TCP && q.Protocol != UDP) || (q.Port != 53 && q.Port != 853) || !p.HasNames() {
		return false
	}
	return v.Rule < 0 || mappedBits(p.Rules[v.Rule].CIDR) == 0
}

// Explain says in words why a flow has its verdict: which rule decides, counted from 1, and how it reads; and for a protected peer which rule
// would be needed, and where. The verdict is Evaluate's, or the kernel's for the same policy.
func (p Policy) Explain(q Query, v Verdict) string {
	if v.Rule >= len(p.Rules) {
		return fmt.Sprintf("rule %d decides, which the policy no longer has", v.Rule+1)
	}
	switch {
	case p.PastNameServer(q, v):
		return p.reason(q, v) + fmt.Sprintf(", but DNS past the gateway's name server is dropped under a policy with names; to open it, %s", p.remedy(q, v.Rule))
	case v.Allow:
		return p.reason(q, v)
	case v.Protected:
		return p.reason(q, v) + fmt.Sprintf(", but %s; to open it, %s", protection(q), p.remedy(q, v.Rule))
	case q.ProtectedBits >= 0:
		return p.reason(q, v) + fmt.Sprintf("; besides, %s; to open it, %s", protection(q), p.remedy(q, v.Rule))
	}
	return p.reason(q, v)
}

// reason says what decides, without regard to what may overrule it.
func (p Policy) reason(q Query, v Verdict) string {
	if v.Rule >= 0 {
		r := p.Rules[v.Rule]
		does := "denies"
		if r.Action == Allow {
			does = "allows"
		}
		return fmt.Sprintf("rule %d %s it: %s", v.Rule+1, does, r)
	}
	switch {
	case q.Direction == Ingress:
		return "no rule matches it, and without one nobody begins a flow towards the phone"
	case p.Default == AllowInternet:
		return "no rule matches it, and the default, allow-internet, allows it"
	}
	return "no rule matches it, and the default is deny-all"
}

// protection says to what protected prefix the peer belongs.
func protection(q Query) string {
	return fmt.Sprintf("%s is in %s, which is protected: only a rule that names this prefix, or a part of it, opens it", normal(q.Peer), protectedPrefix(q))
}

// protectedPrefix is the protected prefix that the peer belongs to.
func protectedPrefix(q Query) netip.Prefix {
	a := normal(q.Peer)
	bits := q.ProtectedBits
	if a.Is4() {
		bits = max(0, bits-96)
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// remedy says which rule would open a flow, and where it has to stand, given the rule that decides now.
func (p Policy) remedy(q Query, decides int) string {
	rule := "a rule with a prefix of the peer"
	if a := normal(q.Peer); a.IsValid() && !a.IsUnspecified() { // else the flow is to a name whose address is not known
		needed := Rule{Action: Allow, Direction: q.Direction, Protocol: q.Protocol, CIDR: netip.PrefixFrom(a, a.BitLen())}
		if q.Protocol == TCP || q.Protocol == UDP {
			needed.Ports = []PortRange{{q.Port, q.Port}}
		}
		rule = fmt.Sprintf("a rule such as %q", needed)
	}
	if decides < 0 {
		return rule + " is needed, anywhere in the policy"
	}
	return fmt.Sprintf("%s has to stand before rule %d", rule, decides+1)
}
