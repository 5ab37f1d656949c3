package nettest

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// piece is a fragment of an IP packet, with what is in it.
func (e end) piece(f flow, protocol byte, id uint16, offset uint16, more bool, payload []byte) []byte {
	if f.From.Is4() {
		return e.frame(header4{From: f.From, To: f.To, Protocol: protocol, ID: id, Offset: offset, More: more}.with(payload))
	}
	return e.frame(f.packet(unix.IPPROTO_FRAGMENT, fragment6(protocol, uint32(id)|0xabcd0000, offset, more, payload)))
}

// fragments are packets in pieces that try to get by the rule for port 6666, or by the rules for headers. Each has an identification of its
// own, but those that belong together.
func fragments(me end, family int) []attack {
	peer, name := server4, "IPv4 "
	if family == unix.ETH_P_IPV6 {
		peer, name = server6, "IPv6 "
	}
	open, denied := me.to(peer, 7100, 80), me.to(peer, 7100, 6666)
	padded := append(slices.Clone(mark), make([]byte, 24-len(mark))...) // a length that is a multiple of 8
	plain := make([]byte, 24)                                           // what may pass
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	errorOf := flow{From: open.From, To: open.To}
	list := []attack{
		{name: "a first fragment with ports and no more", reason: "FRAGMENT", frames: [][]byte{
			me.piece(denied, tcp, 1, 0, true, denied.tcp(syn, mark)[:8]), me.piece(denied, tcp, 1, 8, false, append(denied.tcp(syn, nil)[8:], mark...)),
			me.piece(open, tcp, 2, 0, true, open.tcp(syn, nil)[:16]), me.piece(open, tcp, 2, 16, false, append(open.tcp(syn, nil)[16:], mark...)),
		}},
		{name: "later fragments without a first", reason: "FRAGMENT", frames: [][]byte{
			me.piece(open, tcp, 3, 24, false, padded), me.piece(open, udp, 4, 8, true, padded), me.piece(open, icmpOf(peer), 5, 1480, false, padded),
		}},
		{name: "a fragment over the ports of TCP", reason: "FRAGMENT", prepares: [][]byte{me.piece(open, tcp, 6, 0, true, open.tcp(ack, make([]byte, 4)))}, frames: [][]byte{
			me.piece(open, tcp, 6, 8, false, append(denied.tcp(syn, nil)[8:], mark...)), me.piece(open, tcp, 6, 16, false, padded),
		}},
		{name: "fragments of a packet whose first was denied", reason: "RULE", frames: [][]byte{me.piece(denied, udp, 7, 0, true, denied.udp(padded))}},
		{name: "and what follows it", reason: "FRAGMENT", frames: [][]byte{me.piece(denied, udp, 7, 32, true, padded), me.piece(denied, udp, 7, 56, false, padded)}},
		{name: "a second first fragment over the ports", reason: "RULE", prepares: [][]byte{me.piece(open, udp, 8, 0, true, open.udp(plain))}, frames: [][]byte{
			me.piece(denied, udp, 8, 0, true, denied.udp(padded)), me.piece(denied, udp, 8, 0, false, denied.udp(mark)),
		}},
		{name: "another protocol behind a first fragment", reason: "FRAGMENT", prepares: [][]byte{me.piece(open, udp, 9, 0, true, open.udp(plain))}, frames: [][]byte{me.piece(open, tcp, 9, 32, false, padded)}},
		{name: "fragments beyond the end of what a packet may be", reason: "MALFORMED", frames: [][]byte{
			me.piece(open, udp, 10, 0xfff8, false, append(slices.Clone(padded), padded...)), me.piece(open, udp, 11, 32, true, mark), me.piece(open, udp, 12, 32, false, nil),
		}},
		{name: "a first fragment with half a header", reason: "FRAGMENT", frames: [][]byte{me.piece(open, udp, 13, 0, true, open.udp(nil)[:4]), me.piece(open, icmpOf(peer), 14, 0, true, []byte{8, 0, 0, 0})}},
		{name: "an ICMP error in fragments", reason: "FRAGMENT", frames: [][]byte{me.piece(errorOf, icmpOf(peer), 15, 0, true, errorOf.icmp(3, 1, append(make([]byte, 4), padded...)))}},
	}
	for i := range list {
		list[i].name = name + list[i].name
	}
	return list
}

