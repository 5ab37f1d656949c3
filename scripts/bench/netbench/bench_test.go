package netbench

import (
	"slices"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/shape"
)

// cost is what one round found of a policy.
type cost struct {
	tcp, udp, connection time.Duration // of a round trip, and of a connection from beginning to end
	bulk                 float64       // bit/s
}

// costs are the rounds of a policy.
type costs []cost

// median of a figure over the rounds.
func (c costs) median(figure func(cost) float64) float64 {
	var all []float64
	for _, one := range c {
		all = append(all, figure(one))
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func tcpOf(c cost) float64        { return c.tcp.Seconds() * 1e6 }
func udpOf(c cost) float64        { return c.udp.Seconds() * 1e6 }
func connectionOf(c cost) float64 { return c.connection.Seconds() * 1e6 }
func bulkOf(c cost) float64       { return c.bulk / 1e9 }

// round measures whatever policy is in place now.
func (p *path) round(b *testing.B) (c cost) {
	b.Helper()
	t, err := p.tcp()
	must(b, err)
	defer t.close()
	c.tcp, err = p.roundTrips(t)
	must(b, err)
	u, err := p.udp()
	must(b, err)
	defer u.close()
	c.udp, err = p.roundTrips(u)
	must(b, err)
	c.connection, err = p.connections()
	must(b, err)
	c.bulk, err = p.bulk(t)
	must(b, err)
	return c
}

// BenchmarkPolicy measures packets under a policy of 1 000 networks with connection tracking, under nftables with as many, and under
// nothing, in turns. An iteration is one round of the three:
//
//	go test -run '^$' -bench Policy -benchtime 7x ./scripts/bench/netbench
func BenchmarkPolicy(b *testing.B) {
	p := newPath(b)
	ours := p.newDatapath(b)
	const networks = 1000
	turns := []struct {
		name string
		put  func() func()
	}{
		{"", func() func() { return ours.apply(b, networks) }},
		{"none_", func() func() { return func() {} }},
		{"nft_", func() func() { return p.nftables(b, networks) }},
	}
	found := make([]costs, len(turns))
	for b.Loop() {
		for i, turn := range turns {
			remove := turn.put()
			found[i] = append(found[i], p.round(b))
			remove()
		}
	}
	for _, f := range []struct {
		name, unit string
		of         func(cost) float64
	}{{"tcp", "_us", tcpOf}, {"udp", "_us", udpOf}, {"connection", "_us", connectionOf}, {"bulk", "_Gbit/s", bulkOf}} {
		us, none, nft := found[0].median(f.of), found[1].median(f.of), found[2].median(f.of)
		for i, turn := range turns {
			b.ReportMetric(found[i].median(f.of), turn.name+f.name+f.unit)
		}
		b.ReportMetric(us/none, f.name+"_ratio")
		b.ReportMetric(us/nft, f.name+"_nft_ratio")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRules measures round trips of an established connection under a policy of 10 000 rules and under one of 10, in turns.
func BenchmarkRules(b *testing.B) {
	p := newPath(b)
	ours := p.newDatapath(b)
	var few, many costs
	for b.Loop() {
		for _, turn := range []struct {
			rules int
			found *costs
		}{{10, &few}, {10_000, &many}} {
			remove := ours.apply(b, turn.rules)
			t, err := p.tcp()
			must(b, err)
			rtt, err := p.roundTrips(t)
			must(b, err)
			t.close()
			remove()
			*turn.found = append(*turn.found, cost{tcp: rtt})
		}
	}
	b.ReportMetric(few.median(tcpOf), "rules10_us")
	b.ReportMetric(many.median(tcpOf), "rules10000_us")
	b.ReportMetric(many.median(tcpOf)/few.median(tcpOf), "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkLimit measures round trips of a phone far below its limits, and of one without, in turns.
func BenchmarkLimit(b *testing.B) {
	p := newPath(b)
	var without, with costs
	for b.Loop() {
		for _, turn := range []struct {
			bits  uint64
			found *costs
		}{{0, &without}, {1_000_000_000, &with}} {
			must(b, shape.Set(b.Context(), p.link.Attrs().Index, phoneID, turn.bits, turn.bits))
			t, err := p.tcp()
			must(b, err)
			rtt, err := p.roundTrips(t)
			must(b, err)
			t.close()
			*turn.found = append(*turn.found, cost{tcp: rtt})
		}
	}
	must(b, shape.Clear(b.Context(), phoneID))
	b.ReportMetric(without.median(tcpOf), "none_us")
	b.ReportMetric(with.median(tcpOf), "limited_us")
	b.ReportMetric(with.median(tcpOf)/without.median(tcpOf), "ratio")
	b.ReportMetric(0, "ns/op")
}
