package api

import (
	"fmt"
	"slices"
	"testing"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// BenchmarkBatchGetStatus asks for the status of 10 and of 1000 phones in turns, through gRPC, on a host that has 1000 of which 100
// run. It reports the 99th percentile of each, and how many times longer the greater question takes.
func BenchmarkBatchGetStatus(b *testing.B) {
	const stored, on = 1000, 100
	s := start(b)
	ids := make([]string, stored)
	for i := range ids {
		ids[i] = fmt.Sprintf("p%d", i)
		s.create(b, ids[i])
	}
	m, err := s.phones.PowerOn(b.Context(), &phonehostv1.PowerOnRequest{PhoneIds: ids[:on]})
	if err != nil {
		b.Fatal(err)
	}
	s.finish(b, m.GetOperation())
	ask := func(n int) time.Duration {
		began := time.Now()
		got, err := s.phones.BatchGetStatus(b.Context(), &phonehostv1.BatchGetStatusRequest{PhoneIds: ids[:n]})
		if err != nil || len(got.GetEntries()) != n {
			b.Fatalf("%d entries, %v", len(got.GetEntries()), err)
		}
		return time.Since(began)
	}
	few, all := make([]time.Duration, 0, b.N), make([]time.Duration, 0, b.N)
	for b.Loop() {
		few = append(few, ask(10))
		all = append(all, ask(stored))
	}
	p99 := func(times []time.Duration) float64 {
		slices.Sort(times)
		return float64(times[(len(times)-1)*99/100]) / float64(time.Millisecond)
	}
	b.ReportMetric(p99(all), "p99_1000_ms")
	b.ReportMetric(p99(few), "p99_10_ms")
	b.ReportMetric(p99(all)/p99(few), "growth")
}