// malformed are packets that end too early, or whose lengths do not agree.
func malformed(me end) []attack {
	open, open6 := me.to(server4, 7200, 80), me.to(server6, 7200, 80)
	four, six := open.packet(unix.IPPROTO_UDP, open.udp(mark)), open6.packet(unix.IPPROTO_UDP, open6.udp(mark))
	with := func(packet []byte, at int, value uint16) []byte {
		b := slices.Clone(packet)
		binary.BigEndian.PutUint16(b[at:], value)
		return me.frame(b)
	}
	segment := open.tcp(syn, mark)
	segment[12] = 4 << 4 // a header shorter than it can be
	long := open.tcp(syn, mark)
	long[12] = 15 << 4 // and one longer than the packet
	short := make([][]byte, 0, 16)
	for _, size := range []int{15, 20, 33, 40} {
		short = append(short, me.frame(four)[:size])
	}
	for _, size := range []int{30, 53, 60} {
		short = append(short, me.frame(six)[:size])
	}
	nowhere := me.to(server4, 7200, 0)
	return []attack{
		{name: "frames that end within a header", reason: "MALFORMED", frames: short},
		{name: "lengths that do not agree", reason: "MALFORMED", frames: [][]byte{
			with(four, 2, 1500), with(four, 2, 21), with(four, 2, 10), with(four, 20+4, 4), with(four, 20+4, 1000), with(six, 4, 1400), with(six, 4, 0), with(six, 40+4, 7), with(six, 40+4, 900),
			with(four, 0, 0x4400), with(six, 0, 0x5000), append(me.frame(four), make([]byte, 40)...), append(me.frame(six), mark...),
		}},
		{name: "headers that do not agree", reason: "MALFORMED", frames: [][]byte{
			me.frame(open.packet(unix.IPPROTO_TCP, segment)), me.frame(open.packet(unix.IPPROTO_TCP, long)), me.frame(open.packet(unix.IPPROTO_TCP, segment[:12])),
			me.frame(open.packet(unix.IPPROTO_ICMP, open.icmp(8, 0, nil))), me.frame(open6.packet(unix.IPPROTO_ICMPV6, open6.icmp(128, 0, nil))),
			me.datagram(nowhere), me.segment(nowhere, syn), me.segment(me.to(server6, 0, 80), syn),
		}},
	}
}

// withoutFlow are packets that belong to no flow and cannot begin one.
func withoutFlow(me, neighbour end) []attack {
	var list []attack
	for _, peer := range []netip.Addr{server4, server6} {
		var odd [][]byte
		for i, flags := range []byte{0, fin, psh, urg, rst, rst | ack, syn | ack, syn | fin, syn | rst, syn | fin | ack, fin | psh | urg, fin | syn | rst | psh | ack | urg} {
			odd = append(odd, me.segment(me.to(peer, 7300+uint16(i), 80), flags))
		}
		list = append(list, attack{name: "segments of no flow to " + peer.String(), reason: "NO_FLOW", frames: odd}, madeUp(me, neighbour, peer))
	}
	four, six := me.to(server4, 0, 0), me.to(server6, 0, 0)
	rest := append([]byte{10, 213, 1, 2}, mark...)
	return append(list, attack{name: "other kinds of ICMP", reason: "PROTOCOL", frames: [][]byte{
		me.frame(four.packet(1, four.icmp(5, 1, rest))), me.frame(four.packet(1, four.icmp(4, 0, rest))), me.frame(four.packet(1, four.icmp(9, 0, rest))), me.frame(four.packet(1, four.icmp(13, 0, rest))),
		me.frame(four.packet(1, four.icmp(17, 0, rest))), me.frame(four.packet(1, four.icmp(42, 0, rest))), me.frame(four.packet(1, four.icmp(8, 1, rest))),
		me.frame(six.packet(58, six.icmp(130, 0, rest))), me.frame(six.packet(58, six.icmp(138, 0, rest))), me.frame(six.packet(58, six.icmp(139, 0, rest))), me.frame(six.packet(58, six.icmp(128, 1, rest))),
		me.frame(six.packet(58, six.icmp(200, 0, rest))), me.frame(six.packet(58, six.icmp(5, 0, rest))),
	}})
}

// madeUp are answers to what nobody asked, and errors about what nobody sent.
func madeUp(me, neighbour end, peer netip.Addr) attack {
	f := me.to(peer, 7400, 80)
	theirs := flow{peer, neighbour.four, 80, 7400}
	reply, unreachable, tooBig := byte(0), byte(3), byte(3)
	if peer.Is6() {
		theirs.To = neighbour.six
		reply, unreachable, tooBig = 129, 1, 2
	}
	about := func(kind byte, quoted flow, protocol byte, payload []byte) []byte {
		return me.frame(f.packet(icmpOf(peer), f.icmp(kind, 0, slices.Concat([]byte{0, 0, 5, 0}, quoted.packet(protocol, payload), mark))))
	}
	back := flow{peer, f.From, 80, 7401}
	return attack{name: "answers and errors about nothing, to " + peer.String(), reason: "NO_FLOW", frames: [][]byte{
		me.frame(f.packet(icmpOf(peer), f.icmp(reply, 0, append([]byte{0, 7, 0, 1}, mark...)))),
		about(unreachable, back, unix.IPPROTO_UDP, back.udp(nil)), about(tooBig, back, unix.IPPROTO_TCP, back.tcp(ack, nil)), about(unreachable, theirs, unix.IPPROTO_UDP, theirs.udp(nil)),
		about(unreachable, f, unix.IPPROTO_UDP, f.udp(nil)),
	}}
}
