package policy_test

import (
	"math/rand/v2"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// benchmarked are policies of n rules.
func benchmarked(n int) map[string]string {
	return map[string]string{
		"prefixes": prefixes(n),
		"names":    names(n),
		"mixed":    portsAndPrefixes(n / 2),
		"crossing": crossingRanges(n),
	}
}

func benchmark(b *testing.B, run func(b *testing.B, text string)) {
	for _, n := range []int{1_000, 10_000} {
		for _, name := range []string{"prefixes", "names", "mixed", "crossing"} {
			text := benchmarked(n)[name]
			b.Run(map[int]string{1_000: "1k", 10_000: "10k"}[n]+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				run(b, text)
			})
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	benchmark(b, func(b *testing.B, text string) {
		p := mustParse(b, text)
		cells := 0
		for b.Loop() {
			cells = len(compile(b, p).Cells)
		}
		b.ReportMetric(float64(cells), "cells")
	})
}

func BenchmarkParse(b *testing.B) {
	benchmark(b, func(b *testing.B, text string) {
		for b.Loop() {
			mustParse(b, text)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	benchmark(b, func(b *testing.B, text string) {
		p := mustParse(b, text)
		o := compile(b, p)
		more := rand.New(rand.NewPCG(1, 2))
		flows := make([]policy.ObjectQuery, 1024)
		for i := range flows {
			q := near(more, p)
			flows[i] = policy.ObjectQuery{Direction: q.Direction, Peer: q.Peer, Protocol: q.Protocol, Port: q.Port, ProtectedBits: -1}
		}
		i := 0
		for b.Loop() {
			o.Judge(flows[i%len(flows)])
			i++
		}
	})
}
