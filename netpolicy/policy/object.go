package policy

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// What the kernel's programs rely on when they walk an object. Compile keeps within it whatever the policy, which Validate has passed.
const (
	// MaxCells is how many cells an object has at most.
	MaxCells = 1 << 20
	// MaxSearch is how many steps a binary search in a table takes at most.
	MaxSearch = 20
	// MaxChain is how many nodes there are at most from a node to the last of its parents: one for each length of an IPv6 prefix.
	MaxChain = 129
	// MaxNames is how many names count for one address, MAX_NAMES of layout.h.
	MaxNames = 8
)

// The flags of an object, enum policy_flag of layout.h.
const (
	// FlagAllow: what no rule decides is allowed to go out.
	FlagAllow = 1
	// FlagNames: there are rules with names.
	FlagNames = 2
)

// flatSpans is how long the list of a node may be that says what its parents say as well. It bounds what flattening costs.
const flatSpans = 16

// Cell is a cell of an object: four words, whose meaning layout.h draws.
type Cell [4]uint64

// Object is a policy as the kernel reads it. It is immutable, and belongs to no phone: all that have the policy share it.
type Object struct {
	// Cells are its memory, at most MaxCells.
	Cells []Cell
	// Generation is what flows remember of the policy that allowed them.
	Generation uint64
}

// pair is two 32-bit numbers in one word: a table (its first cell, its number of cells) or others.
func pair(low, high int) uint64 {
	return uint64(uint32(low)) | uint64(uint32(high))<<32
}

func unpair(word uint64) (low, high int) {
	return int(uint32(word)), int(word >> 32)
}

// Compile makes the object of a policy, of the generation that the caller has chosen. Its number of cells grows with the number of rules
// and their ports, however these are mixed. errdefs.ErrInvalidArgument: Validate's errors.
func Compile(p Policy, generation uint64) (*Object, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	b := builder{rules: p.Rules}
	for direction := range b.addresses {
		b.addresses[direction] = b.peers(Direction(direction))
	}
	names, err := b.names()
	if err != nil {
		return nil, err
	}
	flags := 0
	if p.Default == AllowInternet {
		flags |= FlagAllow
	}
	if len(names) > 0 {
		flags |= FlagNames
	}
	cells := b.lay(generation, flags, names)
	if len(cells) > MaxCells {
		return nil, fmt.Errorf("the policy takes %d cells; at most %d fit: %w", len(cells), MaxCells, errdefs.ErrInvalidArgument)
	}
	return &Object{Cells: cells, Generation: generation}, nil
}

// lay puts all that was built into cells.
func (b *builder) lay(generation uint64, flags int, names []named) []Cell {
	egress, ingress := b.addresses[Egress], b.addresses[Ingress]
	total := 2 + len(egress) + len(ingress) + len(names) + len(b.nodes)
	nodes := total - len(b.nodes)
	for _, n := range b.nodes {
		total += len(n.spans)
	}
	cells := make([]Cell, 2, total)
	node := func(index int) int {
		if index < 0 {
			return 0
		}
		return nodes + index
	}
	table := func(ranges starts) uint64 {
		first := len(cells)
		for _, s := range ranges {
			cells = append(cells, Cell{s.first.hi, s.first.lo, uint64(node(s.value))})
		}
		return pair(first, len(ranges))
	}
	cells[0] = Cell{generation, uint64(flags), table(egress), table(ingress)}
	cells[1] = Cell{pair(len(cells), len(names))}
	for _, n := range names {
		cells = append(cells, Cell{n.id, pair(node(n.node), 0)})
	}
	spans := nodes + len(b.nodes)
	for _, n := range b.nodes {
		cells = append(cells, Cell{pair(spans, len(n.spans)), uint64(node(n.parent))})
		spans += len(n.spans)
	}
	for _, n := range b.nodes {
		for _, s := range n.spans {
			r := b.rules[s.rule]
			cells = append(cells, Cell{pair(int(s.first), int(s.last)), pair(s.rule, mappedBits(r.CIDR)), uint64(r.Action)})
		}
	}
	return cells
}
