package nettest

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// attack is frames that a phone sends and that must not pass, each counted under one reason; and those that prepare it, which may pass and
// are sent before.
type attack struct {
	name     string
	reason   string
	frames   [][]byte
	prepares [][]byte
}

// attacks are all of them, from me; neighbour is another phone of the host.
func attacks(me, neighbour end) []attack {
	return slices.Concat(
		spoofing(me, neighbour), speakingForOthers(me, neighbour), otherProtocols(me), tagging(me), options(me), extensions(me), fragments(me, unix.ETH_P_IP),
		fragments(me, unix.ETH_P_IPV6), malformed(me), withoutFlow(me, neighbour), toEverybody(me), toProtected(me, neighbour),
	)
}

// to is a flow from the phone's own address of the right family, from a port to a port.
func (e end) to(peer netip.Addr, fromPort, toPort uint16) flow {
	if peer.Is4() {
		return flow{e.four, peer, fromPort, toPort}
	}
	return flow{e.six, peer, fromPort, toPort}
}

// datagram is a frame with a datagram of UDP and the mark.
func (e end) datagram(f flow) []byte { return e.frame(f.packet(unix.IPPROTO_UDP, f.udp(mark))) }

// segment is a frame with a segment of TCP and the mark.
func (e end) segment(f flow, flags byte) []byte {
	return e.frame(f.packet(unix.IPPROTO_TCP, f.tcp(flags, mark)))
}

// all begins a flow of TCP, one of UDP and one of ICMP.
func (e end) all(f flow) [][]byte {
	request := byte(8)
	if f.From.Is6() {
		request = 128
	}
	return [][]byte{e.segment(f, syn), e.datagram(f), e.frame(f.packet(icmpOf(f.From), f.icmp(request, 0, append([]byte{0, 9, 0, 1}, mark...))))}
}

func spoofing(me, neighbour end) []attack {
	var list []attack
	for who, source := range map[string]netip.Addr{
		"its neighbour": neighbour.four, "the gateway": gateway4, "the host": host4, "a machine of the internet": other4, "nobody": netip.IPv4Unspecified(),
		"loopback": netip.MustParseAddr("127.0.0.1"), "everybody": netip.MustParseAddr("255.255.255.255"),
	} {
		list = append(list, attack{name: "it says it is " + who, reason: "SPOOFED_IP", frames: me.all(flow{source, server4, 7000, 80})})
	}
	for who, source := range map[string]netip.Addr{
		"its neighbour": neighbour.six, "the gateway": gateway6, "the gateway on the link": netip.MustParseAddr("fe80::1"), "the host": host6, "nobody": netip.IPv6Unspecified(),
		"itself on the link": me.linkLocal, "a machine of the internet": other6, "another of its network": netip.MustParseAddr("fd70:686f:6e65::1:99"),
		"a mapped address": netip.AddrFrom16(me.four.As16()),
	} {
		packet := flow{netip.AddrFrom16(source.As16()), server6, 7000, 80}
		list = append(list, attack{name: "it says by IPv6 it is " + who, reason: "SPOOFED_IP", frames: [][]byte{me.frame(ip6(packet.From, packet.To, unix.IPPROTO_UDP, packet.udp(mark)))}})
	}
	f := me.to(server4, 7000, 80)
	for who, mac := range map[string]net.HardwareAddr{"its neighbour": neighbour.mac, "the gateway": me.gatewayMAC, "everybody": {255, 255, 255, 255, 255, 255}, "nobody": make([]byte, 6)} {
		list = append(list, attack{name: "its frames are " + who + "'s", reason: "SPOOFED_MAC", frames: [][]byte{
			ether(me.gatewayMAC, mac, unix.ETH_P_IP, f.packet(unix.IPPROTO_UDP, f.udp(mark))),
			ether(me.gatewayMAC, mac, unix.ETH_P_ARP, arp(1, mac, me.four, make([]byte, 6), gateway4)),
		}})
	}
	return list
}

