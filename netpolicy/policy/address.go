package policy

import (
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
)

// address is an address as the kernel's tables hold it: 128 bits, IPv4 as ::ffff:a.b.c.d.
type address struct {
	hi, lo uint64
}

// The addresses that hold IPv4: ::ffff:0:0/96 (RFC 4291, section 2.5.5.2).
var (
	firstIPv4 = address{0, 0x0000_ffff_0000_0000}
	lastIPv4  = address{0, 0x0000_ffff_ffff_ffff}
	lastIPv6  = address{math.MaxUint64, math.MaxUint64}
)

func addressOf(a netip.Addr) address {
	b := a.As16()
	return address{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (a address) compare(b address) int {
	if c := cmp.Compare(a.hi, b.hi); c != 0 {
		return c
	}
	return cmp.Compare(a.lo, b.lo)
}

// next is the address that follows, :: after the last one.
func (a address) next() address {
	a.lo++
	if a.lo == 0 {
		a.hi++
	}
	return a
}

// family is which peers a prefix can match: one of IPv4 matches no IPv6 address and the other way round.
type family int

const (
	ipv4 family = iota
	ipv6
	families
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// mappedBits is the length of a prefix as the kernel's tables count it: 0..128, IPv4's as 96 + its own; 0 for the zero value.
func mappedBits(p netip.Prefix) int {
	switch {
	case !p.IsValid():
		return 0
	case p.Addr().Is4():
		return 96 + p.Bits()
	}
	return p.Bits()
}

// lastOf is the last address of a prefix.
func lastOf(first address, mapped int) address {
	if mapped <= 64 {
		return address{first.hi | math.MaxUint64>>mapped, math.MaxUint64}
	}
	return address{first.hi, first.lo | math.MaxUint64>>(mapped-64)}
}

// normal is an address as rules know it: IPv4 as such, without a zone.
func normal(a netip.Addr) netip.Addr {
	return a.Unmap().WithZone("")
}
