package policy

import (
	"cmp"
	"slices"
)

// The protocols as the keys of spans have them, enum protocol_class of layout.h.
const (
	classTCP uint32 = iota
	classUDP
	classICMP
)

// lastKey is the last key that a span may have: the only one of ICMP, whose port is 0.
const lastKey = classICMP << 16

// span is a range of keys, protocol class << 16 | port, and the rule that decides them.
type span struct {
	first, last uint32
	rule        int
}

// key is what a flow is looked up by.
func key(p Protocol, port uint16) uint32 {
	switch p {
	case UDP:
		return classUDP<<16 | uint32(port)
	case ICMP:
		return classICMP << 16
	}
	return classTCP<<16 | uint32(port)
}

// spansOf appends the keys that a rule matches.
func spansOf(spans []span, rule int, r Rule) []span {
	var class uint32
	switch r.Protocol {
	case Any:
		return append(spans, span{0, lastKey, rule})
	case ICMP:
		return append(spans, span{lastKey, lastKey, rule})
	case TCP:
		class = classTCP << 16
	case UDP:
		class = classUDP << 16
	}
	if len(r.Ports) == 0 {
		return append(spans, span{class, class | 0xffff, rule})
	}
	for _, p := range r.Ports {
		spans = append(spans, span{class | uint32(p.First), class | uint32(p.Last), rule})
	}
	return spans
}

// paint makes sorted spans that are apart of spans in the order of their rules: each key has the first rule that has it.
func paint(spans []span) []span {
	if len(spans) <= 1 {
		return spans
	}
	edges, find := edgesOf(spans)

	// Piece i is the keys from edges[i] up to edges[i+1]. free[i] leads to the first piece from i on that no rule has yet.
	rules := make([]int32, len(edges))
	free := make([]int32, len(edges))
	for i := range free {
		rules[i], free[i] = -1, int32(i)
	}
	next := func(i int32) int32 {
		for free[i] != i {
			free[i] = free[free[i]]
			i = free[i]
		}
		return i
	}
	for _, s := range spans {
		to := find(s.last + 1)
		for i := next(find(s.first)); i < to; i = next(i) {
			rules[i], free[i] = int32(s.rule), i+1
		}
	}
	var painted []span
	for i, rule := range rules[:len(rules)-1] {
		painted = extend(painted, span{edges[i], edges[i+1] - 1, int(rule)})
	}
	return painted
}

// everyEdge is from how many spans on it takes less time to look at every key than to sort where spans begin and end.
const everyEdge = 4096

// edgesOf returns the keys at which something changes, sorted, and what finds the index of one of them.
func edgesOf(spans []span) (edges []uint32, find func(key uint32) int32) {
	if len(spans) >= everyEdge {
		edges = make([]uint32, lastKey+2)
		for i := range edges {
			edges[i] = uint32(i)
		}
		return edges, func(key uint32) int32 { return int32(key) }
	}
	edges = make([]uint32, 0, 2*len(spans))
	for _, s := range spans {
		edges = append(edges, s.first, s.last+1)
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	return edges, func(key uint32) int32 {
		i, _ := slices.BinarySearch(edges, key)
		return int32(i)
	}
}

// extend appends a span, or makes the last one longer if it goes on with the same rule. A rule below 0 is none: nothing is appended.
func extend(spans []span, s span) []span {
	if s.rule < 0 {
		return spans
	}
	if n := len(spans); n > 0 && spans[n-1].rule == s.rule && spans[n-1].last+1 == s.first {
		spans[n-1].last = s.last
		return spans
	}
	return append(spans, s)
}

// merge lays two lists of sorted spans on one another: of two rules for a key the lower one counts. It gives up when the result
// has more than limit spans.
func merge(a, b []span, limit int) (merged []span, ok bool) {
	merged = make([]span, 0, min(limit, len(a)+len(b))+1)
	at := uint32(0)
	for len(a) > 0 || len(b) > 0 {
		next := piece(at, a, b)
		merged = extend(merged, next)
		if len(merged) > limit {
			return nil, false
		}
		at = next.last + 1
		a, b = skip(a, at), skip(b, at)
	}
	return merged, true
}

// piece is the longest span from a key on for which both lists, which do not begin before it, say the same.
func piece(at uint32, a, b []span) span {
	next := span{at, lastKey, -1}
	for _, list := range [...][]span{a, b} {
		switch {
		case len(list) == 0:
		case list[0].first > at:
			next.last = min(next.last, list[0].first-1)
		default:
			next.last = min(next.last, list[0].last)
			if next.rule < 0 || list[0].rule < next.rule {
				next.rule = list[0].rule
			}
		}
	}
	return next
}

// skip drops the first span if it ends before a key.
func skip(spans []span, at uint32) []span {
	if len(spans) > 0 && spans[0].last < at {
		return spans[1:]
	}
	return spans
}

// byRule sorts spans by their rules.
func byRule(a, b span) int {
	return cmp.Compare(a.rule, b.rule)
}
