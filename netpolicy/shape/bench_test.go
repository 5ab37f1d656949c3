package shape_test

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkBandwidth measures what limits make of traffic: by rate, direction, way of sending and distance of the server. It logs a line
// for each and reports the worst of them:
//
//	go test -run '^$' -bench Bandwidth -benchtime 1x ./netpolicy/shape
//
// Payload that arrives is given as a share of the limit, and what a queue costs as the round trip of small packets less the distance.
func BenchmarkBandwidth(b *testing.B) {
	for _, far := range []time.Duration{0, 20 * time.Millisecond} {
		for _, rate := range []uint64{1, 10, 20, 100, 500, 1000} {
			if far > 0 && rate > 100 {
				continue // this process is the line, and has other things to do
			}
			b.Run(fmt.Sprintf("%dms/%dMbit", far.Milliseconds(), rate), func(b *testing.B) {
				l := newLab(b, far/2)
				for b.Loop() {
					worst := worst{low: 1e9}
					for _, down := range []bool{true, false} {
						l.attempt(b, &worst, far, rate*mbit, down)
					}
					worst.report(b)
				}
			})
		}
	}
}

// worst is the worst that was seen.
type worst struct {
	low, high         float64 // share of the limit that arrived
	p50, p99          time.Duration
	bbr, cubic, paced float64 // segments sent again; datagrams lost at 0.9 of the limit
}

// attempt measures all ways of sending in one direction under a limit.
func (l lab) attempt(b *testing.B, w *worst, far time.Duration, limit uint64, down bool) {
	direction := "up"
	if down {
		direction = "down"
	}
	for _, f := range []flow{{kind: "cubic"}, {kind: "bbr"}, {kind: "udp", bits: limit * 13 / 10}, {kind: "udp", bits: limit * 9 / 10}} {
		f.down = down
		l.limit(b, 0, 0) // what waits from before is dropped
		l.limit(b, limit, limit)
		r := l.measure(b, f, 1500*time.Millisecond, 5*time.Second, 100*time.Millisecond)
		share, p50, p99 := r.rate/float64(limit), r.quantile(0.5)-far, r.quantile(0.99)-far
		name := f.kind
		switch below := f.bits > 0 && f.bits < limit; {
		case below:
			name = "udp at 0.9"
			w.paced = max(w.paced, r.lost)
		default:
			w.low, w.high, w.p50, w.p99 = min(w.low, share), max(w.high, share), max(w.p50, p50), max(w.p99, p99)
		}
		switch f.kind {
		case "bbr":
			w.bbr = max(w.bbr, r.lost)
		case "cubic":
			w.cubic = max(w.cubic, r.lost)
		}
		b.Logf("%5d Mbit/s %-4s %-10s %.3f of the limit, lost %.5f, waits %v median, %v p99",
			limit/mbit, direction, name, share, r.lost, p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond))
	}
}

func (w worst) report(b *testing.B) {
	b.ReportMetric(w.low, "least_share")
	b.ReportMetric(w.high, "greatest_share")
	b.ReportMetric(w.p50.Seconds()*1000, "wait_p50_ms")
	b.ReportMetric(w.p99.Seconds()*1000, "wait_p99_ms")
	b.ReportMetric(w.bbr, "bbr_again")
	b.ReportMetric(w.cubic, "cubic_again")
	b.ReportMetric(w.paced, "paced_lost")
	b.ReportMetric(0, "ns/op")
}
