package shape_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkBandwidth measures what limits make of traffic: by rate, direction, way of sending and distance of the server. It logs a line
// for each, medians over its iterations, and reports the worst of them:
//
//	go test -run '^$' -bench Bandwidth -benchtime 3x -timeout 1h ./netpolicy/shape
//
// Payload that arrives is given as a share of the limit, and what a queue costs as the round trip of small packets less the distance.
func BenchmarkBandwidth(b *testing.B) {
	for _, far := range []time.Duration{0, 20 * time.Millisecond} {
		for _, rate := range []uint64{1, 2, 5, 10, 20, 100, 500, 1000} {
			if far > 0 && rate > 100 {
				continue // this process is the line, and has other things to do
			}
			b.Run(fmt.Sprintf("%dms/%dMbit", far.Milliseconds(), rate), func(b *testing.B) {
				l := newLab(b, far/2)
				limit := rate * mbit
				found := make([][]result, 2*len(flows(limit, true)))
				for b.Loop() {
					for i, f := range slices.Concat(flows(limit, true), flows(limit, false)) {
						l.limit(b, 0, 0) // what waits from before is dropped
						l.limit(b, limit, limit)
						found[i] = append(found[i], l.measure(b, f, 1500*time.Millisecond, 5*time.Second, 100*time.Millisecond))
					}
				}
				report(b, far, limit, found)
			})
		}
	}
}

// flows are the ways of sending under a limit that are measured.
func flows(limit uint64, down bool) []flow {
	return []flow{
		{kind: "cubic", down: down},
		{kind: "bbr", down: down},
		{kind: "udp", down: down, bits: limit * 13 / 10},
		{kind: "udp", down: down, bits: limit * 9 / 10, steady: true},
	}
}

// report logs what was found of each way, and reports the worst.
func report(b *testing.B, far time.Duration, limit uint64, found [][]result) {
	b.Helper()
	ms := func(d time.Duration) float64 { return (d - far).Seconds() * 1000 }
	worst := map[string]float64{"least_share": 1e9, "greatest_share": 0, "wait_p50_ms": 0, "wait_p99_ms": 0, "bbr_again": 0, "cubic_again": 0, "paced_lost": 0}
	raise := func(what string, v float64) { worst[what] = max(worst[what], v) }
	for i, f := range slices.Concat(flows(limit, true), flows(limit, false)) {
		share := median(found[i], func(r result) float64 { return r.rate / float64(limit) })
		lost := median(found[i], func(r result) float64 { return r.lost })
		p50 := median(found[i], func(r result) float64 { return ms(r.quantile(0.5)) })
		p99 := median(found[i], func(r result) float64 { return ms(r.quantile(0.99)) })
		name, direction := f.kind, "up"
		if f.down {
			direction = "down"
		}
		switch {
		case f.kind == "udp" && f.bits < limit:
			name = "udp at 0.9"
			raise("paced_lost", lost)
		case f.kind != "udp":
			raise(f.kind+"_again", lost)
		}
		if name == f.kind { // at the limit
			worst["least_share"] = min(worst["least_share"], share)
			raise("greatest_share", share)
			raise("wait_p50_ms", p50)
			raise("wait_p99_ms", p99)
		}
		b.Logf("%4d Mbit/s, %2d ms away, %-4s %-10s  %.3f of the limit, lost %.5f, waits %.2f ms median, %.2f ms p99",
			limit/mbit, far.Milliseconds(), direction, name, share, lost, p50, p99)
	}
	for what, v := range worst {
		b.ReportMetric(v, what)
	}
	b.ReportMetric(0, "ns/op")
}

// median of a figure over the iterations.
func median(all []result, figure func(result) float64) float64 {
	var values []float64
	for _, r := range all {
		values = append(values, figure(r))
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}
