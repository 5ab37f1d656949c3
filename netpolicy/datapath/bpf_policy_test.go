package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

func TestPhoneStates(t *testing.T) {
	l := newLab(t, open)
	frames := map[string][]byte{"TCP": out(peer4, tcp(40000, 443, syn)), "DNS": out(gateway4, udp(4000, 53, nil)), "ARP": up2(arp(1, phoneMAC, phone4, gateway4))}
	expect := func(want string) {
		t.Helper()
		for name, frame := range frames {
			if got := reasonName(l.send(policy.Egress, frame)); got != want {
				t.Errorf("%s: %s; want %s", name, got, want)
			}
		}
	}
	expect("pass")
	l.phone(func(p *bpfPhone) { p.Flags = uint32(bpfPhoneFlagPHONE_CUT) })
	expect("CUT")
	if got := reasonName(l.send(policy.Ingress, in(peer4, tcp(443, 40000, syn|ack)))); got != "CUT" {
		t.Errorf("a reply to a phone that is cut off: %s", got)
	}
	l.phone(func(p *bpfPhone) {})
	expect("pass")
	l.policy("")
	expect("NO_POLICY")
	l.policy(open)
	expect("pass")
	if err := l.Protected.Delete(uint32(0)); err != nil {
		t.Fatal(err)
	}
	l.limit(16)
	if got := reasonName(l.send(policy.Egress, frames["TCP"])); got != "NO_POLICY" {
		t.Errorf("while it is not known what is protected: %s", got)
	}
	l.phone(func(p *bpfPhone) { p.Ip6, p.Gateway6 = [16]byte{}, [16]byte{} })
	for name, frame := range map[string][]byte{
		"its old address": out(peer6, tcp(1, 2, syn)), "no address": up(ip("::", peer6, tcp(1, 2, syn))), "nothing to nothing": up(ip("::", "::", tcp(1, 2, syn))),
	} {
		if got := reasonName(l.send(policy.Egress, frame)); got != "SPOOFED_IP" {
			t.Errorf("a phone without IPv6 sends from %s: %s", name, got)
		}
	}
	if err := l.Phones.Delete(uint32(labLink)); err != nil {
		t.Fatal(err)
	}
	before := l.counters()
	for name, program := range map[string]interface {
		Test([]byte) (uint32, []byte, error)
	}{"from_phone": l.FromPhone, "to_phone": l.ToPhone} {
		if got, _, err := program.Test(frames["TCP"]); got != dropped || err != nil {
			t.Errorf("%s returns %#x, %v for a link without a phone", name, got, err)
		}
	}
	if v := l.judge(policy.Egress, frames["TCP"]); reasonName(bpfReason(v.Reason)) != "NO_PHONE" || v.Rule != 0xfffffffc {
		t.Errorf("judge says %+v of a link without a phone", v)
	}
	if l.counters() != before {
		t.Error("packets of no phone are counted as the phone's")
	}
}

