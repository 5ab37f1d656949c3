package datapath

import "net/netip"

// bytes16 is an address as maps have it: IPv4 as ::ffff:a.b.c.d; the zero Addr is all zero.
func bytes16(a netip.Addr) [16]byte {
	if !a.IsValid() {
		return [16]byte{}
	}
	return a.As16()
}

// addrOf is the reverse. All zero, the unspecified address of a table without one, is the zero Addr.
func addrOf(b [16]byte) netip.Addr {
	if b == [16]byte{} {
		return netip.Addr{}
	}
	return netip.AddrFrom16(b).Unmap()
}
