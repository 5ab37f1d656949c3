package policy

// prefix is a prefix of a family with what it stands for.
type prefix struct {
	first  address
	mapped int // its length, 0..128, IPv4's as 96 + its own
	value  int
}

func (p prefix) compare(q prefix) int {
	if c := p.first.compare(q.first); c != 0 {
		return c
	}
	return p.mapped - q.mapped
}

// start is where a range of addresses begins. It lasts until the next one.
type start struct {
	first address
	value int
}

// starts is a list of ranges that is being made, from the first address to the last.
type starts []start

// put begins a range. What began at the same address is replaced; neighbours of the same value become one.
func (s starts) put(first address, value int) starts {
	if n := len(s); n > 0 && s[n-1].first == first {
		s = s[:n-1]
	}
	if n := len(s); n > 0 && s[n-1].value == value {
		return s
	}
	return append(s, start{first, value})
}

// sweep makes ranges of prefixes that nest, for one family: each address has the value of the longest prefix that holds it, and none
// where there is no prefix. Prefixes are sorted, and no two are the same. visit, if it is not nil, is told of each prefix and the
// one next around it, -1 if there is none.
func sweep(f family, prefixes []prefix, none int, visit func(i, around int)) starts {
	first, last := address{}, lastIPv6
	if f == ipv4 {
		first, last = firstIPv4, lastIPv4
	}
	ranges := starts{}.put(first, none)
	type open struct {
		index int
		last  address
	}
	var stack []open
	value := func() int {
		if len(stack) == 0 {
			return none
		}
		return prefixes[stack[len(stack)-1].index].value
	}
	pop := func() {
		end := stack[len(stack)-1].last
		stack = stack[:len(stack)-1]
		if end != last {
			ranges = ranges.put(end.next(), value())
		}
	}
	for i, p := range prefixes {
		for len(stack) > 0 && stack[len(stack)-1].last.compare(p.first) < 0 {
			pop()
		}
		if visit != nil {
			around := -1
			if len(stack) > 0 {
				around = stack[len(stack)-1].index
			}
			visit(i, around)
		}
		stack = append(stack, open{i, lastOf(p.first, p.mapped)})
		ranges = ranges.put(p.first, p.value)
	}
	for len(stack) > 0 {
		pop()
	}
	return ranges
}

// splice puts the ranges of IPv4 into those of IPv6, in whose numbers they lie: what IPv6's say of ::ffff:0:0/96 is lost.
func splice(v4, v6 starts) starts {
	var all starts
	i, value := 0, 0
	for ; i < len(v6) && v6[i].first.compare(firstIPv4) < 0; i++ {
		all = all.put(v6[i].first, v6[i].value)
		value = v6[i].value
	}
	for _, s := range v4 {
		all = all.put(s.first, s.value)
	}
	after := lastIPv4.next()
	for ; i < len(v6) && v6[i].first.compare(after) <= 0; i++ {
		value = v6[i].value
	}
	all = all.put(after, value)
	for ; i < len(v6); i++ {
		all = all.put(v6[i].first, v6[i].value)
	}
	return all
}
