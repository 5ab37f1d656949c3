package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// wellFormed checks all that layout.h says of the cells of an object, and that every table lies within them. It returns the longest chain
// of nodes.
func wellFormed(t testing.TB, cells []policy.Cell) (chain int) {
	t.Helper()
	if len(cells) > policy.MaxCells {
		t.Fatalf("the object has %d cells; it may have %d", len(cells), policy.MaxCells)
	}
	table := func(word uint64) []policy.Cell {
		first, n := uint32(word), uint32(word>>32)
		if n > 0 && first < 2 || uint64(first)+uint64(n) > uint64(len(cells)) {
			t.Fatalf("a table of %d cells from %d on, of %d", n, first, len(cells))
		}
		return cells[first : first+n]
	}
	seen := map[uint64]bool{}
	node := func(index uint64) {
		length := 0
		for ; index != 0; index = cells[index][1] {
			if index < 2 || index >= uint64(len(cells)) {
				t.Fatalf("a node at %d, of %d cells", index, len(cells))
			}
			if length++; length > policy.MaxChain {
				t.Fatalf("a chain of more than %d nodes", policy.MaxChain)
			}
			if !seen[index] {
				seen[index] = true
				checkSpans(t, table(cells[index][0]))
			}
		}
		chain = max(chain, length)
	}
	for direction := range uint64(2) {
		ranges := table(cells[0][2+direction])
		if len(ranges) == 0 || ranges[0][0] != 0 || ranges[0][1] != 0 {
			t.Fatalf("the first address of %d is not ::", len(ranges))
		}
		for i, c := range ranges {
			if i > 0 && (c[0] < ranges[i-1][0] || c[0] == ranges[i-1][0] && c[1] <= ranges[i-1][1]) {
				t.Fatalf("address %d is not behind the one before it", i)
			}
			if c[3] == 0 { // else it is a protected one
				node(c[2])
			}
		}
	}
	names := table(cells[1][0])
	for i, c := range names {
		if c[0] == 0 || i > 0 && c[0] <= names[i-1][0] {
			t.Fatalf("name %d has id %#x, behind %#x", i, c[0], names[max(0, i-1)][0])
		}
		if c[1] == 0 || c[1]>>32 != 0 {
			t.Fatalf("name %d has the nodes %#x; want one for egress and none for ingress", i, c[1])
		}
		node(c[1])
	}
	return chain
}

func checkSpans(t testing.TB, spans []policy.Cell) {
	t.Helper()
	if len(spans) == 0 {
		t.Fatal("a node without spans")
	}
	for i, s := range spans {
		first, last := uint32(s[0]), uint32(s[0]>>32)
		if first > last || last > 2<<16 || i > 0 && first <= uint32(spans[i-1][0]>>32) {
			t.Fatalf("span %d is %#x-%#x, behind %#x", i, first, last, spans[max(0, i-1)][0])
		}
		if uint32(s[1]) >= policy.MaxRules || s[1]>>32 > 128 || s[2] > 1 || s[3] != 0 {
			t.Fatalf("span %d is %#x", i, s)
		}
	}
}

