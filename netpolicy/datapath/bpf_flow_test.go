package datapath

import (
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// What a connection of the phone's from port 40000 to the peer's 443 sends, and what comes back.
func sent(flags byte) []byte { return out(peer4, tcp(40000, 443, flags)) }
func got(flags byte) []byte  { return in(peer4, tcp(443, 40000, flags)) }

func TestLifeOfATCPFlow(t *testing.T) {
	l := newLab(t, "deny egress tcp any 25\n")
	state := func(what string, state, fins uint8, lives uint64) {
		t.Helper()
		k, f := l.flow()
		if want := (bpfFlowKey{Peer: key16(peer4), PeerPort: 443, PhonePort: 40000, Protocol: 6}); k != want {
			t.Errorf("%s: the key is %+v; want %+v", what, k, want)
		}
		if f.State != state || f.Fins != fins {
			t.Errorf("%s: state %d, fins %d; want %d, %d", what, f.State, f.Fins, state, fins)
		}
		// The clock of the programs is coarse.
		if left := int64(f.Expires) - kernelTime(); left > int64(lives) || left < int64(lives)-int64(2*time.Second) {
			t.Errorf("%s: it lives for %v; want %v", what, time.Duration(left), time.Duration(lives))
		}
	}
	s := l.settings
	l.run([]step{{"a reply before anything", policy.Ingress, got(syn | ack), "NO_FLOW"}, {"SYN", policy.Egress, sent(syn), "pass"}})
	state("SYN", 0, 0, s.TcpNew)
	l.run([]step{{"SYN again", policy.Egress, sent(syn), "pass"}})
	state("SYN again", 0, 0, s.TcpNew)
	l.run([]step{{"SYN, ACK", policy.Ingress, got(syn | ack), "pass"}})
	state("SYN, ACK", 1, 0, s.TcpEstablished)
	l.run([]step{
		{"ACK", policy.Egress, sent(ack), "pass"}, {"data", policy.Egress, sent(psh | ack), "pass"}, {"data back", policy.Ingress, got(psh | ack), "pass"},
		{"a SYN in between", policy.Egress, sent(syn), "pass"},
		{"another port of the peer's", policy.Ingress, in(peer4, tcp(444, 40000, ack)), "NO_FLOW"},
		{"another port of the phone's", policy.Ingress, in(peer4, tcp(443, 40001, ack)), "NO_FLOW"},
		{"another peer", policy.Ingress, in("198.51.100.8", tcp(443, 40000, ack)), "NO_FLOW"},
		{"another protocol", policy.Ingress, in(peer4, udp(443, 40000, nil)), "DEFAULT"},
	})
	state("data", 1, 0, s.TcpEstablished)
	_, f := l.flow()
	if f.Packets != [2]uint64{5, 2} || f.Bytes != [2]uint64{5 * 54, 2 * 54} {
		t.Errorf("it has counted %v packets, %v bytes", f.Packets, f.Bytes)
	}
	if f.Direction != 0 || f.Rule != 0xffffffff || f.Generation != l.generation || f.Name != 0 {
		t.Errorf("it is %+v", f)
	}
	l.run([]step{{"FIN", policy.Egress, sent(fin | ack), "pass"}})
	state("FIN", 2, 1, s.TcpClosing)
	l.run([]step{{"data after FIN", policy.Ingress, got(psh | ack), "pass"}})
	state("data after FIN", 2, 1, s.TcpClosing)
	l.run([]step{{"FIN back", policy.Ingress, got(fin | ack), "pass"}})
	state("FIN back", 2, 3, s.TcpClosing)
	l.run([]step{{"the last ACK", policy.Egress, sent(ack), "pass"}})
	state("the last ACK", 3, 3, s.TcpClosed)
	l.run([]step{{"a late ACK", policy.Ingress, got(ack), "pass"}})
	state("a late ACK", 3, 3, s.TcpClosed)
	l.run([]step{{"SYN on a closed flow", policy.Egress, sent(syn), "pass"}})
	state("SYN on a closed flow", 0, 0, s.TcpNew)
	l.run([]step{{"RST", policy.Ingress, got(rst | ack), "pass"}})
	state("RST", 3, 0, s.TcpClosed)
	l.age(11 * time.Second)
	l.run([]step{{"a packet after its time", policy.Ingress, got(ack), "NO_FLOW"}})
	if n := l.countFlows(); n != 0 {
		t.Errorf("%d flows are left", n)
	}
	l.run([]step{{"the middle of a flow that was forgotten", policy.Egress, sent(psh | ack), "pass"}})
	state("the middle of a flow", 1, 0, s.TcpEstablished)
}

func TestSYNOnAClosedFlowIsJudged(t *testing.T) {
	l := newLab(t, open)
	l.run([]step{
		{"SYN", policy.Ingress, got(syn), "pass"}, {"RST", policy.Egress, sent(rst | ack), "pass"},
	})
	l.policy("default allow-internet\n")
	l.run([]step{
		{"SYN of the peer's on a closed flow", policy.Ingress, got(syn), "DEFAULT"},
		{"SYN of the phone's on it", policy.Egress, sent(syn), "pass"},
		{"SYN of the peer's on a new flow", policy.Ingress, got(syn), "pass"},
	})
	if _, f := l.flow(); f.Direction != 0 {
		t.Errorf("the flow was begun by %d", f.Direction)
	}
}

func TestLifeOfOtherFlows(t *testing.T) {
	l := newLab(t, "default allow-internet\n")
	check := func(what string, state uint8, lives uint64) {
		t.Helper()
		_, f := l.flow()
		if left := int64(f.Expires) - kernelTime(); f.State != state || left > int64(lives) || left < int64(lives)-int64(2*time.Second) {
			t.Errorf("%s: state %d for %v; want %d for %v", what, f.State, time.Duration(left), state, time.Duration(lives))
		}
	}
	s := l.settings
	l.run([]step{{"UDP", policy.Egress, out(peer6, udp(5000, 443, nil)), "pass"}})
	check("UDP", 0, s.UdpNew)
	l.run([]step{{"UDP back", policy.Ingress, in(peer6, udp(443, 5000, nil)), "pass"}})
	check("UDP back", 1, s.UdpEstablished)
	l.run([]step{{"UDP again", policy.Egress, out(peer6, udp(5000, 443, nil)), "pass"}})
	check("UDP again", 1, s.UdpEstablished)
	l.age(181 * time.Second)
	l.run([]step{{"UDP back, late", policy.Ingress, in(peer6, udp(443, 5000, nil)), "DEFAULT"}})
	l.limit(16)
	l.run([]step{
		{"echo", policy.Egress, out(peer4, ping4(7)), "pass"},
		{"its reply", policy.Ingress, in(peer4, pong4(7)), "pass"},
		{"the reply of another", policy.Ingress, in(peer4, pong4(8)), "NO_FLOW"},
		{"a reply by the phone", policy.Egress, out(peer4, pong4(7)), "NO_FLOW"},
		{"a request of the peer's with the same number", policy.Ingress, in(peer4, ping4(7)), "NO_FLOW"},
	})
	check("echo", 1, s.Icmp)
	l.age(29 * time.Second)
	l.run([]step{{"a reply in time", policy.Ingress, in(peer4, pong4(7)), "pass"}})
	l.age(31 * time.Second)
	l.run([]step{{"a late reply", policy.Ingress, in(peer4, pong4(7)), "NO_FLOW"}})
	l.limit(16)
	l.run([]step{
		{"DNS", policy.Egress, out(gateway4, udp(5000, 53, nil)), "pass"},
		{"its answer", policy.Ingress, in(gateway4, udp(53, 5000, nil)), "pass"},
		{"an answer to another port", policy.Ingress, in(gateway4, udp(53, 5001, nil)), "DEFAULT"},
	})
	if _, f := l.flow(); f.Rule != 0xfffffffe {
		t.Errorf("the flow's rule is %#x", f.Rule)
	}
	l.limit(16)
	l.policy(open)
	l.run([]step{
		{"echo from a peer", policy.Ingress, in(peer6, ping6(7)), "pass"},
		{"the phone's reply", policy.Egress, out(peer6, pong6(7)), "pass"},
		{"a request of the phone's with the same number", policy.Egress, out(peer6, ping6(7)), "NO_FLOW"},
	})
}

func TestANewPolicyJudgesFlowsAgain(t *testing.T) {
	l := newLab(t, "allow ingress tcp 198.51.100.0/24 22\n")
	in22, out22 := in(peer4, tcp(1000, 22, syn)), out(peer4, tcp(22, 1000, ack))
	l.run([]step{{"out", policy.Egress, sent(syn), "pass"}, {"in", policy.Ingress, in22, "pass"}})
	l.policy("deny egress tcp any 80\nallow ingress tcp 198.51.100.0/24 22\n")
	l.run([]step{{"out, still allowed", policy.Ingress, got(syn | ack), "pass"}, {"in, still allowed", policy.Egress, out22, "pass"}})
	for k, f := range pairs[bpfFlowKey, bpfFlow](t, l.flows) {
		if f.Generation != l.generation {
			t.Errorf("%+v is of generation %d; want %d", k, f.Generation, l.generation)
		}
		if want := map[uint8]uint32{0: 0xffffffff, 1: 1}[f.Direction]; f.Rule != want {
			t.Errorf("%+v has rule %d; want %d", k, f.Rule, want)
		}
	}
	l.policy("deny egress tcp any 443\n")
	l.run([]step{
		{"out, now denied, back", policy.Ingress, got(ack), "RULE"}, {"out, now denied", policy.Egress, sent(ack), "RULE"},
		{"in, now denied", policy.Egress, out22, "DEFAULT"},
	})
	if n := l.countFlows(); n != 1 { // what the phone sent last to port 1000 began nothing
		if n != 0 {
			t.Errorf("%d flows are left", n)
		}
	}
	l.policy("default allow-internet\n")
	l.run([]step{{"the peer's side of a flow that ended", policy.Ingress, got(ack), "NO_FLOW"}})
}

func TestAFlowKeepsItsName(t *testing.T) {
	const names = "default deny-all\nallow egress tcp *.example.com 443\n"
	l := newLab(t, names)
	l.lease(peer4, time.Minute, "*.example.com")
	l.run([]step{{"SYN", policy.Egress, sent(syn), "pass"}, {"SYN, ACK", policy.Ingress, got(syn | ack), "pass"}})
	l.lease(peer4, -time.Second, "*.example.com")
	l.run([]step{{"the name has expired", policy.Egress, sent(ack), "pass"}})
	l.policy(names + "allow egress udp any 123\n")
	l.run([]step{{"another policy with the name", policy.Egress, sent(ack), "pass"}})
	if _, f := l.flow(); f.Name != policy.NameID("*.example.com") || f.Generation != l.generation {
		t.Errorf("the flow is %+v", f)
	}
	l.run([]step{{"a new flow to the address", policy.Egress, out(peer4, tcp(40001, 443, syn)), "DEFAULT"}})
	l.policy("default deny-all\nallow egress tcp *.example.org 443\n")
	l.run([]step{{"a policy without the name", policy.Egress, sent(ack), "DEFAULT"}})
}

func TestAPhoneHasSoManyFlows(t *testing.T) {
	l := newLab(t, "default allow-internet\n")
	l.limit(64)
	for port := range uint16(64) {
		l.run([]step{{"within the limit", policy.Egress, out(peer4, udp(1000+port, 9, nil)), "pass"}})
	}
	l.run([]step{
		{"one too many", policy.Egress, out(peer4, udp(2000, 9, nil)), "FLOW_LIMIT"},
		{"one that is there", policy.Egress, out(peer4, udp(1000, 9, nil)), "pass"},
	})
	l.put(l.Sweeps, uint32(labSlot), uint64(kernelTime())) // the table was swept just now
	l.age(time.Minute)
	l.run([]step{{"before it is swept again", policy.Egress, out(peer4, udp(2000, 9, nil)), "FLOW_LIMIT"}})
	l.put(l.Sweeps, uint32(labSlot), uint64(kernelTime()-int64(1100*time.Millisecond)))
	l.run([]step{{"swept", policy.Egress, out(peer4, udp(2000, 9, nil)), "pass"}})
	if n := l.countFlows(); n != 1 {
		t.Errorf("%d flows are in the table", n)
	}
	var at uint64
	if err := l.Sweeps.Lookup(uint32(labSlot), &at); err != nil || kernelTime()-int64(at) > int64(time.Second) {
		t.Errorf("the sweep was noted %v ago, %v", time.Duration(kernelTime()-int64(at)), err)
	}
}

func TestFragments(t *testing.T) {
	l := newLab(t, "deny egress tcp any 25\ndeny egress udp any 7\n")
	body := make([]byte, 1000)
	cut := func(s segment, from, to int) segment { return segment{s.protocol, s.bytes[from:to]} }
	big := udp(4000, 9, body)
	frag4 := func(id uint16, s segment, from, to int) []byte {
		return out(peer4, cut(s, from, to), fragment4(id, from, to < len(s.bytes)))
	}
	frag6 := func(id uint32, s segment, from, to int) []byte {
		return out(peer6, fragment6(id, from, to < len(s.bytes), cut(s, from, to)))
	}
	stream, denied := tcp(40000, 443, ack), udp(4000, 7, body)
	stream.bytes = append(stream.bytes, body...)
	options := tcp(40000, 443, ack, set(12, 15<<4))
	options.bytes = append(options.bytes, make([]byte, 100)...)
	for _, story := range []struct {
		name  string
		steps []step
	}{
		{"in order", []step{
			{"first", policy.Egress, frag4(7, big, 0, 496), "pass"}, {"second", policy.Egress, frag4(7, big, 496, 992), "pass"}, {"last", policy.Egress, frag4(7, big, 992, 1008), "pass"},
		}},
		{"in order, IPv6", []step{{"first", policy.Egress, frag6(1<<20|7, big, 0, 496), "pass"}, {"last", policy.Egress, frag6(1<<20|7, big, 496, 1008), "pass"}}},
		{"to the phone", []step{
			{"ask", policy.Egress, out(peer4, udp(4000, 9, nil)), "pass"},
			{"first", policy.Ingress, in(peer4, cut(udp(9, 4000, body), 0, 800), fragment4(3, 0, true)), "pass"},
			{"last", policy.Ingress, in(peer4, cut(udp(9, 4000, body), 800, 1008), fragment4(3, 800, false)), "pass"},
			{"the same number from the phone", policy.Egress, frag4(3, big, 800, 1008), "FRAGMENT"},
		}},
		{"without the first", []step{{"last", policy.Egress, frag4(7, big, 496, 1008), "FRAGMENT"}}},
		{"without the first, IPv6", []step{{"last", policy.Egress, frag6(7, big, 496, 1008), "FRAGMENT"}}},
		{"of another packet", []step{{"first", policy.Egress, frag4(7, big, 0, 496), "pass"}, {"last", policy.Egress, frag4(8, big, 496, 1008), "FRAGMENT"}}},
		{"of another packet, IPv6", []step{{"first", policy.Egress, frag6(7, big, 0, 496), "pass"}, {"last", policy.Egress, frag6(1<<16|7, big, 496, 1008), "FRAGMENT"}}},
		{"of another protocol", []step{{"first", policy.Egress, frag4(7, big, 0, 496), "pass"}, {"last", policy.Egress, frag4(7, stream, 496, 1016), "FRAGMENT"}}},
		{"to another peer", []step{
			{"first", policy.Egress, frag4(7, big, 0, 496), "pass"}, {"last", policy.Egress, out("198.51.100.8", cut(big, 496, 1008), fragment4(7, 496, false)), "FRAGMENT"},
		}},
		{"of a first that was denied", []step{{"first", policy.Egress, frag4(7, denied, 0, 496), "RULE"}, {"last", policy.Egress, frag4(7, denied, 496, 1008), "FRAGMENT"}}},
		{"a first that hides the ports", []step{{"first", policy.Egress, out(peer4, segment{17, make([]byte, 4)}, fragment4(7, 0, true)), "FRAGMENT"}}},
		{"a first with 8 bytes of TCP", []step{{"first", policy.Egress, out(peer4, cut(stream, 0, 8), fragment4(7, 0, true)), "FRAGMENT"}}},
		{"a first with 16 bytes of TCP", []step{{"first", policy.Egress, out(peer4, cut(stream, 0, 16), fragment4(7, 0, true)), "FRAGMENT"}}},
		{"a first with half of TCP's options", []step{{"first", policy.Egress, out(peer4, cut(options, 0, 40), fragment4(7, 0, true)), "FRAGMENT"}}},
		{"a first with TCP's header, IPv6", []step{{"first", policy.Egress, frag6(7, stream, 0, 24), "pass"}, {"last", policy.Egress, frag6(7, stream, 24, 1020), "pass"}}},
		{"over TCP's flags", []step{{"first", policy.Egress, frag4(7, stream, 0, 24), "pass"}, {"second", policy.Egress, frag4(7, stream, 8, 1016), "FRAGMENT"}}},
		{"over the end of TCP's header", []step{{"first", policy.Egress, frag4(7, stream, 0, 24), "pass"}, {"second", policy.Egress, frag4(7, stream, 16, 1016), "FRAGMENT"}}},
		{"a second first with a denied port", []step{{"first", policy.Egress, frag4(7, big, 0, 496), "pass"}, {"another", policy.Egress, frag4(7, denied, 0, 496), "RULE"}}},
		{"beyond 64 KiB", []step{
			{"first", policy.Egress, frag4(7, big, 0, 496), "pass"}, {"last", policy.Egress, out(peer4, cut(big, 0, 100), fragment4(7, 65528, false)), "MALFORMED"},
		}},
		{"a middle of an odd length", []step{
			{"first", policy.Egress, frag4(7, big, 0, 496), "pass"}, {"middle", policy.Egress, out(peer4, cut(big, 496, 600), fragment4(7, 496, true)), "pass"},
			{"middle", policy.Egress, out(peer4, cut(big, 496, 601), fragment4(7, 496, true)), "MALFORMED"},
		}},
		{"an empty one", []step{{"first", policy.Egress, frag4(7, big, 0, 496), "pass"}, {"last", policy.Egress, out(peer4, segment{17, nil}, fragment4(7, 496, false)), "MALFORMED"}}},
		{"one that is whole, IPv6", []step{{"whole", policy.Egress, frag6(7, big, 0, 1008), "pass"}, {"last", policy.Egress, frag6(7, big, 496, 1008), "FRAGMENT"}}},
		{"an error", []step{{"first", policy.Egress, out(peer4, icmp4(3, 3, 0, make([]byte, 28)...), fragment4(7, 0, true)), "FRAGMENT"}}},
		{"with an extension header behind", []step{{"later", policy.Egress, out(peer6, fragment6(7, 496, false, extension(60, 17, nil, big))), "IP6_EXTENSION"}}},
		{"as a neighbour", []step{{"later", policy.Egress, up(ip(neighbour4, peer4, big, fragment4(7, 496, false))), "SPOOFED_IP"}}},
	} {
		t.Run(story.name, func(t *testing.T) {
			l := *l
			l.t = t
			l.limit(64)
			l.run(story.steps)
		})
	}
	l.limit(64)
	l.run([]step{{"first", policy.Egress, frag4(7, big, 0, 496), "pass"}})
	l.age(6 * time.Second)
	l.run([]step{{"too late", policy.Egress, frag4(7, big, 496, 1008), "FRAGMENT"}, {"first", policy.Egress, frag4(7, big, 0, 496), "pass"}})
	l.policy("default allow-internet\n")
	l.run([]step{{"under another policy", policy.Egress, frag4(7, big, 496, 1008), "FRAGMENT"}})
	l.limit(1)
	l.run([]step{{"its flow fills the table", policy.Egress, frag4(7, big, 0, 496), "FLOW_LIMIT"}})
}

func TestErrors(t *testing.T) {
	l := newLab(t, open)
	outer := "203.0.113.200" // a router on the way
	asked4, asked6 := ip(phone4, peer4, tcp(40000, 443, syn)), ip(phone6, peer6, udp(5000, 443, nil))
	begin := []step{
		{"TCP", policy.Egress, out(peer4, tcp(40000, 443, syn)), "pass"}, {"UDP, IPv6", policy.Egress, out(peer6, udp(5000, 443, nil)), "pass"},
		{"echo", policy.Egress, out(peer4, ping4(9)), "pass"}, {"from a peer", policy.Ingress, in(peer4, udp(1000, 8000, nil)), "pass"},
		{"echo from a peer", policy.Ingress, in(peer6, ping6(4)), "pass"},
	}
	head := func(packet []byte) []byte { return packet[:28] }
	for _, c := range []step{
		{"unreachable, by a router", policy.Ingress, in(outer, icmp4(3, 1, 0, asked4...)), "pass"},
		{"unreachable, by the peer", policy.Ingress, in(peer4, icmp4(3, 3, 0, head(asked4)...)), "pass"},
		{"too big", policy.Ingress, in(outer, icmp4(3, 4, 1400, head(asked4)...)), "pass"},
		{"time exceeded", policy.Ingress, in(outer, icmp4(11, 0, 0, head(asked4)...)), "pass"},
		{"time exceeded, by the gateway", policy.Ingress, in(gateway4, icmp4(11, 0, 0, head(asked4)...)), "pass"},
		{"parameter problem", policy.Ingress, in(outer, icmp4(12, 0, 0, head(asked4)...)), "pass"},
		{"too big, IPv6", policy.Ingress, in("2001:db8::99", icmp6(2, 0, 1280, asked6...)), "pass"},
		{"unreachable, IPv6", policy.Ingress, in(peer6, icmp6(1, 4, 0, asked6...)), "pass"},
		{"about an echo", policy.Ingress, in(outer, icmp4(11, 0, 0, ip(phone4, peer4, ping4(9))...)), "pass"},
		{"about a reply that was not sent", policy.Ingress, in(outer, icmp4(11, 0, 0, ip(phone4, peer4, pong4(9))...)), "NO_FLOW"},
		{"about an echo of another number", policy.Ingress, in(outer, icmp4(11, 0, 0, ip(phone4, peer4, ping4(8))...)), "NO_FLOW"},
		{"about another port", policy.Ingress, in(outer, icmp4(3, 1, 0, ip(phone4, peer4, tcp(40001, 443, syn))...)), "NO_FLOW"},
		{"about another peer", policy.Ingress, in(outer, icmp4(3, 1, 0, ip(phone4, "198.51.100.8", tcp(40000, 443, syn))...)), "NO_FLOW"},
		{"about another protocol", policy.Ingress, in(outer, icmp4(3, 1, 0, ip(phone4, peer4, udp(40000, 443, nil))...)), "NO_FLOW"},
		{"about a neighbour's packet", policy.Ingress, in(outer, icmp4(3, 1, 0, ip(neighbour4, peer4, tcp(40000, 443, syn))...)), "NO_FLOW"},
		{"about what came in", policy.Ingress, in(outer, icmp4(3, 1, 0, ip(peer4, phone4, tcp(443, 40000, syn))...)), "NO_FLOW"},
		{"about a later fragment", policy.Ingress, in(outer, icmp4(3, 1, 0, ip(phone4, peer4, tcp(40000, 443, syn), fragment4(1, 8, false))...)), "NO_FLOW"},
		{"about options", policy.Ingress, in(outer, icmp4(3, 1, 0, ip(phone4, peer4, tcp(40000, 443, syn), set(0, 0x46))...)), "NO_FLOW"},
		{"about an error", policy.Ingress, in(outer, icmp4(3, 1, 0, ip(phone4, peer4, icmp4(3, 1, 0, asked4...))...)), "NO_FLOW"},
		{"about IPv6 in an error of IPv4", policy.Ingress, in(outer, icmp4(3, 1, 0, asked6...)), "NO_FLOW"},
		{"about an extension header", policy.Ingress, in(peer6, icmp6(1, 4, 0, ip(phone6, peer6, extension(60, 17, nil, udp(5000, 443, nil)))...)), "NO_FLOW"},
		{"about too little", policy.Ingress, in(outer, icmp4(3, 1, 0, asked4[:27]...)), "NO_FLOW"},
		{"about too little, IPv6", policy.Ingress, in(outer6, icmp6(1, 4, 0, asked6[:47]...)), "NO_FLOW"},
		{"about nothing", policy.Ingress, in(outer, icmp4(3, 1, 0)), "NO_FLOW"},
		{"to a neighbour", policy.Ingress, down(ip(outer, neighbour4, icmp4(3, 1, 0, asked4...))), "NO_FLOW"},
		{"the phone refuses", policy.Egress, out(peer4, icmp4(3, 3, 0, ip(peer4, phone4, udp(1000, 8000, nil))...)), "pass"},
		{"the phone refuses an answer", policy.Egress, out(peer4, icmp4(3, 3, 0, ip(peer4, phone4, tcp(443, 40000, syn))...)), "pass"},
		{"the phone refuses an echo", policy.Egress, out(peer6, icmp6(1, 4, 0, ip(peer6, phone6, ping6(4))...)), "pass"},
		{"the phone refuses what did not come", policy.Egress, out(peer4, icmp4(3, 3, 0, ip(peer4, phone4, udp(1001, 8000, nil))...)), "NO_FLOW"},
		{"the phone refuses to another", policy.Egress, out("203.0.113.9", icmp4(3, 3, 0, ip(peer4, phone4, udp(1000, 8000, nil))...)), "NO_FLOW"},
		{"the phone refuses what it sent", policy.Egress, out(peer4, icmp4(3, 3, 0, asked4...)), "NO_FLOW"},
		{"the phone refuses as a neighbour", policy.Egress, up(ip(neighbour4, peer4, icmp4(3, 3, 0, ip(peer4, phone4, udp(1000, 8000, nil))...))), "SPOOFED_IP"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := *l
			l.t = t
			l.limit(64)
			l.run(begin)
			before := pairs[bpfFlowKey, bpfFlow](t, l.flows)
			l.run([]step{c})
			for k, f := range pairs[bpfFlowKey, bpfFlow](t, l.flows) {
				if f != before[k] {
					t.Errorf("the flow %+v has changed", k)
				}
			}
		})
	}
	l.limit(64)
	l.run(begin)
	l.policy("default allow-internet\n")
	l.run([]step{
		{"about a flow that has not been judged again", policy.Ingress, in(outer, icmp4(3, 1, 0, asked4...)), "NO_FLOW"},
		{"the flow goes on", policy.Egress, sent(syn), "pass"},
		{"about it", policy.Ingress, in(outer, icmp4(3, 1, 0, asked4...)), "pass"},
	})
	l.age(3 * time.Hour)
	l.run([]step{{"about a flow that has expired", policy.Ingress, in(outer, icmp4(3, 1, 0, asked4...)), "NO_FLOW"}})
}

const outer6 = "2001:db8:ffff::1"
