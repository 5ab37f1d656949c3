package nameserver

import (
	"reflect"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/resolver"
	"github.com/phonehost/phonehost/runtime/service"
)

// TestTally follows servers that come and go: what is told never gets less, and nothing is counted twice.
func TestTally(t *testing.T) {
	begin := time.Unix(1_700_000_000, 0)
	adopted := service.Instance{ID: "service.dns.1", Started: begin.Add(-time.Hour)}
	next := service.Instance{ID: "service.dns.2", Started: begin.Add(time.Minute)}
	tally := NewTally(begin)
	for n, step := range []struct {
		of      service.Instance
		queries uint64
		want    uint64
	}{
		{adopted, 1000, 0}, // what it had counted before there was this agent
		{adopted, 1010, 10},
		{adopted, 1010, 10},
		{next, 5, 15},
		{next, 7, 17},
		{next, 3, 20}, // its counters have begun anew
		{service.Instance{ID: "service.dns.3", Started: begin.Add(time.Hour)}, 0, 20},
	} {
		tally.add(step.of, resolver.Counters{Queries: step.queries, Hits: 2 * step.queries})
		if got := tally.sum; got.Queries != step.want || got.Hits != 2*step.want || got.Refused != 0 {
			t.Errorf("step %d: %+v, want %d queries and twice as many hits", n, got, step.want)
		}
	}
}

// TestTallyKnowsAllCounters: a counter that is added to resolver.Counters is counted here too.
func TestTallyKnowsAllCounters(t *testing.T) {
	var c resolver.Counters
	for _, f := range fields(&c) {
		*f++
	}
	for v, n := reflect.ValueOf(c), 0; n < v.NumField(); n++ {
		if v.Field(n).Uint() != 1 {
			t.Errorf("%s is counted %d times", v.Type().Field(n).Name, v.Field(n).Uint())
		}
	}
}