func TestUnderAllowInternet(t *testing.T) {
	l := newLab(t, `
allow egress tcp 192.168.7.0/24 80
allow egress tcp 192.168.7.1/32 8080
allow egress tcp 10.213.0.0/16 7000
allow egress udp 10.213.0.1/32 123
deny  egress tcp 198.51.100.0/24 25,6000-6999
deny  egress icmp 203.0.113.0/24
allow egress any 0.0.0.0/0
deny  egress udp 2001:db8::/32 443
allow ingress tcp 198.51.100.0/24 5555
allow ingress tcp 10.213.0.9/32 5555
allow ingress udp 192.168.0.0/16
`)
	t.Run("egress", func(t *testing.T) {
		l.table(t, policy.Egress, []packetCase{
			{"the internet", out(peer4, tcp(1000, 443, syn)), "pass"},
			{"a port that is denied", out(peer4, tcp(1000, 25, syn)), "RULE"},
			{"the first of a range", out(peer4, tcp(1000, 6000, syn)), "RULE"},
			{"the last of a range", out(peer4, tcp(1000, 6999, syn)), "RULE"},
			{"before a range", out(peer4, tcp(1000, 5999, syn)), "pass"},
			{"behind a range", out(peer4, tcp(1000, 7000, syn)), "pass"},
			{"from a port that is denied as target", out(peer4, tcp(25, 443, syn)), "pass"},
			{"the port of another protocol", out(peer4, udp(1000, 25, nil)), "pass"},
			{"the last address of a prefix", out("198.51.100.255", tcp(1000, 25, syn)), "RULE"},
			{"behind a prefix", out("198.51.101.0", tcp(1000, 25, syn)), "pass"},
			{"before a prefix", out("198.51.99.255", tcp(1000, 25, syn)), "pass"},
			{"echo that is denied", out("203.0.113.9", ping4(1)), "RULE"},
			{"echo", out(peer4, ping4(1)), "pass"},
			{"IPv6", out(peer6, tcp(1000, 443, syn)), "pass"},
			{"IPv6, denied", out(peer6, udp(1000, 443, nil)), "RULE"},
			{"its gateway's DNS", out(gateway4, udp(1000, 53, nil)), "pass"},
			{"its gateway's DNS by TCP", out(gateway4, tcp(1000, 53, syn)), "pass"},
			{"its gateway's DNS, IPv6", out(gateway6, udp(1000, 53, nil)), "pass"},
			{"echo to its gateway", out(gateway4, ping4(1)), "pass"},
			{"echo to its gateway, IPv6", out(gateway6, ping6(1)), "pass"},
			{"ssh at its gateway", out(gateway4, tcp(1000, 22, syn)), "PROTECTED"},
			{"a port that a rule opens for the pool, at its gateway", out(gateway4, tcp(1000, 7000, syn)), "PROTECTED"},
			{"a port that a rule opens at its gateway", out(gateway4, udp(1000, 123, nil)), "pass"},
			{"ssh at its gateway, IPv6", out(gateway6, tcp(1000, 22, syn)), "PROTECTED"},
			{"DNS over TLS at its gateway", out(gateway4, tcp(1000, 853, syn)), "PROTECTED"},
			{"a neighbour", out(neighbour4, tcp(1000, 443, syn)), "PROTECTED"},
			{"a neighbour by a rule for the pool", out(neighbour4, tcp(1000, 7000, syn)), "pass"},
			{"itself", out(phone4, tcp(1000, 443, syn)), "PROTECTED"},
			{"a neighbour, IPv6", out(neighbour6, tcp(1000, 443, syn)), "PROTECTED"},
			{"the host's network by a rule", out("192.168.7.9", tcp(1000, 80, syn)), "pass"},
			{"the host's network", out("192.168.7.9", tcp(1000, 81, syn)), "PROTECTED"},
			{"the host by a rule for its network", out("192.168.7.1", tcp(1000, 80, syn)), "PROTECTED"},
			{"the host by a rule for its address", out("192.168.7.1", tcp(1000, 8080, syn)), "pass"},
			{"a private address", out("192.168.1.1", tcp(1000, 80, syn)), "PROTECTED"},
			{"another private address", out("10.1.2.3", tcp(1000, 80, syn)), "PROTECTED"},
			{"a private address, IPv6", out("fd00::1", tcp(1000, 80, syn)), "PROTECTED"},
			{"link-local", out("169.254.1.1", tcp(1000, 80, syn)), "PROTECTED"},
			{"link-local, IPv6", out("fe80::7", tcp(1000, 80, syn)), "PROTECTED"},
			{"its gateway's link-local address", out("fe80::1", tcp(1000, 80, syn)), "PROTECTED"},
			{"metadata", out("169.254.169.254", tcp(1000, 80, syn)), "PROTECTED"},
			{"metadata, IPv6", out("fd00:ec2::254", tcp(1000, 80, syn)), "PROTECTED"},
			{"loopback", out("127.0.0.1", tcp(1000, 80, syn)), "PROTECTED"},
			{"loopback, IPv6", out("::1", tcp(1000, 80, syn)), "PROTECTED"},
			{"this network", out("0.0.0.0", tcp(1000, 80, syn)), "PROTECTED"},
			{"nowhere, IPv6", out("::", tcp(1000, 80, syn)), "PROTECTED"},
			{"reserved", out("240.0.0.1", tcp(1000, 80, syn)), "PROTECTED"},
			{"its pool's first address", out("10.213.0.0", tcp(1000, 80, syn)), "PROTECTED"},
		})
	})
	t.Run("ingress", func(t *testing.T) {
		l.table(t, policy.Ingress, []packetCase{
			{"a port that is open", in(peer4, tcp(1000, 5555, syn)), "pass"},
			{"another port", in(peer4, tcp(1000, 5556, syn)), "DEFAULT"},
			{"the port of another protocol", in(peer4, udp(1000, 5555, nil)), "DEFAULT"},
			{"from the port", in(peer4, tcp(5555, 1000, syn)), "DEFAULT"},
			{"another peer", in("203.0.113.9", tcp(1000, 5555, syn)), "DEFAULT"},
			{"IPv6", in(peer6, tcp(1000, 5555, syn)), "DEFAULT"},
			{"echo", in(peer4, ping4(1)), "DEFAULT"},
			{"a neighbour that a rule names", in(neighbour4, tcp(1000, 5555, syn)), "pass"},
			{"another neighbour", in("10.213.0.8", tcp(1000, 5555, syn)), "DEFAULT"},
			{"a private network by a rule", in("192.168.1.1", udp(1000, 9, nil)), "pass"},
			{"the host's network by a rule for more", in("192.168.7.9", udp(1000, 9, nil)), "PROTECTED"},
			{"the gateway", in(gateway4, tcp(1000, 5555, syn)), "DEFAULT"},
			{"DNS that was not asked for", in(gateway4, udp(53, 1000, nil)), "DEFAULT"},
		})
	})
}

