package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

func TestExplain(t *testing.T) {
	const rules = `
allow egress tcp *.example 443
allow egress any 192.0.2.0/24
deny  egress udp any 443
allow egress tcp any 80,853
`
	query := func(protocol policy.Protocol, peer string, port uint16, bits int, names ...string) policy.Query {
		return policy.Query{Protocol: protocol, Peer: netip.MustParseAddr(peer), Port: port, ProtectedBits: bits, Names: names}
	}
	ingress := func(q policy.Query) policy.Query { q.Direction = policy.Ingress; return q }
	for _, tt := range []struct {
		name, defaults string
		q              policy.Query
		want           string
	}{
		{"a rule allows", "deny-all", query(policy.TCP, "192.0.2.1", 22, -1), "rule 2 allows it: allow egress any 192.0.2.0/24"},
		{"a name", "deny-all", query(policy.TCP, "203.0.113.1", 443, -1, "www.example"), "rule 1 allows it: allow egress tcp *.example 443"},
		{"a rule denies", "deny-all", query(policy.UDP, "203.0.113.1", 443, -1), "rule 3 denies it: deny egress udp any 443"},
		{"deny-all", "deny-all", query(policy.TCP, "203.0.113.1", 22, -1), "no rule matches it, and the default is deny-all"},
		{"allow-internet", "allow-internet", query(policy.TCP, "203.0.113.1", 22, -1), "no rule matches it, and the default, allow-internet, allows it"},
		{"towards the phone", "allow-internet", ingress(query(policy.TCP, "203.0.113.1", 22, -1)),
			"no rule matches it, and without one nobody begins a flow towards the phone"},
		{"a protected peer by a rule", "deny-all", query(policy.TCP, "10.1.2.3", 80, 104),
			`rule 4 allows it: allow egress tcp any 80,853, but 10.1.2.3 is in 10.0.0.0/8, which is protected: only a rule that names this prefix, or a part of it, opens it; ` +
				`to open it, a rule such as "allow egress tcp 10.1.2.3/32 80" has to stand before rule 4`},
		{"a protected peer by default", "allow-internet", query(policy.ICMP, "fd00::1", 0, 7),
			`no rule matches it, and the default, allow-internet, allows it, but fd00::1 is in fc00::/7, which is protected: only a rule that names this prefix, or a part of it, opens it; ` +
				`to open it, a rule such as "allow egress icmp fd00::1/128" is needed, anywhere in the policy`},
		{"a protected peer that is denied", "allow-internet", query(policy.UDP, "10.1.2.3", 443, 104),
			`rule 3 denies it: deny egress udp any 443; besides, 10.1.2.3 is in 10.0.0.0/8, which is protected: only a rule that names this prefix, or a part of it, opens it; ` +
				`to open it, a rule such as "allow egress udp 10.1.2.3/32 443" has to stand before rule 3`},
		{"another name server", "allow-internet", query(policy.UDP, "203.0.113.1", 53, -1),
			`no rule matches it, and the default, allow-internet, allows it, but DNS past the gateway's name server is dropped under a policy with names; ` +
				`to open it, a rule such as "allow egress udp 203.0.113.1/32 53" is needed, anywhere in the policy`},
		{"another name server by a rule for anybody", "deny-all", query(policy.TCP, "203.0.113.1", 853, -1),
			`rule 4 allows it: allow egress tcp any 80,853, but DNS past the gateway's name server is dropped under a policy with names; ` +
				`to open it, a rule such as "allow egress tcp 203.0.113.1/32 853" has to stand before rule 4`},
		{"another name server, whose address is not known", "allow-internet", query(policy.UDP, "::", 53, -1),
			`no rule matches it, and the default, allow-internet, allows it, but DNS past the gateway's name server is dropped under a policy with names; ` +
				`to open it, a rule with a prefix of the peer is needed, anywhere in the policy`},
		{"another name server by a prefix", "deny-all", query(policy.UDP, "192.0.2.53", 53, -1), "rule 2 allows it: allow egress any 192.0.2.0/24"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := mustParse(t, "default "+tt.defaults+rules)
			if got := p.Explain(tt.q, p.Evaluate(tt.q)); got != tt.want {
				t.Errorf("explained with\n\t%s\nwant\n\t%s", got, tt.want)
			}
		})
	}
}

