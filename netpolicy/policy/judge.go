package policy

import (
	"net/netip"
	"sort"
)

// ObjectQuery is a Query as the kernel has it: names are the ids of leases that live.
type ObjectQuery struct {
	Direction Direction
	Peer      netip.Addr
	Protocol  Protocol
	Port      uint16
	// Names are the ids of the names by which the peer's address is open for the phone, at most MaxNames.
	Names []uint64
	// ProtectedBits is the length of the protected prefix that the peer belongs to, as Query has it.
	ProtectedBits int
}

// Judge walks the cells as the kernel's programs do.
func (o *Object) Judge(q ObjectQuery) Verdict {
	k := key(q.Protocol, q.Port)
	found := o.walk(findAddress(o.Cells, o.Cells[0][2+q.Direction], q.Peer), k, decision{})
	for _, id := range q.Names[:min(len(q.Names), MaxNames)] {
		found = o.walk(o.findName(id, q.Direction), k, found)
	}
	return found.verdict(o.Cells[0][1]&FlagAllow != 0 && q.Direction == Egress, q.ProtectedBits)
}

// decision is the first rule that matches so far.
type decision struct {
	found      bool
	rule, bits int
	allow      bool
}

// verdict is what comes of the first rule that matches, or of the default if there is none.
func (d decision) verdict(allowed bool, protectedBits int) Verdict {
	v := Verdict{Allow: allowed, Rule: -1}
	if d.found {
		v.Allow, v.Rule = d.allow, d.rule
	}
	if v.Allow && protectedBits >= 0 && (!d.found || d.bits < protectedBits) {
		v.Allow, v.Protected = false, true
	}
	return v
}

// walk looks for a key in the spans of a node and its parents.
func (o *Object) walk(node int, key uint32, best decision) decision {
	for range MaxChain {
		if node == 0 {
			break
		}
		n := o.Cells[node]
		if s, ok := o.findSpan(n[0], key); ok {
			rule, bits := unpair(s[1])
			if !best.found || rule < best.rule {
				best = decision{true, rule, bits, Action(s[2]) == Allow}
			}
		}
		node = int(n[1])
	}
	return best
}

// findSpan looks for the span that has a key.
func (o *Object) findSpan(table uint64, key uint32) (Cell, bool) {
	first, n := unpair(table)
	spans := o.Cells[first : first+n]
	i := sort.Search(n, func(i int) bool { return uint32(spans[i][0]) > key }) - 1
	if i < 0 || uint32(spans[i][0]>>32) < key {
		return Cell{}, false
	}
	return spans[i], true
}

// findName looks for the node of a name, 0 if there is none.
func (o *Object) findName(id uint64, d Direction) int {
	first, n := unpair(o.Cells[1][0])
	names := o.Cells[first : first+n]
	i := sort.Search(n, func(i int) bool { return names[i][0] >= id })
	if i == n || names[i][0] != id {
		return 0
	}
	egress, ingress := unpair(names[i][1])
	if d == Ingress {
		return ingress
	}
	return egress
}

// findRange returns the cell of a table of addresses that holds for an address.
func findRange(cells []Cell, table uint64, peer netip.Addr) Cell {
	a := addressOf(normal(peer))
	first, n := unpair(table)
	ranges := cells[first : first+n]
	i := sort.Search(n, func(i int) bool { return address{ranges[i][0], ranges[i][1]}.compare(a) > 0 })
	return ranges[i-1]
}

// findAddress returns the node of an address, 0 if there is none.
func findAddress(cells []Cell, table uint64, peer netip.Addr) int {
	return int(findRange(cells, table, peer)[2])
}