func TestUnderDenyAll(t *testing.T) {
	l := newLab(t, "default deny-all\nallow egress tcp 198.51.100.0/24 443\n")
	l.table(t, policy.Egress, []packetCase{
		{"what a rule allows", out(peer4, tcp(1000, 443, syn)), "pass"},
		{"the internet", out(peer4, tcp(1000, 80, syn)), "DEFAULT"},
		{"IPv6", out(peer6, tcp(1000, 443, syn)), "DEFAULT"},
		{"its gateway's DNS", out(gateway4, udp(1000, 53, nil)), "pass"},
		{"echo to its gateway", out(gateway4, ping4(1)), "pass"},
		{"ssh at its gateway", out(gateway4, tcp(1000, 22, syn)), "DEFAULT"},
		{"a neighbour", out(neighbour4, tcp(1000, 443, syn)), "DEFAULT"},
		{"DNS past the gateway", out(peer4, udp(1000, 53, nil)), "DEFAULT"},
	})
}

// The rules of a verdict are those of the policy, of what is protected and of names.
func TestVerdictsSayWhy(t *testing.T) {
	l := newLab(t, "allow egress tcp *.example.com 443\ndeny egress tcp 198.51.100.0/24\nallow egress tcp 192.168.7.0/24\n")
	l.lease(peer4, time.Minute, "*.example.com")
	name := policy.NameID("*.example.com")
	for _, c := range []struct {
		what  string
		d     policy.Direction
		frame []byte
		want  bpfVerdict
	}{
		{"a name", policy.Egress, out(peer4, tcp(1, 443, syn)), bpfVerdict{Rule: 0, Name: [2]uint32{uint32(name), uint32(name >> 32)}, Begins: 1}},
		{"a rule", policy.Egress, out(peer4, tcp(1, 80, syn)), bpfVerdict{Reason: 16, Rule: 1, Begins: 1}},
		{"the default", policy.Egress, out("203.0.113.5", tcp(1, 80, syn)), bpfVerdict{Rule: 0xffffffff, Begins: 1}},
		{"the default for peers", policy.Ingress, in("203.0.113.5", tcp(1, 80, syn)), bpfVerdict{Reason: 17, Rule: 0xffffffff, Begins: 1}},
		{"a network of the host's", policy.Egress, out("192.168.7.9", tcp(1, 80, syn)), bpfVerdict{Rule: 2, Class: 3, Bits: 120, Begins: 1}},
		{"the host", policy.Egress, out("192.168.7.1", tcp(1, 80, syn)), bpfVerdict{Reason: 15, Rule: 2, Class: 2, Bits: 128, Begins: 1}},
		{"the gateway", policy.Egress, out(gateway4, udp(1, 53, nil)), bpfVerdict{Rule: 0xfffffffe, Class: 2, Bits: 128, Begins: 1}},
		{"a neighbour", policy.Egress, out(neighbour6, udp(1, 9, nil)), bpfVerdict{Reason: 15, Rule: 0xffffffff, Class: 1, Bits: 64, Begins: 1}},
		{"no rule was asked", policy.Egress, up(ip(neighbour4, peer4, tcp(1, 2, syn))), bpfVerdict{Reason: 11, Rule: 0xfffffffc}},
	} {
		c.want.Generation = uint32(l.generation)
		if got := l.judge(c.d, c.frame); got != c.want {
			t.Errorf("%s: %+v; want %+v", c.what, got, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	l := newLab(t, `
deny  egress any ads.example.com
allow egress tcp *.example.com 443
allow egress udp other.test
allow egress tcp 203.0.113.53/32 53
deny  egress any any
`)
	web, quic := out(peer4, tcp(1000, 443, syn)), out(peer4, udp(1000, 443, nil))
	expect := func(what string, frame []byte, want string) {
		t.Helper()
		l.limit(16)
		if got := reasonName(l.send(policy.Egress, frame)); got != want {
			t.Errorf("%s: %s; want %s", what, got, want)
		}
	}
	expect("an address without a name", web, "RULE")
	l.lease(peer4, time.Minute, "*.example.com")
	expect("an address with a name", web, "pass")
	expect("the name's other port", out(peer4, tcp(1000, 80, syn)), "RULE")
	expect("the name's other protocol", quic, "RULE")
	expect("the next address", out("198.51.100.8", tcp(1000, 443, syn)), "RULE")
	l.lease(peer4, time.Minute, "*.example.com", "other.test")
	expect("a second name", quic, "pass")
	expect("the first of two names", web, "pass")
	l.lease(peer4, time.Minute, "other.test", "*.example.com", "ads.example.com")
	expect("a name that an earlier rule denies", web, "RULE")
	l.lease(peer4, time.Minute, "unknown.test", "", "", "", "", "", "", "*.example.com")
	expect("the last of the names", web, "pass")
	l.lease(peer4, -time.Second, "*.example.com")
	expect("a name that has expired", web, "RULE")
	l.lease(peer6, time.Minute, "*.example.com")
	expect("a name, IPv6", out(peer6, tcp(1000, 443, syn)), "pass")
	l.lease(neighbour4, time.Minute, "*.example.com")
	expect("a name does not open what is protected", out(neighbour4, tcp(1000, 443, syn)), "PROTECTED")
	l.lease(gateway4, time.Minute, "*.example.com")
	expect("nor the gateway", out(gateway4, tcp(1000, 443, syn)), "PROTECTED")
	l.put(l.Names, bpfNameKey{Slot: labSlot + 1, Address: key16("198.51.100.9")}, bpfNameValue{Lease: [8]bpfNameLease{{Id: policy.NameID("*.example.com"), Until: 1 << 62}}})
	expect("another phone's name", out("198.51.100.9", tcp(1000, 443, syn)), "RULE")
	expect("a name server that a rule allows", out("203.0.113.53", tcp(1000, 53, syn)), "pass")
}

func TestNameServersPastTheGateway(t *testing.T) {
	names := newLab(t, "allow egress tcp 203.0.113.0/24 853\ndeny egress any ads.example.com\nallow egress any *.example.com\n")
	names.lease(peer6, time.Minute, "*.example.com")
	names.table(t, policy.Egress, []packetCase{
		{"DNS", out(peer4, udp(1000, 53, nil)), "NAME_SERVER"},
		{"DNS by TCP", out(peer4, tcp(1000, 53, syn)), "NAME_SERVER"},
		{"DNS over TLS", out(peer4, tcp(1000, 853, syn)), "NAME_SERVER"},
		{"DNS over QUIC", out(peer4, udp(1000, 853, nil)), "NAME_SERVER"},
		{"DNS to an address with a name", out(peer6, udp(1000, 53, nil)), "NAME_SERVER"},
		{"DNS over TLS that a rule names", out("203.0.113.1", tcp(1000, 853, syn)), "pass"},
		{"DNS there", out("203.0.113.1", tcp(1000, 53, syn)), "NAME_SERVER"},
		{"from port 53", out(peer4, udp(53, 1000, nil)), "pass"},
		{"the gateway", out(gateway4, udp(1000, 53, nil)), "pass"},
	})
	plain := newLab(t, "deny egress tcp any 25\n")
	plain.table(t, policy.Egress, []packetCase{
		{"DNS under a policy without names", out(peer4, udp(1000, 53, nil)), "pass"},
		{"DNS over TLS under a policy without names", out(peer4, tcp(1000, 853, syn)), "pass"},
	})
}

func TestForwards(t *testing.T) {
	l := newLab(t, "default deny-all\n")
	l.put(l.Forwards, bpfForward{Slot: labSlot, Port: 5555, Protocol: 6}, uint8(1))
	l.put(l.Forwards, bpfForward{Slot: labSlot + 1, Port: 6666, Protocol: 6}, uint8(1))
	l.table(t, policy.Ingress, []packetCase{
		{"the host", in(gateway4, tcp(1000, 5555, syn)), "pass"},
		{"a peer", in(peer4, tcp(1000, 5555, syn)), "pass"},
		{"a peer, IPv6", in(peer6, tcp(1000, 5555, syn)), "pass"},
		{"another port", in(gateway4, tcp(1000, 5556, syn)), "DEFAULT"},
		{"another protocol", in(gateway4, udp(1000, 5555, nil)), "DEFAULT"},
		{"another phone's forward", in(gateway4, tcp(1000, 6666, syn)), "DEFAULT"},
		{"a neighbour", in(neighbour4, tcp(1000, 5555, syn)), "DEFAULT"},
	})
	l.limit(16)
	l.run([]step{
		{"a connection", policy.Ingress, in(gateway4, tcp(1000, 5555, syn)), "pass"},
		{"its answer", policy.Egress, out(gateway4, tcp(5555, 1000, syn|ack)), "pass"},
	})
	if err := l.Forwards.Delete(bpfForward{Slot: labSlot, Port: 5555, Protocol: 6}); err != nil {
		t.Fatal(err)
	}
	l.run([]step{{"the connection without the forward", policy.Egress, out(gateway4, tcp(5555, 1000, ack)), "DEFAULT"}})
	if n := l.countFlows(); n != 0 {
		t.Errorf("%d flows are left of it", n)
	}
}

// The kernel's judge, the object's and the definition of what a policy means say the same.
func TestJudgeAgreesWithEvaluate(t *testing.T) {
	l := newLab(t, open)
	random := rand.New(rand.NewPCG(5, 18))
	asked := 0
	for range 100 {
		p := randomPolicy(random)
		l.compile(p)
		protected := randomProtected(random)
		l.object(l.Protected, 0, protected)
		for range 100 {
			q, leased := randomQuery(random, p)
			_, q.ProtectedBits = policy.LookupAddress(protected, q.Peer)
			l.lease(q.Peer.String(), time.Hour, leased...)
			verdict := l.judge(q.Direction, frameOf(q))
			want := wantedReason(p, q)
			if got := reasonName(bpfReason(verdict.Reason)); got != want {
				t.Fatalf("%s: the kernel says %+v; want %s\n%s", fmt.Sprintf("%+v", q), verdict, want, policy.Format(p))
			}
			if e := p.Evaluate(q); int32(verdict.Rule) != int32(e.Rule) {
				t.Fatalf("%+v: the kernel says rule %d; want %d\n%s", q, int32(verdict.Rule), e.Rule, policy.Format(p))
			}
			asked++
		}
	}
	t.Logf("%d flows agreed", asked)
}

var (
	randomPeers = []string{"198.51.100.1", "198.51.100.129", "203.0.113.77", "100.64.1.2", "2001:db8::1", "2001:db8:1::1", "2400:cb00::7"}
	randomNames = []string{"*", "*.example.com", "a.example.com", "*.a.example.com", "other.test"}
	randomPorts = []uint16{1, 22, 80, 443, 444, 8000, 65535}
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func randomPrefix(r *rand.Rand) netip.Prefix {
	a := netip.MustParseAddr(pick(r, randomPeers))
	return netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
}

func randomPolicy(r *rand.Rand) policy.Policy {
	p := policy.Policy{Default: policy.Default(r.IntN(2))}
	for range r.IntN(40) {
		rule := policy.Rule{Action: policy.Action(r.IntN(2)), Direction: policy.Direction(r.IntN(4) / 3), Protocol: policy.Protocol(r.IntN(4))}
		switch kind := r.IntN(5); {
		case kind < 3:
			rule.CIDR = randomPrefix(r)
		case kind == 3 && rule.Direction == policy.Egress:
			rule.Name = pick(r, randomNames)
		}
		if rule.Protocol == policy.TCP || rule.Protocol == policy.UDP {
			for range r.IntN(4) {
				a, b := pick(r, randomPorts), pick(r, randomPorts)
				rule.Ports = append(rule.Ports, policy.PortRange{First: min(a, b), Last: max(a, b)})
			}
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

// randomQuery makes a new flow, with the patterns by which its peer is leased.
func randomQuery(r *rand.Rand, p policy.Policy) (q policy.Query, leased []string) {
	q = policy.Query{
		Direction: policy.Direction(r.IntN(4) / 3), Protocol: policy.Protocol(1 + r.IntN(3)), Port: pick(r, randomPorts), Peer: netip.MustParseAddr(pick(r, randomPeers)),
	}
	if q.Protocol == policy.ICMP {
		q.Port = 0
	}
	if r.IntN(2) == 0 {
		q.Names = []string{pick(r, []string{"a.example.com", "b.a.example.com", "other.test", "third.test"})}
		leased = p.MatchNames(q.Names[0])
	}
	return q, leased[:min(len(leased), policy.MaxNames)]
}

// randomProtected makes an object of protected addresses, among them some of the peers.
func randomProtected(r *rand.Rand) []policy.Cell {
	var classes []policy.AddressClass
	for range r.IntN(6) {
		classes = append(classes, policy.AddressClass{Prefix: randomPrefix(r), Class: uint8(r.IntN(8))})
	}
	return policy.CompileAddresses(classes)
}

// frameOf is a packet that begins the flow.
func frameOf(q policy.Query) []byte {
	source, target := uint16(50000), q.Port
	peer := q.Peer.String()
	s := segment{}
	switch {
	case q.Protocol == policy.TCP:
		s = tcp(source, target, syn)
	case q.Protocol == policy.UDP:
		s = udp(source, target, nil)
	case q.Peer.Is4():
		s = ping4(77)
	default:
		s = ping6(77)
	}
	if q.Direction == policy.Ingress {
		return in(peer, s)
	}
	return out(peer, s)
}

// wantedReason is what Evaluate's verdict means for a packet. The ports are none that a name server has.
func wantedReason(p policy.Policy, q policy.Query) string {
	v := p.Evaluate(q)
	switch {
	case v.Allow:
		return "pass"
	case v.Protected:
		return "PROTECTED"
	case v.Rule >= 0:
		return "RULE"
	default:
		return "DEFAULT"
	}
}
