package datapath

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

func programOptions(frame []byte, context skbContext) *ebpf.RunOptions {
	return &ebpf.RunOptions{Data: frame, Context: context}
}

// TestVerifiedInstructions prints how much the verifier has to look at: it gives up at a million.
func TestVerifiedInstructions(t *testing.T) {
	l := newLab(t, "default deny-all\n")
	for _, p := range []struct {
		name string
		*ebpf.Program
	}{{"from_phone", l.FromPhone}, {"to_phone", l.ToPhone}, {"judge", l.bpfPrograms.Judge}} {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		size, err := info.JitedSize()
		if err != nil {
			t.Log(err)
		}
		n, ok := info.VerifiedInstructions()
		t.Logf("%-10s %6d instructions verified, %6d bytes of machine code", p.name, n, size)
		if ok && n > 50_000 {
			t.Errorf("%s: %d instructions; at most 50000 are wanted", p.name, n)
		}
	}
}

// rules makes a policy of n prefixes with a port each.
func rules(n int) policy.Policy {
	p := policy.Policy{Default: policy.AllowInternet}
	for i := range n {
		p.Rules = append(p.Rules, policy.Rule{
			Action: policy.Deny, Protocol: policy.TCP, CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{20 + byte(i>>16), byte(i >> 8), byte(i), 0}), 24),
			Ports: []policy.PortRange{{First: 1000, Last: 2000}},
		})
	}
	return p
}

// BenchmarkPackets is the time of a program for a packet, without what the kernel does before and after: "cut off" is the least that
// it takes.
func BenchmarkPackets(b *testing.B) {
	l := newLab(b, "default allow-internet\n")
	measure := func(b *testing.B, p *ebpf.Program, frame []byte) {
		b.Helper()
		if _, _, err := p.Benchmark(frame, b.N, b.ResetTimer); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("cut off", func(b *testing.B) {
		l.phone(func(p *bpfPhone) { p.Flags = uint32(bpfPhoneFlagPHONE_CUT) })
		measure(b, l.bpfPrograms.Judge, sent(ack))
		l.phone(func(*bpfPhone) {})
	})
	for _, n := range []int{10, 1000, 10_000} {
		l.t = b
		l.compile(rules(n))
		l.limit(4096)
		for _, c := range []struct {
			name    string
			program *ebpf.Program
			frame   []byte
		}{
			{"established", l.FromPhone, sent(ack)},
			{"judged", l.bpfPrograms.Judge, out(peer4, tcp(40001, 443, syn))}, // a new flow, which stays new
			{"denied", l.FromPhone, out("20.0.1.1", tcp(1, 1500, syn))},
			{"protected", l.FromPhone, out(neighbour4, tcp(1, 80, syn))},
			{"spoofed", l.FromPhone, up(ip(neighbour4, peer4, tcp(1, 80, syn)))},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) { measure(b, c.program, c.frame) })
		}
	}
}