var broadcast = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// speakingForOthers is ARP and neighbour discovery.
func speakingForOthers(me, neighbour end) []attack {
	nobody := make(net.HardwareAddr, 6)
	ask := func(operation uint16, mac net.HardwareAddr, sender netip.Addr, target netip.Addr) []byte {
		return ether(broadcast, me.mac, unix.ETH_P_ARP, arp(operation, mac, sender, nobody, target))
	}
	short := ask(1, me.mac, me.four, gateway4)
	short[18] = 8 // the length of hardware addresses
	list := []attack{
		{name: "ARP: the gateway is here", reason: "SPOOFED_IP", frames: [][]byte{ask(2, me.mac, gateway4, gateway4), ask(1, me.mac, gateway4, me.four)}},
		{name: "ARP: its neighbour is here", reason: "SPOOFED_IP", frames: [][]byte{ask(2, me.mac, neighbour.four, gateway4), ask(2, me.mac, neighbour.four, neighbour.four)}},
		{name: "ARP: it is elsewhere", reason: "SPOOFED_MAC", frames: [][]byte{ask(2, neighbour.mac, me.four, gateway4), ask(1, me.gatewayMAC, gateway4, me.four)}},
		{name: "ARP: who is its neighbour", reason: "NEIGHBOUR", frames: [][]byte{ask(1, me.mac, me.four, neighbour.four), ask(1, me.mac, netip.IPv4Unspecified(), neighbour.four)}},
		{name: "ARP: other operations", reason: "NEIGHBOUR", frames: [][]byte{ask(3, me.mac, me.four, gateway4), ask(8, me.mac, me.four, gateway4)}},
		{name: "ARP: of other lengths", reason: "MALFORMED", frames: [][]byte{short}},
	}
	var flood [][]byte
	for i := range 500 {
		flood = append(flood, ask(1, me.mac, me.four, netip.AddrFrom4([4]byte{10, 213, byte(2 + i>>8), byte(i)})))
	}
	list = append(list, attack{name: "ARP: who is everybody", reason: "NEIGHBOUR", frames: flood})
	return append(list, discovery(me, neighbour)...)
}

// discovery is neighbour discovery (RFC 4861).
func discovery(me, neighbour end) []attack {
	onLink, all := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1")
	nonce := append(append([]byte{14, 2}, mark...), make([]byte, 14-len(mark))...) // an option, RFC 3971, 5.3.2
	message := func(from, to netip.Addr, kind byte, body, options []byte) []byte {
		f := flow{From: from, To: to}
		return me.frame(f.packet(unix.IPPROTO_ICMPV6, f.icmp(kind, 0, slices.Concat(body, options, nonce))))
	}
	about := func(a netip.Addr) []byte { return append(make([]byte, 4), a.AsSlice()...) }
	mine, theirs := append([]byte{2, 1}, me.mac...), append([]byte{1, 1}, neighbour.mac...)
	far := flow{me.six, gateway6, 0, 0}
	hops := me.frame(far.packet(unix.IPPROTO_ICMPV6, far.icmp(135, 0, append(about(gateway6), nonce...))))
	hops[14+7] = 64
	return []attack{
		{name: "ND: the gateway is here", reason: "SPOOFED_IP", frames: [][]byte{message(me.six, all, 136, about(gateway6), mine), message(me.linkLocal, all, 136, about(onLink), mine)}},
		{name: "ND: its neighbour is here", reason: "SPOOFED_IP", frames: [][]byte{message(me.six, all, 136, about(neighbour.six), mine), message(neighbour.six, all, 136, about(neighbour.six), mine)}},
		{name: "ND: it is elsewhere", reason: "SPOOFED_MAC", frames: [][]byte{message(me.six, gateway6, 135, about(gateway6), theirs), message(me.six, all, 136, about(me.six), append([]byte{2, 1}, neighbour.mac...))}},
		{name: "ND: who is its neighbour", reason: "NEIGHBOUR", frames: [][]byte{message(me.six, all, 135, about(neighbour.six), nil), message(me.six, neighbour.six, 135, about(neighbour.six), nil)}},
		{name: "ND: it is the router", reason: "NEIGHBOUR", frames: [][]byte{message(me.linkLocal, all, 134, make([]byte, 12), mine[:0]), message(me.linkLocal, neighbour.linkLocal, 134, make([]byte, 12), nil)}},
		{name: "ND: a redirect", reason: "NEIGHBOUR", frames: [][]byte{message(me.linkLocal, onLink, 137, append(about(server6), neighbour.six.AsSlice()...), nil)}},
		{name: "ND: from afar", reason: "NEIGHBOUR", frames: [][]byte{hops}},
	}
}

