package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
)

// builder collects what becomes an object.
type builder struct {
	rules     []Rule
	nodes     []node
	addresses [2]starts // by direction; the values are nodes, -1 for none
}

// node is the rules of one prefix or name.
type node struct {
	spans  []span // sorted and apart
	parent int    // index of the node whose spans count as well, -1 for none
}

// named is a name and its node.
type named struct {
	id   uint64
	node int
}

// add appends a node and returns its index. What its parent has is put into its own list as well where that keeps short: then the
// kernel has fewer nodes to visit.
func (b *builder) add(spans []span, parent int) int {
	if parent >= 0 {
		around := b.nodes[parent]
		if merged, ok := merge(spans, around.spans, flatSpans); ok {
			spans, parent = merged, around.parent
		}
	}
	b.nodes = append(b.nodes, node{spans, parent})
	return len(b.nodes) - 1
}

// peers makes the nodes of the rules of a direction that have no name, and the ranges of addresses that lead to them.
func (b *builder) peers(d Direction) starts {
	var anybody []span
	var rules [families][]prefix // the values are rules
	for i, r := range b.rules {
		switch {
		case r.Direction != d || r.Name != "":
		case r.CIDR == netip.Prefix{}:
			anybody = spansOf(anybody, i, r)
		default:
			f := familyOf(r.CIDR.Addr())
			rules[f] = append(rules[f], prefix{addressOf(r.CIDR.Addr()), mappedBits(r.CIDR), i})
		}
	}
	root := -1
	if len(anybody) > 0 {
		root = b.add(paint(slices.Clone(anybody)), -1)
	}
	var ranges [families]starts
	for f := range families {
		slices.SortStableFunc(rules[f], prefix.compare)
		ranges[f] = b.family(f, rules[f], anybody, root)
	}
	return splice(ranges[ipv4], ranges[ipv6])
}

// family makes the nodes of one family, of rules that are sorted by their prefixes. The rules for anybody and those for the whole family
// share a node: with one of its own for the former a chain would be one longer than an IPv6 address has lengths.
func (b *builder) family(f family, rules []prefix, anybody []span, root int) starts {
	whole := 0
	if f == ipv4 {
		whole = 96
	}
	var groups []prefix // the values are nodes
	var lists [][]span
	for len(rules) > 0 {
		n := 1
		for n < len(rules) && rules[n].compare(rules[0]) == 0 {
			n++
		}
		var spans []span
		for _, r := range rules[:n] {
			spans = spansOf(spans, r.value, b.rules[r.value])
		}
		if rules[0].mapped == whole {
			spans = append(spans, anybody...)
			slices.SortStableFunc(spans, byRule)
			root = b.add(paint(spans), -1)
		} else {
			groups = append(groups, rules[0])
			lists = append(lists, paint(spans))
		}
		rules = rules[n:]
	}
	for i := range groups {
		groups[i].value = len(b.nodes) + i // add is called once for each, in this order
	}
	return sweep(f, groups, root, func(i, around int) {
		parent := root
		if around >= 0 {
			parent = groups[around].value
		}
		b.add(lists[i], parent)
	})
}

// names makes the nodes of the rules that have a name, sorted by the names' ids.
func (b *builder) names() ([]named, error) {
	lists := map[string][]span{}
	for i, r := range b.rules {
		if r.Name != "" {
			lists[r.Name] = spansOf(lists[r.Name], i, r)
		}
	}
	ids := make(map[uint64]string, len(lists))
	var names []named
	for i, r := range b.rules {
		if r.Name == "" || lists[r.Name] == nil {
			continue
		}
		id := NameID(r.Name)
		if other, ok := ids[id]; ok || id == 0 {
			return nil, fmt.Errorf("rule %d: name %s cannot be told from %q, whose hash is the same; leave one of them out: %w", i+1, r.Name, other, errdefs.ErrInvalidArgument)
		}
		ids[id] = r.Name
		names = append(names, named{id, b.add(paint(lists[r.Name]), -1)})
		delete(lists, r.Name)
	}
	slices.SortFunc(names, func(a, b named) int { return cmp.Compare(a.id, b.id) })
	return names, nil
}
