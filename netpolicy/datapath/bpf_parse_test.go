package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

const open = "default allow-internet\nallow ingress any any\n"

func tagged(kind uint16, frame []byte) []byte {
	return append(append(bytes.Clone(frame[:12]), byte(kind>>8), byte(kind), 0, 7), frame[12:]...)
}

func TestFramesOfAPhone(t *testing.T) {
	l := newLab(t, open)
	request := tcp(40000, 443, syn)
	long := make([]byte, 1200)
	l.table(t, policy.Egress, []packetCase{
		{"TCP", out(peer4, request), "pass"},
		{"TCP, IPv6", out(peer6, request), "pass"},
		{"UDP", out(peer4, udp(4000, 53, long)), "pass"},
		{"UDP, IPv6", out(peer6, udp(4000, 53, nil)), "pass"},
		{"echo", out(peer4, ping4(9)), "pass"},
		{"echo, IPv6", out(peer6, ping6(9)), "pass"},
		{"padded to 60 bytes", append(out(peer4, udp(4000, 4000, nil)), make([]byte, 18)...), "pass"},
		{"another MAC", ethernet(otherMAC, gatewayMAC, 0x800, ip(phone4, peer4, request)), "SPOOFED_MAC"},
		{"another MAC, IPv6", ethernet(otherMAC, gatewayMAC, 0x86dd, ip(phone6, peer6, request)), "SPOOFED_MAC"},
		{"the gateway's MAC", ethernet(gatewayMAC, gatewayMAC, 0x800, ip(phone4, peer4, request)), "SPOOFED_MAC"},
		{"a MAC that differs in its last byte", ethernet("02:00:00:00:00:03", gatewayMAC, 0x800, ip(phone4, peer4, request)), "SPOOFED_MAC"},
		{"a MAC that differs in its first byte", ethernet("06:00:00:00:00:02", gatewayMAC, 0x800, ip(phone4, peer4, request)), "SPOOFED_MAC"},
		{"a neighbour's address", up(ip(neighbour4, peer4, request)), "SPOOFED_IP"},
		{"the gateway's address", up(ip(gateway4, peer4, request)), "SPOOFED_IP"},
		{"an address of the internet", up(ip("203.0.113.5", peer4, request)), "SPOOFED_IP"},
		{"no address", up(ip("0.0.0.0", peer4, request)), "SPOOFED_IP"},
		{"loopback", up(ip("127.0.0.1", peer4, request)), "SPOOFED_IP"},
		{"a neighbour's address, IPv6", up(ip(neighbour6, peer6, request)), "SPOOFED_IP"},
		{"the gateway's address, IPv6", up(ip(gateway6, peer6, request)), "SPOOFED_IP"},
		{"its link-local address beyond the link", up(ip(linkLocal, peer6, request)), "SPOOFED_IP"},
		{"no address, IPv6", up(ip("::", peer6, request)), "SPOOFED_IP"},
		{"its IPv4 address in IPv6", up(ip6Raw("::ffff:10.213.0.2", peer6, request)), "SPOOFED_IP"},
		{"to an IPv4 address in IPv6", up(ip6Raw(phone6, "::ffff:198.51.100.7", request)), "MALFORMED"},
		{"VLAN", tagged(0x8100, out(peer4, request)), "VLAN"},
		{"VLAN, provider's", tagged(0x88a8, out(peer4, request)), "VLAN"},
		{"two VLAN tags", tagged(0x88a8, tagged(0x8100, out(peer4, request))), "VLAN"},
		{"VLAN with another's MAC", tagged(0x8100, ethernet(otherMAC, gatewayMAC, 0x800, ip(phone4, peer4, request))), "SPOOFED_MAC"},
		{"LLDP", ethernet(phoneMAC, "01:80:c2:00:00:0e", 0x88cc, make([]byte, 46)), "NOT_IP"},
		{"802.3 with LLC", ethernet(phoneMAC, gatewayMAC, 46, make([]byte, 46)), "NOT_IP"},
		{"PPPoE", ethernet(phoneMAC, gatewayMAC, 0x8864, make([]byte, 46)), "NOT_IP"},
		{"MPLS", ethernet(phoneMAC, gatewayMAC, 0x8847, ip(phone4, peer4, request)), "NOT_IP"},
		{"IPv4 under the type of IPv6", ethernet(phoneMAC, gatewayMAC, 0x86dd, ip(phone4, peer4, udp(1, 2, long))), "MALFORMED"},
		{"IPv6 under the type of IPv4", ethernet(phoneMAC, gatewayMAC, 0x800, ip(phone6, peer6, request)), "MALFORMED"},
		{"version 5", out(peer4, request, set(0, 0x55)), "MALFORMED"},
		{"a header of 16 bytes", out(peer4, request, set(0, 0x44)), "MALFORMED"},
		{"a length beyond the frame", out(peer4, request, set16(2, 41)), "MALFORMED"},
		{"a length below the header", out(peer4, request, set16(2, 19)), "MALFORMED"},
		{"a length of nothing", out(peer4, request, set16(2, 0)), "MALFORMED"},
		{"a long frame with a short packet", out(peer4, udp(1, 2, long), set16(2, 40)), "MALFORMED"},
		{"a long frame with a short packet, IPv6", out(peer6, udp(1, 2, long), set16(4, 20)), "MALFORMED"},
		{"a length beyond the frame, IPv6", out(peer6, request, set16(4, 21)), "MALFORMED"},
		{"version 4 in IPv6", out(peer6, request, set(0, 0x40)), "MALFORMED"},
		{"jumbo, IPv6", out(peer6, request, set16(4, 0)), "MALFORMED"},
		{"options: no operation", out(peer4, segment{6, append([]byte{1, 1, 1, 0}, request.bytes...)}, set(0, 0x46)), "IP_OPTIONS"},
		{"options: source route", out(peer4, segment{6, append([]byte{131, 7, 4, 203, 0, 113, 1, 0}, request.bytes...)}, set(0, 0x47)), "IP_OPTIONS"},
		{"options beyond the packet", out(peer4, segment{6, nil}, set(0, 0x4f)), "MALFORMED"},
		{"SCTP", out(peer4, segment{132, make([]byte, 20)}), "PROTOCOL"},
		{"GRE", out(peer4, segment{47, make([]byte, 20)}), "PROTOCOL"},
		{"ESP", out(peer4, segment{50, make([]byte, 20)}), "PROTOCOL"},
		{"IPv6 in IPv4", out(peer4, segment{41, ip(phone6, peer6, request)}), "PROTOCOL"},
		{"IPv4 in IPv4", out(peer4, segment{4, ip(phone4, peer4, request)}), "PROTOCOL"},
		{"UDP-Lite", out(peer4, segment{136, make([]byte, 20)}), "PROTOCOL"},
		{"SCTP, IPv6", out(peer6, segment{132, make([]byte, 20)}), "PROTOCOL"},
		{"ICMPv6 in IPv4", out(peer4, ping6(1)), "PROTOCOL"},
		{"ICMP in IPv6", out(peer6, ping4(1)), "PROTOCOL"},
		{"hop-by-hop options", out(peer6, extension(0, 6, nil, request)), "IP6_EXTENSION"},
		{"destination options", out(peer6, extension(60, 6, nil, request)), "IP6_EXTENSION"},
		{"routing", out(peer6, extension(43, 6, nil, request)), "IP6_EXTENSION"},
		{"authentication", out(peer6, extension(51, 6, nil, request)), "IP6_EXTENSION"},
		{"mobility", out(peer6, extension(135, 59, nil, segment{})), "IP6_EXTENSION"},
		{"nothing next", out(peer6, segment{59, make([]byte, 8)}), "IP6_EXTENSION"},
		{"an extension behind a fragment header", out(peer6, fragment6(1, 0, false, extension(60, 6, nil, request))), "IP6_EXTENSION"},
		{"two fragment headers", out(peer6, fragment6(1, 0, false, fragment6(1, 0, false, request))), "IP6_EXTENSION"},
		{"a multicast group", ethernet(phoneMAC, "01:00:5e:00:00:fb", 0x800, ip(phone4, "224.0.0.251", udp(5353, 5353, nil))), "MULTICAST"},
		{"joining a group, with a router alert", up(ip(phone4, "224.0.0.22", segment{2, append([]byte{148, 4, 0, 0}, make([]byte, 8)...)}, set(0, 0x46))), "MULTICAST"},
		{"joining a group without an address", up(ip("0.0.0.0", "224.0.0.22", segment{2, make([]byte, 8)})), "MULTICAST"},
		{"a neighbour's address to a group", up(ip(neighbour4, "224.0.0.251", udp(5353, 5353, nil))), "SPOOFED_IP"},
		{"everybody", up(ip(phone4, "255.255.255.255", udp(68, 67, nil))), "MULTICAST"},
		{"asking for an address that nobody gives", up(ip("0.0.0.0", "255.255.255.255", udp(68, 67, nil))), "MULTICAST"},
		{"everybody in the pool", up(ip(phone4, "10.213.255.255", udp(137, 137, nil))), "MULTICAST"},
		{"a multicast group, IPv6", up(ip(phone6, "ff02::fb", udp(5353, 5353, nil))), "MULTICAST"},
		{"a multicast group from the link-local address", up(ip(linkLocal, "ff02::fb", udp(5353, 5353, nil))), "MULTICAST"},
		{"listener report, with a router alert", up(ip(linkLocal, "ff02::16", extension(0, 58, []byte{5, 2, 0, 0, 1, 0}, icmp6(143, 0, 0)))), "MULTICAST"},
		{"a wide multicast group", up(ip(phone6, "ff0e::1", udp(5353, 5353, nil))), "MULTICAST"},
		{"a neighbour's address to a group, IPv6", up(ip(neighbour6, "ff02::fb", udp(5353, 5353, nil))), "SPOOFED_IP"},
		{"TCP: a header of 16 bytes", out(peer4, tcp(40000, 443, syn, set(12, 4<<4))), "MALFORMED"},
		{"TCP: options beyond the packet", out(peer4, tcp(40000, 443, syn, set(12, 6<<4))), "MALFORMED"},
		{"TCP: from port 0", out(peer4, tcp(0, 443, syn)), "MALFORMED"},
		{"TCP: to port 0", out(peer4, tcp(40000, 0, syn)), "MALFORMED"},
		{"UDP: to port 0", out(peer4, udp(4000, 0, nil)), "MALFORMED"},
		{"UDP: a length below the header", out(peer4, udp(4000, 53, nil, set16(4, 7))), "MALFORMED"},
		{"UDP: a length beyond the packet", out(peer4, udp(4000, 53, nil, set16(4, 9))), "MALFORMED"},
		{"ICMP: echo of another code", out(peer4, icmp4(8, 1, 9<<16)), "PROTOCOL"},
		{"ICMP: redirect", out(peer4, icmp4(5, 1, 0, ip(peer4, phone4, request)...)), "PROTOCOL"},
		{"ICMP: timestamp", out(peer4, icmp4(13, 0, 0, make([]byte, 12)...)), "PROTOCOL"},
		{"ICMP: source quench", out(peer4, icmp4(4, 0, 0, ip(peer4, phone4, request)...)), "PROTOCOL"},
		{"ICMP: router advertisement", out(peer4, icmp4(9, 0, 0)), "PROTOCOL"},
		{"ICMP: address mask", out(peer4, icmp4(17, 0, 0, make([]byte, 4)...)), "PROTOCOL"},
		{"ICMPv6: node information", out(peer6, icmp6(139, 0, 0)), "PROTOCOL"},
		{"ICMPv6: echo of another code", out(peer6, icmp6(128, 3, 0)), "PROTOCOL"},
		{"an echo reply that nobody asked for", out(peer4, pong4(9)), "NO_FLOW"},
		{"TCP: SYN with FIN", out(peer4, tcp(40000, 443, syn|fin)), "NO_FLOW"},
		{"TCP: SYN with RST", out(peer4, tcp(40000, 443, syn|rst)), "NO_FLOW"},
		{"TCP: SYN with ACK", out(peer4, tcp(40000, 443, syn|ack)), "NO_FLOW"},
		{"TCP: RST of no flow", out(peer4, tcp(40000, 443, rst)), "NO_FLOW"},
		{"TCP: RST with ACK of no flow", out(peer4, tcp(40000, 443, rst|ack)), "NO_FLOW"},
		{"TCP: no flags", out(peer4, tcp(40000, 443, 0)), "NO_FLOW"},
		{"TCP: FIN alone", out(peer4, tcp(40000, 443, fin)), "NO_FLOW"},
		{"TCP: all flags", out(peer4, tcp(40000, 443, 0x3f)), "NO_FLOW"},
		{"TCP: a flow that is older than the table", out(peer4, tcp(40000, 443, ack)), "pass"},
		{"TCP: the end of a flow that is older than the table", out(peer4, tcp(40000, 443, fin|ack)), "pass"},
	})
}