func otherProtocols(me end) []attack {
	inner := me.to(server4, 7000, 80)
	packet := inner.packet(unix.IPPROTO_UDP, inner.udp(mark))
	var foreign [][]byte
	for _, kind := range []uint16{0x88cc, 0x8847, 0x8863, 0x8864, 0x888e, 0x88e5, 0x88e7, 0x9100, 0x0805, 0x0060, 0x0003, 0x88f7, 0xffff} {
		foreign = append(foreign, ether(me.gatewayMAC, me.mac, kind, packet))
	}
	list := []attack{
		{name: "neither IP nor ARP", reason: "NOT_IP", frames: foreign},
		{name: "another version of IP", reason: "MALFORMED", frames: [][]byte{
			ether(me.gatewayMAC, me.mac, unix.ETH_P_IPV6, packet),
			ether(me.gatewayMAC, me.mac, unix.ETH_P_IP, func() []byte { f := me.to(server6, 7000, 80); return f.packet(unix.IPPROTO_UDP, f.udp(mark)) }()),
		}},
	}
	for _, peer := range []netip.Addr{server4, server6} {
		var others [][]byte
		for _, protocol := range []byte{2, 4, 33, 41, 46, 47, 50, 89, 94, 97, 103, 112, 115, 132, 136, 137, 253, 255, unix.IPPROTO_ICMP ^ unix.IPPROTO_ICMPV6 ^ icmpOf(peer)} {
			f := me.to(peer, 7000, 80)
			others = append(others, me.frame(f.packet(protocol, f.udp(mark))))
		}
		list = append(list, attack{name: "neither TCP, UDP nor ICMP to " + peer.String(), reason: "PROTOCOL", frames: others})
	}
	return list
}

func tagging(me end) []attack {
	f := me.to(server4, 7000, 80)
	packet := f.packet(unix.IPPROTO_UDP, f.udp(mark))
	tag := func(protocols ...uint16) []byte {
		var b []byte
		for _, p := range protocols[1:] {
			b = binary.BigEndian.AppendUint16(b, 5)
			b = binary.BigEndian.AppendUint16(b, p)
		}
		return ether(me.gatewayMAC, me.mac, protocols[0], append(b, packet...))
	}
	priority := tag(0x8100, 0x0800)
	priority[15] = 0 // no VLAN, only a priority
	return []attack{{name: "VLAN tags", reason: "VLAN", frames: [][]byte{
		tag(0x8100, 0x0800), priority, tag(0x88a8, 0x0800), tag(0x88a8, 0x8100, 0x0800), tag(0x8100, 0x8100, 0x0800), tag(0x8100, 0x8100, 0x88a8, 0x8100, 0x0800), tag(0x8100, 0x0806),
	}}}
}

func options(me end) []attack {
	f := me.to(server4, 7000, 80)
	a, gateway := server4.As4(), gateway4.As4()
	var frames [][]byte
	for _, o := range [][]byte{
		append([]byte{131, 7, 4}, a[:]...), append([]byte{137, 7, 4}, gateway[:]...), append([]byte{7, 7, 4}, 0, 0, 0, 0), {148, 4, 0, 0}, {1, 1, 1, 0},
		{68, 8, 5, 0, 0, 0, 0, 0}, {255, 255, 255, 255},
	} {
		if len(o)%4 > 0 {
			o = append(o, 0)
		}
		frames = append(frames, me.frame(header4{From: f.From, To: f.To, Protocol: unix.IPPROTO_UDP, Options: o}.with(f.udp(mark))))
	}
	return []attack{{name: "IPv4 options", reason: "IP_OPTIONS", frames: frames}}
}

func extensions(me end) []attack {
	f := me.to(server6, 7000, 80)
	datagram := f.udp(mark)
	header := func(first byte, body ...byte) []byte {
		return me.frame(f.packet(first, append(append([]byte{unix.IPPROTO_UDP, byte(len(body)+2)/8 - 1}, body...), datagram...)))
	}
	none := []byte{1, 4, 0, 0, 0, 0}
	routing := append([]byte{0, 1, 0, 0, 0, 0}, server6.AsSlice()...)
	frames := [][]byte{
		header(0, none...), header(0, 5, 2, 0, 0, 1, 0), header(60, none...), header(43, routing...), header(43, append([]byte{4}, routing[1:]...)...), header(51, none...),
		header(59, none...), header(135, none...), header(139, none...), header(140, none...),
		// Within fragments.
		me.frame(f.packet(44, fragment6(60, 77, 0, true, append([]byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}, datagram...)))),
		me.frame(f.packet(44, fragment6(0, 78, 0, false, append([]byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}, datagram...)))),
		me.frame(f.packet(44, fragment6(44, 79, 0, false, fragment6(unix.IPPROTO_UDP, 80, 0, false, datagram)))),
		me.frame(f.packet(44, fragment6(43, 81, 64, false, datagram))),
		// Two, one behind the other.
		me.frame(f.packet(0, slices.Concat([]byte{60, 0}, none, []byte{unix.IPPROTO_UDP, 0}, none, datagram))),
	}
	return []attack{{name: "IPv6 extension headers", reason: "IP6_EXTENSION", frames: frames}}
}