// What Explain proposes must do what it says.
func TestTheRemedyHelps(t *testing.T) {
	p := mustParse(t, "deny egress udp any 443\nallow egress any any\nallow egress any *.example\n")
	for _, q := range []policy.Query{
		{Protocol: policy.UDP, Peer: netip.MustParseAddr("10.1.2.3"), Port: 443, ProtectedBits: 104},
		{Protocol: policy.ICMP, Peer: netip.MustParseAddr("fd00::1"), ProtectedBits: 7},
		{Protocol: policy.TCP, Peer: netip.MustParseAddr("8.8.8.8"), Port: 53, ProtectedBits: -1},
		{Direction: policy.Ingress, Protocol: policy.TCP, Peer: netip.MustParseAddr("10.1.2.3"), Port: 22, ProtectedBits: 104},
	} {
		v := p.Evaluate(q)
		_, quoted, _ := strings.Cut(p.Explain(q, v), `a rule such as "`)
		text, _, ok := strings.Cut(quoted, `"`)
		if !ok {
			t.Errorf("%+v: no rule is proposed in %q", q, p.Explain(q, v))
			continue
		}
		r, err := policy.ParseRule(text)
		if err != nil {
			t.Error(err)
			continue
		}
		at := v.Rule
		if at < 0 {
			at = len(p.Rules)
		}
		mended := policy.Policy{Rules: append(append(append([]policy.Rule{}, p.Rules[:at]...), r), p.Rules[at:]...)}
		if got := mended.Evaluate(q); !got.Allow || mended.PastNameServer(q, got) {
			t.Errorf("%+v: with %q at %d it is %+v", q, text, at, got)
		}
	}
}

func TestPastNameServer(t *testing.T) {
	const open = "allow egress any any\n"
	for _, tt := range []struct {
		name, text string
		q          policy.Query
		want       bool
	}{
		{"no names", open, policy.Query{Protocol: policy.UDP, Port: 53}, false},
		{"udp 53", open + "allow egress any *", policy.Query{Protocol: policy.UDP, Port: 53}, true},
		{"tcp 53", open + "allow egress any *", policy.Query{Protocol: policy.TCP, Port: 53}, true},
		{"udp 853", open + "allow egress any *", policy.Query{Protocol: policy.UDP, Port: 853}, true},
		{"tcp 853", open + "allow egress any *", policy.Query{Protocol: policy.TCP, Port: 853}, true},
		{"another port", open + "allow egress any *", policy.Query{Protocol: policy.TCP, Port: 443}, false},
		{"towards the phone", "allow ingress any any\nallow egress any *", policy.Query{Direction: policy.Ingress, Protocol: policy.UDP, Port: 53}, false},
		{"a name", "allow egress any *", policy.Query{Protocol: policy.UDP, Port: 53, Names: []string{"dns.example"}}, true},
		{"a prefix", "allow egress any 192.0.2.0/24\nallow egress any *", policy.Query{Protocol: policy.UDP, Port: 53}, false},
		{"denied anyway", "deny egress any any\nallow egress any *", policy.Query{Protocol: policy.UDP, Port: 53}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.q.Peer, tt.q.ProtectedBits = netip.MustParseAddr("192.0.2.1"), -1
			p := mustParse(t, tt.text)
			if got := p.PastNameServer(tt.q, p.Evaluate(tt.q)); got != tt.want {
				t.Errorf("it is past the name server: %v; want %v", got, tt.want)
			}
		})
	}
}