func compile(t testing.TB, p policy.Policy) *policy.Object {
	t.Helper()
	o, err := policy.Compile(p, 1)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestCells shows the cells of a small policy one by one.
func TestCells(t *testing.T) {
	p := mustParse(t, "allow egress any 192.0.2.0/24\ndeny egress tcp *.example 80-90,443\ndeny ingress icmp 2001:db8::/32\n")
	o, err := policy.Compile(p, 0x1_0000_0007)
	if err != nil {
		t.Fatal(err)
	}
	table := func(first, n uint64) uint64 { return first | n<<32 }
	want := []policy.Cell{
		{0x1_0000_0007, policy.FlagAllow | policy.FlagNames, table(2, 3), table(5, 3)},
		{table(8, 1)},
		{0, 0, 0},                  // 2: egress
		{0, 0xffff_c000_0200, 9},   //    192.0.2.0
		{0, 0xffff_c000_0300, 0},   //    192.0.3.0
		{0, 0, 0},                  // 5: ingress
		{0x2001_0db8 << 32, 0, 10}, //    2001:db8::
		{0x2001_0db9 << 32, 0, 0},  //    2001:db9::
		{policy.NameID("*.example"), 11},
		{table(12, 1), 0}, // 9
		{table(13, 1), 0},
		{table(14, 2), 0},
		{0 | 0x2_0000<<32, 0 | 120<<32, 1}, // 12
		{0x2_0000 | 0x2_0000<<32, 2 | 32<<32, 0},
		{80 | 90<<32, 1, 0},
		{443 | 443<<32, 1, 0},
	}
	if len(o.Cells) != len(want) || o.Generation != 0x1_0000_0007 {
		t.Fatalf("generation %#x, %d cells: %#x; want %d", o.Generation, len(o.Cells), o.Cells, len(want))
	}
	for i := range want {
		if o.Cells[i] != want[i] {
			t.Errorf("cell %d is %#x; want %#x", i, o.Cells[i], want[i])
		}
	}
	wellFormed(t, o.Cells)
}

// Policies at the limits: their objects stay small, and say what the policies mean.
func TestLimits(t *testing.T) {
	for _, tt := range limits() {
		t.Run(tt.name, func(t *testing.T) {
			p := mustParse(t, tt.text)
			if len(p.Rules) != tt.rules {
				t.Fatalf("the policy has %d rules; want %d", len(p.Rules), tt.rules)
			}
			o := compile(t, p)
			chain := wellFormed(t, o.Cells)
			t.Logf("%d cells (%d KiB), chains of up to %d nodes", len(o.Cells), len(o.Cells)*32>>10, chain)
			if len(o.Cells) > tt.cells {
				t.Errorf("%d cells; want at most %d", len(o.Cells), tt.cells)
			}
			if chain != tt.chain {
				t.Errorf("the longest chain has %d nodes; want %d", chain, tt.chain)
			}
			more := rand.New(rand.NewPCG(1, 2))
			for range 300 {
				compare(t, p, o, near(more, p))
			}
		})
	}
}

// Every node of the longest chain counts: a port of each length of prefix, asked for the address that all of them hold.
func TestLongestChain(t *testing.T) {
	p := mustParse(t, nestedPrefixes(20))
	o := compile(t, p)
	longest := p.Rules[len(p.Rules)-1].CIDR
	for i, r := range p.Rules {
		q := policy.Query{Protocol: policy.TCP, Peer: longest.Addr(), Port: r.Ports[0].First, ProtectedBits: -1}
		if v := p.Evaluate(q); v.Rule != i {
			t.Fatalf("port %d is decided by rule %d; want %d", q.Port, v.Rule, i)
		}
		compare(t, p, o, q)
	}
}

type limit struct {
	name, text   string
	rules        int
	cells, chain int // at most so many cells; just so many nodes in the longest chain
}

func limits() []limit {
	return []limit{
		{"one prefix with different ports", portsOfOnePrefix(policy.MaxRules), policy.MaxRules, 20 + policy.MaxRules, 1},
		{"prefixes", prefixes(policy.MaxRules), policy.MaxRules, 20 + 4*policy.MaxRules, 1},
		{"nested prefixes, of one port each", nestedPrefixes(1), 129, 20 + 129*(3+16), 9},
		{"nested prefixes, of many ports each", nestedPrefixes(20), 129 * 20, 20 + 129*(3+20), 129},
		{"ports of anybody and prefixes", portsAndPrefixes(policy.MaxRules / 2), policy.MaxRules, 20 + policy.MaxRules*4, 2},
		{"prefixes before ports of anybody", prefixesBeforePorts(policy.MaxRules / 2), policy.MaxRules, 20 + policy.MaxRules*4, 1},
		{"names", names(policy.MaxRules), policy.MaxRules, 20 + 3*policy.MaxRules, 1},
		{"ranges of ports that cross", crossingRanges(policy.MaxRules), policy.MaxRules, 20 + 2*policy.MaxPorts*policy.MaxRules, 1},
		{"anybody and both families with crossing ranges", threeRoots(policy.MaxRules), policy.MaxRules, 20 + 6*policy.MaxPorts*policy.MaxRules, 1},
		{"all at once", most(), policy.MaxRules, policy.MaxCells, 2},
	}
}

func lines(n int, format string, args func(i int) []any) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format+"\n", args(i)...)
	}
	return b.String()
}