// ip6Raw makes an IPv6 packet with addresses that may be IPv4's.
func ip6Raw(source, target string, s segment) []byte {
	return ip("::2", "::3", s, func(h []byte) {
		a, b := key16(source), key16(target)
		copy(h[8:], a[:])
		copy(h[24:], b[:])
	})
}

func TestFramesToAPhone(t *testing.T) {
	l := newLab(t, open)
	l.table(t, policy.Ingress, []packetCase{
		{"TCP", in(peer4, tcp(40000, 80, syn)), "pass"},
		{"TCP, IPv6", in(peer6, tcp(40000, 80, syn)), "pass"},
		{"UDP", in(peer4, udp(40000, 80, nil)), "pass"},
		{"echo", in(peer4, ping4(3)), "pass"},
		{"echo, IPv6", in(peer6, ping6(3)), "pass"},
		{"TCP: ACK of no flow", in(peer4, tcp(443, 40000, ack)), "NO_FLOW"},
		{"TCP: SYN with ACK of no flow", in(peer4, tcp(443, 40000, syn|ack)), "NO_FLOW"},
		{"TCP: RST of no flow", in(peer4, tcp(443, 40000, rst)), "NO_FLOW"},
		{"an echo reply that nobody asked for", in(peer4, pong4(3)), "NO_FLOW"},
		{"an echo reply that nobody asked for, IPv6", in(peer6, pong6(3)), "NO_FLOW"},
		{"to another address", down(ip(peer4, neighbour4, tcp(40000, 80, syn))), "NO_FLOW"},
		{"to another address, IPv6", down(ip(peer6, neighbour6, tcp(40000, 80, syn))), "NO_FLOW"},
		{"to its link-local address", down(ip(peer6, linkLocal, tcp(40000, 80, syn))), "NO_FLOW"},
		{"to a group", down(ip(peer4, "224.0.0.251", udp(5353, 5353, nil))), "MULTICAST"},
		{"to everybody", down(ip(peer4, "10.213.255.255", udp(5353, 5353, nil))), "MULTICAST"},
		{"from a group", down(ip("224.0.0.1", phone4, udp(5353, 5353, nil))), "MULTICAST"},
		{"from a group, IPv6", down(ip("ff02::1", phone6, udp(5353, 5353, nil))), "MULTICAST"},
		{"from an IPv4 address in IPv6", down(ip6Raw("::ffff:198.51.100.7", phone6, tcp(40000, 80, syn))), "MALFORMED"},
		{"VLAN", tagged(0x8100, in(peer4, tcp(40000, 80, syn))), "VLAN"},
		{"options", in(peer4, segment{6, append([]byte{1, 1, 1, 0}, tcp(40000, 80, syn).bytes...)}, set(0, 0x46)), "IP_OPTIONS"},
		{"routing header", in(peer6, extension(43, 6, nil, tcp(40000, 80, syn))), "IP6_EXTENSION"},
		{"SCTP", in(peer4, segment{132, make([]byte, 20)}), "PROTOCOL"},
		{"ICMP: redirect", in(peer4, icmp4(5, 1, 0, make([]byte, 28)...)), "PROTOCOL"},
		{"LLDP", ethernet(gatewayMAC, phoneMAC, 0x88cc, make([]byte, 46)), "NOT_IP"},
	})
}

