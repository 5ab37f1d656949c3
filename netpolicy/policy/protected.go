package policy

import (
	"net/netip"
	"slices"
)

// AddressClass says what the addresses of a prefix belong to.
type AddressClass struct {
	// Prefix is an IPv4 or an IPv6 prefix. One of IPv6 says nothing of IPv4, unless it lies in ::ffff:0:0/96: then it is the IPv4 prefix.
	Prefix netip.Prefix
	// Class is one of enum protected_class of layout.h. 0 is none: these addresses are not protected although a shorter prefix is.
	Class uint8
}

// CompileAddresses makes the object of addresses that a policy must name to open them: cells 0 and 1 as an Object has them, with one
// table of addresses for both directions, in whose cells word 2 is the number of bits and word 3 the class. For each address the longest
// prefix counts, and of two that are the same the first. Prefixes that are not valid say nothing.
func CompileAddresses(classes []AddressClass) []Cell {
	var prefixes [families][]prefix // the values are indexes of classes
	for i, c := range classes {
		p := unmapped(c.Prefix).Masked()
		if !p.IsValid() {
			continue
		}
		f := familyOf(p.Addr())
		prefixes[f] = append(prefixes[f], prefix{addressOf(p.Addr()), mappedBits(p), i})
	}
	var ranges [families]starts
	for f := range families {
		slices.SortStableFunc(prefixes[f], prefix.compare)
		unique := slices.CompactFunc(prefixes[f], func(a, b prefix) bool { return a.compare(b) == 0 })
		ranges[f] = sweep(f, unique, -1, nil)
	}
	all := splice(ranges[ipv4], ranges[ipv6])
	table := pair(2, len(all))
	cells := []Cell{{0, 0, table, table}, {}}
	for _, s := range all {
		cell := Cell{s.first.hi, s.first.lo}
		if s.value >= 0 && classes[s.value].Class != 0 {
			cell[2] = uint64(mappedBits(unmapped(classes[s.value].Prefix)))
			cell[3] = uint64(classes[s.value].Class)
		}
		cells = append(cells, cell)
	}
	return cells
}

// LookupAddress finds an address in what CompileAddresses has made. bits is the length of its prefix, 0..128, IPv4's as 96 + its own, and
// -1 where it is not protected: what Query.ProtectedBits wants.
func LookupAddress(cells []Cell, a netip.Addr) (class uint8, bits int) {
	cell := findRange(tableOf(cells, cells[0][2]), a)
	if cell[3] == 0 {
		return 0, -1
	}
	return uint8(cell[3]), int(cell[2])
}

// unmapped is a prefix of IPv4-mapped addresses as one of IPv4. Others stay as they are.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}
