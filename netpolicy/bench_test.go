package netpolicy_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// BenchmarkPhoneNetwork measures a phone's network from nothing to a link that is up and judged by a policy, and back to nothing, against
// the commands that whoever does it by hand would type, in turns. Both make the same: a namespace, a pair, addresses, routes and neighbours
// of both families, forwarding, and what lets the phone through: its programs and tables here, elements of two sets of nft there.
func BenchmarkPhoneNetwork(b *testing.B) {
	w := newWorld(b)
	netlab.Host().Run(b, "nft", "add table inet peer; add set inet peer phones { type ipv4_addr; }; add set inet peer phones6 { type ipv6_addr; }")
	p := phone(7)
	w.ensure(p) // what is done once for the host is no part of it
	w.remove(p.ID)
	var ours, peer, up, peerUp time.Duration
	for b.Loop() {
		start := time.Now()
		w.ensure(p)
		up += time.Since(start)
		w.remove(p.ID)
		ours += time.Since(start)

		start = time.Now()
		commands(b, plainSetup())
		peerUp += time.Since(start)
		commands(b, plainRemoval())
		peer += time.Since(start)
	}
	n := float64(b.N) * float64(time.Millisecond)
	b.ReportMetric(float64(ours)/n, "ms")
	b.ReportMetric(float64(up)/n, "up_ms")
	b.ReportMetric(float64(peer)/n, "commands_ms")
	b.ReportMetric(float64(peerUp)/n, "commands_up_ms")
	b.ReportMetric(float64(ours)/float64(peer), "ratio")
	b.ReportMetric(float64(up)/float64(peerUp), "up_ratio")
}

// BenchmarkPolicyChange measures a changed policy of 1000 rules from its text until it judges every packet of its 100 phones, against nft
// replacing a set of as many networks, in turns.
func BenchmarkPolicyChange(b *testing.B) {
	w := newWorld(b)
	netlab.Host().Run(b, "nft", "add table inet peer; add set inet peer networks { type ipv4_addr; flags interval; }")
	texts := [2]string{rules(0), rules(1)}
	w.policy("thousand", texts[0])
	for slot := range uint32(100) {
		p := phone(slot)
		p.Policy = "thousand"
		w.ensure(p)
	}
	var ours, peer time.Duration
	for i := 1; b.Loop(); i++ {
		text := texts[i%2]
		start := time.Now()
		w.policy("thousand", text)
		ours += time.Since(start)

		start = time.Now()
		cmd := exec.CommandContext(b.Context(), "nft", "-f", "-")
		cmd.Stdin = strings.NewReader("flush set inet peer networks; add element inet peer networks { " + strings.Join(networks(i%2), ", ") + " }\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		peer += time.Since(start)
	}
	n := float64(b.N) * float64(time.Millisecond)
	b.ReportMetric(float64(ours)/n, "ms")
	b.ReportMetric(float64(peer)/n, "nft_ms")
	b.ReportMetric(float64(ours)/float64(peer), "ratio")
}

// networks returns 1000 networks, others for another kind.
func networks(kind int) []string {
	list := make([]string, 1000)
	for i := range list {
		list[i] = fmt.Sprintf("%d.%d.%d.0/24", 20+kind, i/256, i%256)
	}
	return list
}

// rules returns a policy of 1000 rules.
func rules(kind int) string {
	text := "default " + policy.DenyAll.String() + "\n"
	for _, network := range networks(kind) {
		text += "allow egress tcp " + network + " 443\n"
	}
	return text
}

// plainSetup is what makes a phone's network by hand.
func plainSetup() [][]string {
	const host, four, six, gate4, gate6 = "peer0", "10.99.0.9", "fd99::9", "10.99.0.1", "fd99::1"
	return [][]string{
		{"ip", "netns", "add", "peer"},
		{"ip", "link", "add", host, "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "eth0", "address", "02:00:00:00:00:02", "netns", "peer"},
		{"ip", "-n", "peer", "link", "set", "lo", "up"},
		{"ip", "-n", "peer", "link", "set", "eth0", "up", "addrgenmode", "none"},
		{"ip", "-n", "peer", "addr", "add", four + "/16", "dev", "eth0"},
		{"ip", "-n", "peer", "addr", "add", six + "/128", "dev", "eth0", "nodad"},
		{"ip", "-n", "peer", "addr", "add", "fe80::2/64", "dev", "eth0", "nodad"},
		{"ip", "-n", "peer", "route", "add", "default", "via", gate4},
		{"ip", "-n", "peer", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0"},
		{"ip", "-n", "peer", "neigh", "add", gate4, "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent"},
		{"ip", "-n", "peer", "neigh", "add", "fe80::1", "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent"},
		{"sysctl", "-qw", "net.ipv4.conf." + host + ".forwarding=1", "net.ipv4.conf." + host + ".proxy_arp=1", "net.ipv6.conf." + host + ".forwarding=1",
			"net.ipv6.conf." + host + ".accept_ra=0", "net.ipv6.conf." + host + ".addr_gen_mode=1"},
		{"ip", "addr", "add", gate4 + "/32", "dev", host},
		{"ip", "addr", "add", gate6 + "/128", "dev", host, "nodad"},
		{"ip", "addr", "add", "fe80::1/64", "dev", host, "nodad"},
		{"ip", "link", "set", host, "up", "alias", "peer"},
		{"ip", "route", "add", four, "dev", host, "src", gate4},
		{"ip", "-6", "route", "add", six, "dev", host, "src", gate6},
		{"ip", "neigh", "add", four, "lladdr", "02:00:00:00:00:02", "dev", host, "nud", "permanent"},
		{"ip", "neigh", "add", six, "lladdr", "02:00:00:00:00:02", "dev", host, "nud", "permanent"},
		{"nft", fmt.Sprintf("add element inet peer phones { %s }; add element inet peer phones6 { %s }", four, six)},
	}
}

// plainRemoval is what takes it away.
func plainRemoval() [][]string {
	return [][]string{
		{"nft", "delete element inet peer phones { 10.99.0.9 }; delete element inet peer phones6 { fd99::9 }"},
		{"ip", "link", "del", "peer0"},
		{"ip", "netns", "del", "peer"},
	}
}

func commands(b *testing.B, all [][]string) {
	b.Helper()
	for _, c := range all {
		if out, err := exec.CommandContext(b.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%q: %v\n%s", c, err, out)
		}
	}
}