func toEverybody(me end) []attack {
	var frames [][]byte
	for _, a := range []string{
		"255.255.255.255", "10.213.255.255", "224.0.0.1", "224.0.0.251", "239.255.255.250", "ff02::1", "ff02::2", "ff02::fb", "ff01::1", "ff05::2", "ff0e::1", "ff02::1:ff01:2",
	} {
		frames = append(frames, me.all(me.to(netip.MustParseAddr(a), 7000, 5353))...)
	}
	igmp := flow{From: me.four, To: netip.MustParseAddr("224.0.0.22")}
	frames = append(frames, me.frame(header4{From: igmp.From, To: igmp.To, Protocol: 2, Options: []byte{148, 4, 0, 0}}.with(mark)))
	return []attack{{name: "to everybody", reason: "MULTICAST", frames: frames}}
}

// toProtected is to addresses that no policy opens.
func toProtected(me, neighbour end) []attack {
	targets := map[string]netip.Addr{
		"its neighbour": neighbour.four, "its neighbour by IPv6": neighbour.six, "its neighbour on the link": neighbour.linkLocal, "the host": host4, "the host by IPv6": host6,
		"the host's router": router4, "itself": me.four, "itself by IPv6": me.six, "the gateway on the link": netip.MustParseAddr("fe80::1"),
	}
	for what, text := range map[string]string{
		"a machine of the host's network": "192.168.77.99", "the same by IPv6": "fd00:77::99", "loopback": "127.0.0.1", "loopback by IPv6": "::1", "metadata": "169.254.169.254",
		"metadata by IPv6": "fd00:ec2::254", "the link": "169.254.7.7", "10/8": "10.9.9.9", "172.16/12": "172.31.0.1", "192.168/16": "192.168.0.1", "behind a carrier": "100.64.0.1",
		"this network": "0.1.2.3", "nobody": "0.0.0.0", "nobody by IPv6": "::", "reserved": "240.0.0.1", "documentation": "192.0.2.1", "site-local": "fec0::1",
		"a neighbour by 6to4": "2002:ad5:102::1", "a neighbour by Teredo": "2001:0:ad5:102::1", "a neighbour by NAT64": "64:ff9b::10.213.1.2", "a neighbour by local NAT64": "64:ff9b:1::10.213.1.2",
		"a neighbour as compatible": "::10.213.1.2", "metadata by NAT64": "64:ff9b::169.254.169.254", "the host by NAT64": "64:ff9b::192.168.77.1", "the host by 6to4": "2002:c0a8:4d01::1",
	} {
		targets[what] = netip.MustParseAddr(text)
	}
	var list []attack
	for what, a := range targets {
		list = append(list, attack{name: "to " + what, reason: "PROTECTED", frames: me.all(me.to(a, 7000, 80))})
	}
	var others [][]byte
	for _, gateway := range []netip.Addr{gateway4, gateway6} {
		for _, port := range []uint16{22, 54, 67, 111, 547, 853, 5353, 8080} {
			others = append(others, me.segment(me.to(gateway, 7000, port), syn), me.datagram(me.to(gateway, 7000, port)))
		}
	}
	list = append(list, attack{name: "to the gateway's other ports", reason: "PROTECTED", frames: others})
	for what, text := range map[string]netip.Addr{"its neighbour": neighbour.four, "loopback": netip.MustParseAddr("127.0.0.1"), "the server": server4} {
		f := flow{me.six, netip.AddrFrom16(text.As16()), 7000, 80}
		list = append(list, attack{name: fmt.Sprintf("to %s as a mapped address", what), reason: "MALFORMED", frames: [][]byte{me.frame(ip6(f.From, f.To, unix.IPPROTO_UDP, f.udp(mark)))}})
	}
	return list
}
