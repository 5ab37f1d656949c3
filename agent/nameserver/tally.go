package nameserver

import (
	"context"
	"sync"
	"time"

	"github.com/phonehost/phonehost/netpolicy/resolver"
	"github.com/phonehost/phonehost/runtime/service"
)

// Totals is what name servers have counted, one after another, since the agent began to count.
type Totals struct {
	// Up tells that one answers.
	Up bool
	// Counters only grow, whatever becomes of the servers.
	Counters resolver.Counters
}

// Tally adds up what name servers count, each of which begins with nothing. What one counts after it was read last is lost with it. Its
// methods may be called by several goroutines.
type Tally struct {
	begin time.Time

	mu       sync.Mutex
	instance *service.Instance // the one that is asked; nil: none
	counted  string            // the id of the instance that last is of
	last     resolver.Counters
	sum      resolver.Counters
}

// NewTally returns a Tally that counts from begin on: what servers that ran then had counted is no part of it.
func NewTally(begin time.Time) *Tally { return &Tally{begin: begin} }

// Use says which server runs; nil is none.
func (t *Tally) Use(i *service.Instance) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.instance = i
}

// Read asks the server what it has counted. One that does not answer until the context ends leaves the sum as it is.
func (t *Tally) Read(ctx context.Context) Totals {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.instance == nil {
		return Totals{Counters: t.sum}
	}
	status, err := Control(*t.instance).Status(ctx)
	if err != nil {
		return Totals{Counters: t.sum}
	}
	t.add(*t.instance, status.Counters)
	return Totals{Up: true, Counters: t.sum}
}

// add adds what an instance has counted since it was asked last.
func (t *Tally) add(i service.Instance, now resolver.Counters) {
	if t.counted != i.ID {
		t.counted, t.last = i.ID, resolver.Counters{}
		if i.Started.Before(t.begin) {
			t.last = now
		}
	}
	sum, last := fields(&t.sum), fields(&t.last)
	for n, value := range fields(&now) {
		if *value < *last[n] {
			*last[n] = 0 // its process has begun anew
		}
		*sum[n] += *value - *last[n]
	}
	t.last = now
}

// fields are all counters.
func fields(c *resolver.Counters) []*uint64 {
	return []*uint64{
		&c.Queries, &c.Answered, &c.Refused, &c.Rebinding, &c.Unsupported, &c.Unknown, &c.Failed, &c.Limited, &c.Hits, &c.Upstream, &c.UpstreamErrors,
		&c.Opened, &c.Protected,
	}
}