// Every header that is cut off anywhere is malformed, with lengths that fit what is left and with those that tell of what is gone. Frames
// that end in an IP header are not among them: the kernel does not run a program on one by hand.
func TestTruncated(t *testing.T) {
	l := newLab(t, open)
	quoted := ip(peer4, phone4, tcp(443, 40000, ack))
	for _, c := range []struct {
		name  string
		frame []byte
		need  int // bytes without which it is malformed
	}{
		{"TCP", out(peer4, tcp(40000, 443, syn)), 54},
		{"UDP", out(peer4, udp(4000, 53, nil)), 42},
		{"echo", out(peer4, ping4(9)), 42},
		{"TCP, IPv6", out(peer6, tcp(40000, 443, syn)), 74},
		{"UDP, IPv6", out(peer6, udp(4000, 53, nil)), 62},
		{"echo, IPv6", out(peer6, ping6(9)), 62},
		{"TCP behind a fragment header", out(peer6, fragment6(1, 0, false, tcp(40000, 443, syn))), 82},
		{"TCP with options", out(peer4, tcp(40000, 443, syn, set(12, 5<<4))), 54},
		{"error", out(peer4, icmp4(3, 3, 0, quoted...)), 42},
		{"ARP", up2(arp(1, phoneMAC, phone4, gateway4)), 42},
		{"neighbour solicitation", up(ip(phone6, gateway6, discovery(135, gateway6), hops(255))), 78},
	} {
		for n := max(14, map[uint16]int{0x0800: 34, 0x86dd: 54}[binary.BigEndian.Uint16(c.frame[12:])]); n < c.need; n++ {
			t.Run(fmt.Sprintf("%s/%d", c.name, n), func(t *testing.T) {
				l := *l
				l.t = t
				for kind, frame := range map[string][]byte{"the lengths stay": bytes.Clone(c.frame[:n]), "the lengths follow": fitted(c.frame[:n])} {
					if got := reasonName(l.send(policy.Egress, frame)); got != "MALFORMED" {
						t.Errorf("%s: %s", kind, got)
					}
				}
			})
		}
	}
	if n := l.countFlows(); n > 0 {
		t.Errorf("%d flows began", n)
	}
}

func up2(message []byte) []byte { return ethernet(phoneMAC, broadcastMAC, 0x806, message) }

// fitted sets the length of a packet that was cut off to what is left.
func fitted(frame []byte) []byte {
	b := bytes.Clone(frame)
	switch {
	case b[12] == 8 && b[13] == 0 && len(b) >= 18:
		set16(2, uint16(len(b)-14))(b[14:])
	case b[12] == 0x86 && len(b) >= 54:
		set16(4, uint16(len(b)-54))(b[14:])
	}
	return b
}
