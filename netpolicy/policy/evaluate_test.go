package policy_test

import (
	"net/netip"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// TestVerdicts says by examples what policies mean. The policy and its object are asked.
func TestVerdicts(t *testing.T) {
	const open = "allow egress any any"
	allow := func(rule int) policy.Verdict { return policy.Verdict{Allow: true, Rule: rule} }
	deny := func(rule int) policy.Verdict { return policy.Verdict{Rule: rule} }
	protected := func(rule int) policy.Verdict { return policy.Verdict{Rule: rule, Protected: true} }
	egress := func(protocol policy.Protocol, peer string, port uint16, names ...string) policy.Query {
		return policy.Query{Protocol: protocol, Peer: netip.MustParseAddr(peer), Port: port, Names: names, ProtectedBits: -1}
	}
	ingress := func(q policy.Query) policy.Query { q.Direction = policy.Ingress; return q }
	within := func(bits int, q policy.Query) policy.Query { q.ProtectedBits = bits; return q }
	tcp, udp, icmp := policy.TCP, policy.UDP, policy.ICMP

	for _, tt := range []struct {
		name, text string
		q          policy.Query
		want       policy.Verdict
	}{
		{"allow-internet lets the phone begin", "", egress(tcp, "192.0.2.1", 80), allow(-1)},
		{"but nobody else", "", ingress(egress(tcp, "192.0.2.1", 80)), deny(-1)},
		{"nor towards protected addresses", "", within(104, egress(tcp, "10.0.0.1", 80)), protected(-1)},
		{"deny-all lets nobody", "default deny-all", egress(tcp, "192.0.2.1", 80), deny(-1)},
		{"and says so of protected addresses", "default deny-all", within(104, egress(tcp, "10.0.0.1", 80)), deny(-1)},

		{"the first rule decides", "deny egress any 192.0.2.1/32\n" + open, egress(tcp, "192.0.2.1", 80), deny(0)},
		{"though a later one is more specific", open + "\ndeny egress any 192.0.2.1/32", egress(tcp, "192.0.2.1", 80), allow(0)},
		{"or the same", "deny egress tcp any 80\nallow egress tcp any 80", egress(tcp, "192.0.2.1", 80), deny(0)},
		{"a rule of the other direction does not", "deny ingress any any\n" + open, egress(tcp, "192.0.2.1", 80), allow(1)},
		{"nor one of another protocol", "deny egress udp any\n" + open, egress(tcp, "192.0.2.1", 80), allow(1)},
		{"nor one of other ports", "deny egress tcp any 79,81-90\n" + open, egress(tcp, "192.0.2.1", 80), allow(1)},
		{"nor one of other peers", "deny egress any 192.0.3.0/24\n" + open, egress(tcp, "192.0.2.1", 80), allow(1)},
		{"the first port of a range", "deny egress tcp any 80-90\n" + open, egress(tcp, "192.0.2.1", 80), deny(0)},
		{"the last port of a range", "deny egress tcp any 80-90\n" + open, egress(tcp, "192.0.2.1", 90), deny(0)},
		{"the port before", "deny egress tcp any 80-90\n" + open, egress(tcp, "192.0.2.1", 79), allow(1)},
		{"the port behind", "deny egress tcp any 80-90\n" + open, egress(tcp, "192.0.2.1", 91), allow(1)},
		{"the last port of all", "deny egress tcp any 65535\n" + open, egress(tcp, "192.0.2.1", 65535), deny(0)},
		{"the same port of udp", "deny egress tcp any 80\n" + open, egress(udp, "192.0.2.1", 80), allow(1)},
		{"icmp", "deny egress icmp any\n" + open, egress(icmp, "2001:db8::1", 0), deny(0)},
		{"icmp by a rule for any protocol", "deny egress any any", egress(icmp, "192.0.2.1", 0), deny(0)},
		{"who may begin", "allow ingress tcp 192.0.2.0/24 5555", ingress(egress(tcp, "192.0.2.1", 5555)), allow(0)},
		{"who may not", "allow ingress tcp 192.0.2.0/24 5555", ingress(egress(tcp, "192.0.3.1", 5555)), deny(-1)},

		{"all of IPv4", "deny egress any 0.0.0.0/0", egress(tcp, "255.255.255.255", 80), deny(0)},
		{"is not IPv6", "deny egress any 0.0.0.0/0", egress(tcp, "2001:db8::1", 80), allow(-1)},
		{"all of IPv6", "deny egress any ::/0", egress(tcp, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 80), deny(0)},
		{"is not IPv4", "deny egress any ::/0", egress(tcp, "192.0.2.1", 80), allow(-1)},
		{"nor is a part that holds its numbers", "deny egress any ::/64", egress(tcp, "192.0.2.1", 80), allow(-1)},
		{"what is before IPv4's numbers", "deny egress any ::/64", egress(tcp, "::fffe:ffff:ffff", 80), deny(0)},
		{"what is behind them", "deny egress any ::/64", egress(tcp, "::1:0:0:0", 80), deny(0)},
		{"the last address of a length beyond 64", "deny egress any 2001:db8::/65", egress(tcp, "2001:db8::7fff:ffff:ffff:ffff", 80), deny(0)},
		{"the address behind it", "deny egress any 2001:db8::/65", egress(tcp, "2001:db8::8000:0:0:0", 80), allow(-1)},
		{"IPv4 as a mapped address", "deny egress any 192.0.2.1/32", egress(tcp, "::ffff:192.0.2.1", 80), deny(0)},
		{"the smaller prefix's rule first", "allow egress any 192.0.2.0/25\ndeny egress any 192.0.2.0/24", egress(tcp, "192.0.2.1", 80), allow(0)},
		{"the rest of the larger", "allow egress any 192.0.2.0/25\ndeny egress any 192.0.2.0/24", egress(tcp, "192.0.2.128", 80), deny(1)},
		{"the larger prefix's rule first", "deny egress any 192.0.2.0/24\nallow egress any 192.0.2.0/25", egress(tcp, "192.0.2.1", 80), deny(0)},
		{"a whole family before anybody", "allow egress any 0.0.0.0/0\ndeny egress any any", egress(tcp, "192.0.2.1", 80), allow(0)},
		{"anybody before a whole family", "deny egress any any\nallow egress any ::/0", egress(tcp, "2001:db8::1", 80), deny(0)},

		{"a name", "default deny-all\nallow egress tcp *.example 443", egress(tcp, "192.0.2.1", 443, "www.example"), allow(0)},
		{"an address without its name", "default deny-all\nallow egress tcp *.example 443", egress(tcp, "192.0.2.1", 443), deny(-1)},
		{"another port of a name", "default deny-all\nallow egress tcp *.example 443", egress(tcp, "192.0.2.1", 80, "www.example"), deny(-1)},
		{"the second name of an address", "allow egress any b.test\ndeny egress any a.test", egress(tcp, "192.0.2.1", 80, "a.test", "b.test"), allow(0)},
		{"a prefix before a name", "deny egress any 192.0.2.0/24\nallow egress any *", egress(tcp, "192.0.2.1", 80, "a.test"), deny(0)},
		{"a name before a prefix", "allow egress any *\ndeny egress any 192.0.2.0/24", egress(tcp, "192.0.2.1", 80, "a.test"), allow(0)},

		{"a rule that names the protected prefix", "allow egress any 10.0.0.0/8", within(104, egress(tcp, "10.1.1.1", 80)), allow(0)},
		{"or a part of it", "allow egress any 10.1.1.1/32", within(104, egress(tcp, "10.1.1.1", 80)), allow(0)},
		{"or more than it", "allow egress any 10.0.0.0/7", within(104, egress(tcp, "10.1.1.1", 80)), protected(0)},
		{"or all", "allow egress any 0.0.0.0/0", within(104, egress(tcp, "10.1.1.1", 80)), protected(0)},
		{"or anybody", open, within(104, egress(tcp, "10.1.1.1", 80)), protected(0)},
		{"or a name", "allow egress any *", within(104, egress(tcp, "10.1.1.1", 80, "a.test")), protected(0)},
		{"in IPv6", "allow egress any fd00:1::/32", within(8, egress(tcp, "fd00:1::1", 80)), allow(0)},
		{"more than it in IPv6", "allow egress any fc00::/7", within(8, egress(tcp, "fd00:1::1", 80)), protected(0)},
		{"behind one that does not", open + "\nallow egress any 10.0.0.0/8", within(104, egress(tcp, "10.1.1.1", 80)), protected(0)},
		{"before one that does not", "allow egress any 10.0.0.0/8\n" + open, within(104, egress(tcp, "10.1.1.1", 80)), allow(0)},
		{"where all is protected", "", within(0, egress(tcp, "2001:db8::1", 80)), protected(-1)},
		{"where all is protected, by a rule for all", "allow egress any ::/0", within(0, egress(tcp, "2001:db8::1", 80)), allow(0)},
		{"a denied one", "deny egress any any\nallow egress any 10.0.0.0/8", within(104, egress(tcp, "10.1.1.1", 80)), deny(0)},
		{"towards the phone", "allow ingress any any", ingress(within(104, egress(tcp, "10.1.1.1", 80))), protected(0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := mustParse(t, tt.text)
			if got := p.Evaluate(tt.q); got != tt.want {
				t.Errorf("the policy says %+v; want %+v", got, tt.want)
			}
			o, err := policy.Compile(p, 1)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, p, o, tt.q)
		})
	}
}
