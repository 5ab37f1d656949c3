package nettest

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// What frames are made of. All of it is appended from the outside in: ether(to, from, type, ip4(..., udp(...))).

func ether(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	b := append(append(make([]byte, 0, 14+len(payload)), to...), from...)
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

// header4 is an IPv4 header; Length, if it is not 0, is what it says in place of the truth.
type header4 struct {
	From, To netip.Addr
	Protocol byte
	ID       uint16
	Offset   uint16 // of a fragment, in bytes
	More     bool
	Options  []byte
	Length   uint16
}

func (h header4) with(payload []byte) []byte {
	size := 20 + len(h.Options)
	b := make([]byte, size, size+len(payload))
	b[0], b[8], b[9] = 0x40|byte(size/4), 64, h.Protocol
	length := h.Length
	if length == 0 {
		length = uint16(size + len(payload))
	}
	binary.BigEndian.PutUint16(b[2:], length)
	binary.BigEndian.PutUint16(b[4:], h.ID)
	flags := h.Offset / 8
	if h.More {
		flags |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], flags)
	copy(b[12:], h.From.AsSlice())
	copy(b[16:], h.To.AsSlice())
	copy(b[20:], h.Options)
	binary.BigEndian.PutUint16(b[10:], checksum(0, b))
	return append(b, payload...)
}

func ip6(from, to netip.Addr, next byte, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	return append(b, payload...)
}

// fragment6 is the fragment header of IPv6 before a piece of a packet.
func fragment6(next byte, id uint32, offset uint16, more bool, payload []byte) []byte {
	b := []byte{next, 0}
	if more {
		offset |= 1
	}
	b = binary.BigEndian.AppendUint16(b, offset)
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, payload...)
}

// checksum is the internet's (RFC 1071), begun with a sum of what is not in b.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// pseudo is the sum of the header that TCP, UDP and ICMPv6 have before them for their checksums.
func pseudo(from, to netip.Addr, protocol byte, length int) uint32 {
	var sum uint32
	for _, a := range [][]byte{from.AsSlice(), to.AsSlice()} {
		for ; len(a) > 1; a = a[2:] {
			sum += uint32(binary.BigEndian.Uint16(a))
		}
	}
	return sum + uint32(protocol) + uint32(length)
}

// flow is between whom a segment goes.
type flow struct {
	From, To         netip.Addr
	FromPort, ToPort uint16
}

func (f flow) udp(payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, f.FromPort)
	b = binary.BigEndian.AppendUint16(b, f.ToPort)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	binary.BigEndian.PutUint16(b[6:], checksum(pseudo(f.From, f.To, unix.IPPROTO_UDP, len(b)), b))
	return b
}

// Flags of TCP.
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
	urg
)

func (f flow) tcp(flags byte, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, f.FromPort)
	b = binary.BigEndian.AppendUint16(b, f.ToPort)
	b = append(b, 0, 0, 0x10, 0, 0, 0, 0, 0, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], checksum(pseudo(f.From, f.To, unix.IPPROTO_TCP, len(b)), b))
	return b
}

// icmp is a message of ICMP, or of ICMPv6 by its addresses.
func (f flow) icmp(kind, code byte, payload []byte) []byte {
	b := append([]byte{kind, code, 0, 0}, payload...)
	sum := uint32(0)
	if f.From.Is6() {
		sum = pseudo(f.From, f.To, unix.IPPROTO_ICMPV6, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], checksum(sum, b))
	return b
}

// packet is an IP packet around what is behind its header.
func (f flow) packet(protocol byte, payload []byte) []byte {
	if f.From.Is4() {
		return header4{From: f.From, To: f.To, Protocol: protocol}.with(payload)
	}
	return ip6(f.From, f.To, protocol, payload)
}

// icmpOf is the number of ICMP in an address's family.
func icmpOf(a netip.Addr) byte {
	if a.Is4() {
		return unix.IPPROTO_ICMP
	}
	return unix.IPPROTO_ICMPV6
}

// arp is a message of ARP with the mark as what pads it.
func arp(operation uint16, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, operation)
	b = append(append(b, senderMAC...), sender.AsSlice()...)
	b = append(append(b, targetMAC...), target.AsSlice()...)
	return append(b, mark...)
}