func portsOfOnePrefix(n int) string {
	return lines(n, "allow egress tcp 198.51.100.0/24 %d", func(i int) []any { return []any{1 + 3*i} })
}

func prefixes(n int) string {
	return lines(n, "allow egress any %d.%d.%d.0/24", func(i int) []any { return []any{1 + i/5000, i / 100 % 50, i % 100 * 2} })
}

// nestedPrefixes is a rule for each length of an IPv6 prefix and each of some ports, the longest prefix last.
func nestedPrefixes(ports int) string {
	address := netip.MustParseAddr("2001:db8:5555:5555:5555:5555:5555:5555")
	return lines(129*ports, "allow egress tcp %s %d", func(i int) []any {
		return []any{netip.PrefixFrom(address, i/ports).Masked(), 1 + i/ports + 200*(i%ports)}
	})
}

func portsAndPrefixes(n int) string {
	return lines(n, "deny egress tcp any %d", func(i int) []any { return []any{1 + 2*i} }) + prefixes(n)
}

func prefixesBeforePorts(n int) string {
	return prefixes(n) + lines(n, "deny egress udp any %d", func(i int) []any { return []any{1 + 2*i} })
}

func names(n int) string {
	return lines(n, "allow egress any *.n%d.example", func(i int) []any { return []any{i} })
}

// crossing is as many ranges of ports as a rule may have, other ones for each rule, which lie over those of others.
func crossing(i int) string {
	more := rand.New(rand.NewPCG(uint64(i), 3))
	ranges := make([]string, policy.MaxPorts)
	for j := range ranges {
		first := 1 + more.IntN(65000)
		ranges[j] = fmt.Sprintf("%d-%d", first, first+more.IntN(500))
	}
	return strings.Join(ranges, ",")
}

func crossingRanges(n int) string {
	return lines(n, "allow egress tcp any %s", func(i int) []any { return []any{crossing(i)} })
}

func threeRoots(n int) string {
	return lines(n, "allow egress tcp %s %s", func(i int) []any { return []any{[]string{"any", "0.0.0.0/0", "::/0"}[i%3], crossing(i)} })
}

// most is the policy of the most cells that was thought of: every second port of both protocols by rules for anybody, a rule for all that
// lies between, both families apart, and prefixes with ports that cannot be put together with those of anybody.
func most() string {
	const ports = 1 << 16 / policy.MaxPorts
	odd := func(i int) string {
		list := make([]string, policy.MaxPorts)
		for j := range list {
			list[j] = fmt.Sprint(1 + 2*(i*policy.MaxPorts+j)%(1<<16))
		}
		return strings.Join(list, ",")
	}
	return lines(ports, "deny egress %s any %s", func(i int) []any { return []any{[]string{"tcp", "udp"}[i/(ports/2)], odd(i)} }) +
		"allow egress any any\nallow egress any 0.0.0.0/0\nallow egress any ::/0\n" +
		lines(policy.MaxRules-ports-3, "allow egress tcp 2001:db8:%x::/48 %s", func(i int) []any { return []any{i, odd(i)} })
}

// near makes a flow that rules of a policy are about, or nearly.
func near(more *rand.Rand, p policy.Policy) policy.Query {
	r, other := p.Rules[more.IntN(len(p.Rules))], p.Rules[more.IntN(len(p.Rules))]
	q := policy.Query{Protocol: max(r.Protocol, policy.TCP), Peer: netip.MustParseAddr("203.0.113.1"), Port: uint16(more.Uint32()), ProtectedBits: more.IntN(130) - 1}
	for _, r := range []policy.Rule{other, r} {
		if r.CIDR.IsValid() {
			q.Peer = r.CIDR.Addr()
		}
		if len(r.Ports) > 0 {
			q.Port = r.Ports[more.IntN(len(r.Ports))].First - uint16(more.IntN(2))
		}
		if r.Name != "" {
			q.Names = append(q.Names, "www."+strings.TrimPrefix(r.Name, "*."))
		}
	}
	return q
}
