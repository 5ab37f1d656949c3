package network

import (
	"context"
	"maps"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
)

// Totals is what passed and what was dropped, of all phones together since the agent began to count.
type Totals struct {
	// Packets and Bytes that passed, by policy.Direction.
	Packets, Bytes [2]uint64
	// Dropped packets, by reason.
	Dropped map[string]uint64
	// Flows is how many live flows there are.
	Flows int
}

// totals adds up phones' counters, which go with their networks, so that the sum only grows.
type totals struct {
	mu   sync.Mutex
	sum  Totals
	last map[string]netpolicy.Counters
	// adopted holds the phones that there were when counting began: what they had by then is not counted.
	adopted map[string]bool
}

// Totals adds up the counters of phones. Those that were there at the first call count from then on, others from their beginning.
func (m *Manager) Totals(ctx context.Context, ids []string) (Totals, error) {
	t := &m.totals
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.adopted == nil {
		t.adopted, t.sum.Dropped = map[string]bool{}, map[string]uint64{}
		for _, id := range ids {
			t.adopted[id] = true
		}
	}
	now, flows := make(map[string]netpolicy.Counters, len(ids)), 0
	for _, id := range ids {
		s, err := m.cfg.Engine.Status(ctx, id)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return Totals{}, err
		}
		now[id] = s.Counters
		flows += s.Flows
	}
	for id, c := range now {
		last, seen := t.last[id]
		if !seen && t.adopted[id] {
			delete(t.adopted, id)
			continue
		}
		t.sum.add(last, c)
	}
	t.last = now
	sum := t.sum
	sum.Dropped, sum.Flows = maps.Clone(t.sum.Dropped), flows
	return sum, nil
}

// add adds what came since a phone's counters were last read.
func (t *Totals) add(last, now netpolicy.Counters) {
	for d := range t.Packets {
		t.Packets[d] += grown(last.Packets[d], now.Packets[d])
		t.Bytes[d] += grown(last.Bytes[d], now.Bytes[d])
	}
	for reason, n := range now.Dropped {
		t.Dropped[reason] += grown(last.Dropped[reason], n)
	}
}

// grown is how much a counter has grown; one that is smaller has begun anew.
func grown(last, now uint64) uint64 {
	if now < last {
		return now
	}
	return now - last
}
