package wire

import (
	"fmt"
	"os/exec"
	"testing"
	"time"
)

// BenchmarkPhoneNetwork measures a phone's network from nothing to a link that is up, and back to nothing, against the commands that whoever
// does it by hand would type, in turns. Both make the same: a namespace, a pair, addresses, routes and neighbours of both families,
// forwarding. Commands of nft belong to the address of a phone in a set, which ours does not need: the programs know their phone by its link.
func BenchmarkPhoneNetwork(b *testing.B) {
	l := newLab(b)
	run(b, "nft", "add table inet peer; add set inet peer phones { type ipv4_addr; }; add set inet peer phones6 { type ipv6_addr; }")
	p := phone("bench", 7)
	if _, err := l.Ensure(b.Context(), p); err != nil { // what is done once for the host is no part of it
		b.Fatal(err)
	}
	l.removeAll(b, p.ID)
	var ours, peer, up, peerUp time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := l.Ensure(b.Context(), p); err != nil {
			b.Fatal(err)
		}
		if err := l.Up(b.Context(), p); err != nil {
			b.Fatal(err)
		}
		up += time.Since(start)
		l.removeAll(b, p.ID)
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

func (l lab) removeAll(tb testing.TB, id string) {
	tb.Helper()
	if err := l.Remove(tb.Context(), id); err != nil {
		tb.Fatal(err)
	}
	if err := l.names.Delete(id); err != nil {
		tb.Fatal(err)
	}
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
