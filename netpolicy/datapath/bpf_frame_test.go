package datapath

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// The ends of the link that frames of the tests go over.
const (
	phone4, gateway4, neighbour4, peer4 = "10.213.0.2", "10.213.0.1", "10.213.0.9", "198.51.100.7"
	phone6, gateway6, neighbour6, peer6 = "fd70:686f:6e65::2", "fd70:686f:6e65::1", "fd70:686f:6e65::9", "2001:db8::7"
	linkLocal                           = "fe80::ff:fe00:2" // of phoneMAC
	phoneMAC, gatewayMAC, otherMAC      = "02:00:00:00:00:02", "02:00:00:00:00:01", "02:00:00:00:00:99"
	broadcastMAC                        = "ff:ff:ff:ff:ff:ff"
)

// edit changes what a builder has made: bytes of the header that it wrote, from its beginning.
type edit func(header []byte)

// set puts bytes at an offset.
func set(at int, b ...byte) edit { return func(h []byte) { copy(h[at:], b) } }

// set16 puts a number at an offset.
func set16(at int, n uint16) edit {
	return func(h []byte) { binary.BigEndian.PutUint16(h[at:], n) }
}

func edited(b []byte, edits []edit) []byte {
	for _, e := range edits {
		e(b)
	}
	return b
}

// segment is what an IP packet carries.
type segment struct {
	protocol byte
	bytes    []byte
}

// The flags of TCP.
const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	psh = 0x08
	ack = 0x10
)

func tcp(source, target uint16, flags byte, edits ...edit) segment {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, source)
	binary.BigEndian.PutUint16(b[2:], target)
	b[12], b[13] = 5<<4, flags
	return segment{6, edited(b, edits)}
}

func udp(source, target uint16, payload []byte, edits ...edit) segment {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, source)
	binary.BigEndian.PutUint16(b[2:], target)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return segment{17, append(edited(b, edits), payload...)}
}

// icmp4 and icmp6 make messages: kind and code, the four bytes behind the checksum, and what follows.
func icmp4(kind, code byte, rest uint32, payload ...byte) segment {
	return segment{1, icmp(kind, code, rest, payload)}
}

func icmp6(kind, code byte, rest uint32, payload ...byte) segment {
	return segment{58, icmp(kind, code, rest, payload)}
}

func icmp(kind, code byte, rest uint32, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest), payload...)
}

// ping4 and ping6 are echo requests, pong4 and pong6 their replies.
func ping4(id uint16) segment { return icmp4(8, 0, uint32(id)<<16) }
func pong4(id uint16) segment { return icmp4(0, 0, uint32(id)<<16) }
func ping6(id uint16) segment { return icmp6(128, 0, uint32(id)<<16) }
func pong6(id uint16) segment { return icmp6(129, 0, uint32(id)<<16) }

func address(text string) []byte { return netip.MustParseAddr(text).AsSlice() }

// ip makes a packet of the version that the addresses have.
func ip(source, target string, s segment, edits ...edit) []byte {
	if netip.MustParseAddr(source).Is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, s.protocol
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(s.bytes)))
		copy(h[12:], address(source))
		copy(h[16:], address(target))
		return append(edited(h, edits), s.bytes...)
	}
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, s.protocol, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(s.bytes)))
	copy(h[8:], address(source))
	copy(h[24:], address(target))
	return append(edited(h, edits), s.bytes...)
}

// fragment4 makes an IP packet a fragment that begins at an offset, in bytes.
func fragment4(id uint16, offset int, more bool) edit {
	flags := uint16(offset / 8)
	if more {
		flags |= 0x2000
	}
	return func(h []byte) { set16(4, id)(h); set16(6, flags)(h) }
}

// fragment6 puts a fragment header before what a packet carries.
func fragment6(id uint32, offset int, more bool, s segment) segment {
	flags := uint16(offset)
	if more {
		flags |= 1
	}
	return extension(44, s.protocol, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, flags), id), s)
}

// extension puts an extension header of 8 bytes before what a packet carries.
func extension(protocol, next byte, body []byte, s segment) segment {
	b := append([]byte{next, 0}, body...)
	return segment{protocol, append(append(b, make([]byte, 8-len(b))...), s.bytes...)}
}

func mac48(text string) []byte {
	m, err := net.ParseMAC(text)
	if err != nil {
		panic(err)
	}
	return m
}

// ethernet makes a frame.
func ethernet(source, target string, kind uint16, payload []byte) []byte {
	b := append(mac48(target), mac48(source)...)
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

func etherType(packet []byte) uint16 {
	if len(packet) > 0 && packet[0]>>4 == 6 {
		return 0x86dd
	}
	return 0x0800
}

// up is a packet as the phone sends it, down as it gets it.
func up(packet []byte) []byte   { return ethernet(phoneMAC, gatewayMAC, etherType(packet), packet) }
func down(packet []byte) []byte { return ethernet(gatewayMAC, phoneMAC, etherType(packet), packet) }

// out is a packet from the phone to a peer, in one back from it.
func out(peer string, s segment, edits ...edit) []byte { return up(ip(own(peer), peer, s, edits...)) }
func in(peer string, s segment, edits ...edit) []byte  { return down(ip(peer, own(peer), s, edits...)) }

// own is the phone's address of the version that the peer's has.
func own(peer string) string {
	if netip.MustParseAddr(peer).Is4() {
		return phone4
	}
	return phone6
}

// arp makes an ARP message.
func arp(operation uint16, senderMAC, sender, target string, edits ...edit) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, 1, 8, 0, 6, 4}, operation)
	b = append(append(b, mac48(senderMAC)...), address(sender)...)
	return edited(append(append(b, make([]byte, 6)...), address(target)...), edits)
}

// discovery makes a message of neighbour discovery about a target, with options of 8 bytes each: kind and MAC.
func discovery(kind byte, target string, options ...[]byte) segment {
	var payload []byte
	if target != "" {
		payload = address(target)
	}
	for _, o := range options {
		payload = append(payload, o...)
	}
	return icmp6(kind, 0, 0, payload...)
}

func option(kind byte, mac string) []byte { return append([]byte{kind, 1}, mac48(mac)...) }

// hops sets the hop limit of IPv6.
func hops(n byte) edit { return set(7, n) }
