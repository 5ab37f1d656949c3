package policy_test

import (
	"net/netip"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

func TestCompileAddresses(t *testing.T) {
	cells := policy.CompileAddresses([]policy.AddressClass{
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Class: 7},
		{Prefix: netip.MustParsePrefix("10.213.0.0/16"), Class: 1},
		{Prefix: netip.MustParsePrefix("10.213.0.0/16"), Class: 3}, // the first counts
		{Prefix: netip.MustParsePrefix("10.213.0.1/16"), Class: 4}, // not masked
		{Prefix: netip.MustParsePrefix("10.213.0.1/32"), Class: 2},
		{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Class: 0},
		{Prefix: netip.MustParsePrefix("::ffff:169.254.0.0/112"), Class: 4},
		{Prefix: netip.MustParsePrefix("255.255.255.255/32"), Class: 6},
		{Prefix: netip.MustParsePrefix("::/8"), Class: 6},
		{Prefix: netip.MustParsePrefix("fe80::/10"), Class: 4},
		{Prefix: netip.MustParsePrefix("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"), Class: 5},
		{},
	})
	for address, want := range map[string][2]int{
		"9.255.255.255":    {0, -1},
		"10.0.0.0":         {7, 104},
		"::ffff:10.0.0.0":  {7, 104},
		"10.255.255.255":   {7, 104},
		"11.0.0.0":         {0, -1},
		"10.213.0.0":       {1, 112},
		"10.213.0.1":       {2, 128},
		"10.213.0.2":       {1, 112},
		"10.214.0.0":       {7, 104},
		"10.1.2.3":         {0, -1},
		"10.2.0.0":         {7, 104},
		"169.254.169.254":  {4, 112},
		"255.255.255.255":  {6, 128},
		"255.255.255.254":  {0, -1},
		"0.0.0.0":          {0, -1},
		"::":               {6, 8},
		"::fffe:ffff:ffff": {6, 8},
		"::1:0:0:0":        {6, 8},
		"100::":            {0, -1},
		"fe80::1%eth0":     {4, 10},
		"fec0::":           {0, -1},
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": {5, 128},
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe": {0, -1},
	} {
		if class, bits := policy.LookupAddress(cells, netip.MustParseAddr(address)); int(class) != want[0] || bits != want[1] {
			t.Errorf("%s: class %d, %d bits; want %d, %d", address, class, bits, want[0], want[1])
		}
	}
	wellFormed(t, cells)
}

func TestNothingIsProtected(t *testing.T) {
	cells := policy.CompileAddresses(nil)
	if len(cells) != 3 || cells[0] != (policy.Cell{0, 0, 2 | 1<<32, 2 | 1<<32}) {
		t.Errorf("the object is %v; want one range, from :: on", cells)
	}
	for _, a := range fuzzedAddresses {
		if class, bits := policy.LookupAddress(cells, a); class != 0 || bits != -1 {
			t.Errorf("%s: class %d, %d bits", a, class, bits)
		}
	}
}

// FuzzCompileAddresses compares the table with a search for the longest prefix.
func FuzzCompileAddresses(f *testing.F) {
	f.Add([]byte{})
	for seed := range byte(32) {
		f.Add([]byte{seed, seed + 1, 3})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSource(b)
		classes := make([]policy.AddressClass, s.below(40))
		for i := range classes {
			classes[i] = policy.AddressClass{Prefix: s.prefix(), Class: uint8(s.below(8))}
		}
		cells := policy.CompileAddresses(classes)
		wellFormed(t, cells)
		for range 100 {
			a := s.address()
			if len(classes) > 0 && s.below(2) == 0 {
				a = oneOf(s, classes).Prefix.Addr()
			}
			wantClass, wantBits := longest(classes, a)
			if class, bits := policy.LookupAddress(cells, a); class != wantClass || bits != wantBits {
				t.Fatalf("%s: class %d, %d bits; want %d, %d of %v", a, class, bits, wantClass, wantBits, classes)
			}
		}
	})
}

// longest is the class of an address as AddressClass defines it.
func longest(classes []policy.AddressClass, a netip.Addr) (class uint8, bits int) {
	best := -1
	for _, c := range classes {
		if c.Prefix.Contains(a) && c.Prefix.Bits() > best {
			best, class = c.Prefix.Bits(), c.Class
		}
	}
	switch {
	case class == 0:
		return 0, -1
	case a.Is4():
		return class, best + 96
	}
	return class, best
}
