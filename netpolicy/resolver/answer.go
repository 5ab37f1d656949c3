package resolver

import (
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// How long an address is open: for its TTL, within these, and a little more, since the answer takes its time and so does the phone.
const (
	leastOpen = 30 * time.Second
	mostOpen  = maxTTL
	slackOpen = 5 * time.Second
)

// maxAliases bounds how many CNAME records in a row are followed.
const maxAliases = 16

// admission is what a phone may have of an answer.
type admission struct {
	answer, authority []dns.RR
	// addresses are those that are to be open before the phone has the answer, and ids the names that open them.
	addresses []lease
	ids       []uint64
	// protected is how many addresses were taken out.
	protected int
	// reason is why it may have nothing, empty: it may; with the name and the rule that decides.
	reason, name string
	rule         int
}

type lease struct {
	address netip.Addr
	ttl     time.Duration
}

// admit judges what an upstream has answered: see the package comment. It does not change the message's records but for those it returns.
func (r *rules) admit(p policy.Policy, m *dns.Msg) admission {
	chain := aliases(m)
	var a admission
	for _, name := range chain[1:] {
		if ok, rule := p.Resolves(name); !ok && rule >= 0 || !plain(name) {
			return admission{reason: reasonAlias, name: chain[0], rule: rule}
		}
	}
	var patterns []string
	for _, name := range chain {
		for _, pattern := range p.MatchNames(name) {
			if !contains(patterns, pattern) {
				patterns = append(patterns, pattern)
			}
		}
	}
	if len(patterns) > policy.MaxNames { // an address has no room for more, and what is left out could be what denies
		return admission{reason: reasonAlias, name: chain[0], rule: -1}
	}
	for _, pattern := range patterns {
		a.ids = append(a.ids, policy.NameID(pattern))
	}
	for _, rr := range m.Answer {
		r.admitRecord(&a, p, chain, rr)
	}
	if a.protected > 0 && len(a.addresses) == 0 {
		return admission{reason: reasonRebinding, name: chain[0], rule: -1, protected: a.protected}
	}
	for _, rr := range m.Ns {
		if _, is := addressOf(rr); !is {
			a.authority = append(a.authority, capTTL(rr))
		}
	}
	return a
}

// admitRecord adds a record of the answer to what the phone may have, if it may.
func (r *rules) admitRecord(a *admission, p policy.Policy, chain []string, rr dns.RR) {
	h := rr.Header()
	address, is := addressOf(rr)
	if (is || h.Rrtype == dns.TypeCNAME) && !contains(chain, lower(h.Name)) {
		return
	}
	if is && !r.reachable(p, address) {
		a.protected++
		return
	}
	capTTL(rr)
	if is {
		a.addresses = append(a.addresses, lease{address, seconds(h.Ttl)})
	}
	switch rr := rr.(type) {
	case *dns.SVCB:
		rr.Value = withoutHints(rr.Value)
	case *dns.HTTPS:
		rr.Value = withoutHints(rr.Value)
	}
	a.answer = append(a.answer, rr)
}

// openFor is how long an address stays open that is given out for a TTL.
func openFor(ttl time.Duration) time.Duration {
	return min(max(ttl, leastOpen), mostOpen) + slackOpen
}

// aliases are the name that was asked for and those that CNAME records lead to from it, one by one, as lower has them. A name that leads to
// several leads to the first.
func aliases(m *dns.Msg) []string {
	chain := []string{lower(m.Question[0].Name)}
	targets := map[string]string{}
	for _, rr := range m.Answer {
		if c, ok := rr.(*dns.CNAME); ok {
			if owner := lower(c.Hdr.Name); targets[owner] == "" {
				targets[owner] = lower(c.Target)
			}
		}
	}
	for len(chain) <= maxAliases {
		next := targets[chain[len(chain)-1]]
		if next == "" || contains(chain, next) {
			break
		}
		chain = append(chain, next)
	}
	return chain
}

// addressOf returns the address of a record that has one. A record without a valid one has none, and leads nowhere.
func addressOf(rr dns.RR) (a netip.Addr, is bool) {
	switch rr := rr.(type) {
	case *dns.A:
		a, _ = netip.AddrFromSlice(rr.A)
	case *dns.AAAA:
		a, _ = netip.AddrFromSlice(rr.AAAA)
	default:
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// withoutHints leaves out the addresses of an SVCB record (RFC 9460, section 7.3), and "mandatory", which may speak of them.
func withoutHints(values []dns.SVCBKeyValue) []dns.SVCBKeyValue {
	var kept []dns.SVCBKeyValue
	for _, v := range values {
		switch v.Key() {
		case dns.SVCB_IPV4HINT, dns.SVCB_IPV6HINT, dns.SVCB_MANDATORY:
		default:
			kept = append(kept, v)
		}
	}
	return kept
}

func capTTL(rr dns.RR) dns.RR {
	h := rr.Header()
	h.Ttl = min(h.Ttl, uint32(maxTTL/time.Second))
	return rr
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
