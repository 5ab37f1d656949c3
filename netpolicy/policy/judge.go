package policy

import (
	"net/netip"
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

// Judge walks the cells as the kernel's programs do, within the same bounds.
func (o *Object) Judge(q ObjectQuery) Verdict {
	k := key(q.Protocol, q.Port)
	ranges := o.table(o.Cells[0][2+q.Direction])
	found := o.walk(int(findRange(ranges, q.Peer)[2]), k, decision{})
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
	spans := o.table(table)
	i := last(spans, func(c Cell) bool { return uint32(c[0]) <= key })
	if i < 0 || uint32(spans[i][0]>>32) < key {
		return Cell{}, false
	}
	return spans[i], true
}

// findName looks for the node of a name, 0 if there is none.
func (o *Object) findName(id uint64, d Direction) int {
	names := o.table(o.Cells[1][0])
	i := last(names, func(c Cell) bool { return c[0] <= id })
	if i < 0 || names[i][0] != id {
		return 0
	}
	egress, ingress := unpair(names[i][1])
	if d == Ingress {
		return ingress
	}
	return egress
}

// table is the cells of a table.
func (o *Object) table(word uint64) []Cell {
	return tableOf(o.Cells, word)
}

func tableOf(cells []Cell, word uint64) []Cell {
	first, n := unpair(word)
	return cells[first : first+n]
}

// findRange returns the cell of a table of addresses that holds for an address.
func findRange(ranges []Cell, peer netip.Addr) Cell {
	a := addressOf(normal(peer))
	return ranges[last(ranges, func(c Cell) bool { return address{c[0], c[1]}.compare(a) <= 0 })]
}

// last finds the last cell of a sorted table that is not past what is looked for, -1 if all are, in at most MaxSearch steps.
func last(table []Cell, notPast func(Cell) bool) int {
	low, n := 0, len(table)
	for range MaxSearch {
		if n <= 1 {
			break
		}
		half := n / 2
		if notPast(table[low+half]) {
			low += half
			n -= half
		} else {
			n = half
		}
	}
	if n == 0 || !notPast(table[low]) {
		return -1
	}
	return low
}
