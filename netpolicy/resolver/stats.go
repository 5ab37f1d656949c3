package resolver

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Counters are totals since the server began.
type Counters struct {
	// Queries that were decoded, and of them those that were answered with what an upstream said (Answered), and those that were not: because a
	// policy refuses the name (Refused), all of its addresses are protected (Rebinding), the question is of a kind that nobody may ask (Unsupported),
	// nobody knows who asks (Unknown), or nobody could say (Failed).
	Queries, Answered, Refused, Rebinding, Unsupported, Unknown, Failed uint64
	// Limited are packets and questions beyond a phone's rate or share.
	Limited uint64
	// Hits were answered by the cache. Upstream are questions that were put to upstreams, UpstreamErrors those that one did not answer.
	Hits, Upstream, UpstreamErrors uint64
	// Opened counts addresses that were opened for a phone, by each name; Protected those that were taken out of answers.
	Opened, Protected uint64
}

// counters are Counters that count.
type counters struct {
	queries, answered, refused, rebinding, unsupported, unknown, failed, limited, hits, upstream, upstreamErrors, opened, protected atomic.Uint64
}

func (c *counters) read() Counters {
	return Counters{
		Queries: c.queries.Load(), Answered: c.answered.Load(), Refused: c.refused.Load(), Rebinding: c.rebinding.Load(), Unsupported: c.unsupported.Load(),
		Unknown: c.unknown.Load(), Failed: c.failed.Load(), Limited: c.limited.Load(), Hits: c.hits.Load(), Upstream: c.upstream.Load(),
		UpstreamErrors: c.upstreamErrors.Load(), Opened: c.opened.Load(), Protected: c.protected.Load(),
	}
}

// Denial is questions of one phone that were refused alike.
type Denial struct {
	// Slot is the phone's.
	Slot uint32
	// Name is what was asked for, in lower case without a final dot; empty in the sum of those that found no room.
	Name string
	// Reason is DENIED (a rule or the default refuses the name), ALIAS (a rule denies what it leads to) or REBINDING (all of its
	// addresses are protected).
	Reason string
	// Rule is the index of the rule that decided, -1 for the default.
	Rule int
	// Count of questions, the first and the last of which came when.
	Count       uint64
	First, Last time.Time
}

// Reasons of denials.
const (
	reasonDenied    = "DENIED"
	reasonAlias     = "ALIAS"
	reasonRebinding = "REBINDING"
)

// Bounds of the denials that wait to be taken.
const (
	denialsPerPhone = 128
	denialsInAll    = 16384
)

type denialKey struct {
	slot         uint32
	name, reason string
}

// denials sums up what was refused until it is taken.
type denials struct {
	mu    sync.Mutex
	all   map[denialKey]*Denial
	names map[uint32]int // how many of a phone there are
	some  chan struct{}  // closed when there are some; nil while nobody waits
}

// await waits until there are some, and tells whether; else the context has ended.
func (d *denials) await(ctx context.Context) bool {
	d.mu.Lock()
	if len(d.all) > 0 {
		d.mu.Unlock()
		return true
	}
	if d.some == nil {
		d.some = make(chan struct{})
	}
	some := d.some
	d.mu.Unlock()
	select {
	case <-some:
		return true
	case <-ctx.Done():
		return false
	}
}

// add counts one question that was refused.
func (d *denials) add(slot uint32, name, reason string, rule int, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == nil {
		d.all, d.names = map[denialKey]*Denial{}, map[uint32]int{}
	}
	key := denialKey{slot, name, reason}
	if d.all[key] == nil && (d.names[slot] >= denialsPerPhone || len(d.all) >= denialsInAll) {
		key, rule = denialKey{slot: slot, reason: reason}, -1
	}
	one := d.all[key]
	if one == nil {
		one = &Denial{Slot: slot, Name: key.name, Reason: reason, Rule: rule, First: now}
		d.all[key] = one
		d.names[slot]++
	}
	one.Count++
	one.Last = now
	if d.some != nil {
		close(d.some)
		d.some = nil
	}
}

// take returns what was summed up, ordered by phone and name, and begins anew.
func (d *denials) take() []Denial {
	d.mu.Lock()
	taken := d.all
	d.all, d.names = nil, nil
	d.mu.Unlock()
	list := make([]Denial, 0, len(taken))
	for _, one := range taken {
		list = append(list, *one)
	}
	slices.SortFunc(list, func(a, b Denial) int {
		return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Reason, b.Reason))
	})
	return list
}
