package nat_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// adb is a forward on loopback to port 5555 of a phone.
func adb(p phone, port uint16) nat.Forward {
	return nat.Forward{Listen: addrPort(netip.MustParseAddr("127.0.0.1"), port), Protocol: policy.TCP, Phone: p.IPv4, Port: 5555}
}

// forwardUDP is the same for datagrams.
func forwardUDP(p phone, port uint16) nat.Forward {
	f := adb(p, port)
	f.Protocol = policy.UDP
	return f
}

// many are n forwards to one phone.
func many(p phone, n int) []nat.Forward {
	forwards := make([]nat.Forward, n)
	for i := range forwards {
		forwards[i] = adb(p, uint16(10000+i))
	}
	return forwards
}

// others is the ruleset without our table.
func others(t testing.TB) string {
	t.Helper()
	var kept strings.Builder
	ours := false
	for line := range strings.Lines(run(t, "nft", "--stateless", "list", "ruleset")) {
		if strings.HasPrefix(line, "#") {
			continue // nft's warning of who manages a table, in front of it
		}
		if strings.HasPrefix(line, "table ") {
			ours = strings.HasPrefix(line, "table inet "+nat.Table+" ")
		}
		if !ours {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// wantOthers fails unless the tables of others are as they were.
func wantOthers(t testing.TB, after, before string) {
	t.Helper()
	if now := others(t); now != before {
		t.Errorf("after %s the other tables are\n%s\nand were\n%s", after, now, before)
	}
}

// wantKept fails unless the tables of others stay as they are when ours is made again and when it is removed, and phones reach the world by
// ours once more after that.
func wantKept(t testing.TB, n *nat.NAT, p phone, forwards ...nat.Forward) {
	t.Helper()
	before := others(t)
	apply(t, n, forwards...)
	wantOthers(t, "Apply", before)
	if err := n.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantOthers(t, "Remove", before)
	apply(t, n, forwards...)
	wantOthers(t, "another Apply", before)
	wantSeenAs(t, p, "tcp", addrPort(server4, 80), host4)
}

// What others have is the same, byte by byte, before and after all that this package does beside it.
func TestOthersTablesAreNotTouched(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	iptablesRules(t, "iptables", "filter", dockerRules)
	iptablesRules(t, "iptables", "nat", dockerNAT)
	iptablesRules(t, "iptables-legacy", "filter", "-A FORWARD -s 198.51.100.0/24 -j DROP")
	nft(t, firewalldRules)
	deleteTable(t, "inet firewalld")
	nft(t, "table ip phonehost { chain x { type filter hook input priority 0; policy accept; ip saddr 198.51.100.1 drop; }; }") // another's, of the same name
	deleteTable(t, "ip phonehost")
	legacy := func() string { return run(t, "iptables-legacy", "-S") }
	before, beforeLegacy := others(t), legacy()
	n := newNAT(t, nil)
	check := func(after string) {
		t.Helper()
		if now := others(t); now != before {
			t.Errorf("after %s the other tables are\n%s\nand were\n%s", after, now, before)
		}
		if now := legacy(); now != beforeLegacy {
			t.Errorf("after %s iptables-legacy has\n%s\nand had\n%s", after, now, beforeLegacy)
		}
	}
	apply(t, n, adb(p, 6001))
	check("Apply")
	apply(t, n, many(p, 100)...)
	check("another Apply")
	conflicts(t, n)
	check("Conflicts")
	if err := n.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("Remove")
	if out := run(t, "nft", "list", "ruleset"); strings.Contains(out, "table inet phonehost") {
		t.Errorf("after Remove there is\n%s", out)
	}
	if err := n.Remove(t.Context()); err != nil {
		t.Errorf("a second Remove: %v", err)
	}
}

// What nft lists of the table it can load, and it then lists the same: hosts keep their rules in files that way.
func TestTableCanBeSavedAndLoaded(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	n := newNAT(t, nil)
	apply(t, n, append(many(p, 3), nat.Forward{Listen: addrPort(netip.IPv6Unspecified(), 7000), Protocol: policy.UDP, Phone: p.IPv6, Port: 7},
		nat.Forward{Listen: addrPort(netip.IPv4Unspecified(), 7000), Protocol: policy.UDP, Phone: p.IPv4, Port: 7},
		nat.Forward{Listen: addrPort(host6, 7001), Protocol: policy.TCP, Phone: p.IPv6, Port: 7})...)
	list := func() string { return run(t, "nft", "list", "table", "inet", nat.Table) }
	saved := list()
	run(t, "nft", "delete", "table", "inet", nat.Table)
	nft(t, saved)
	if loaded := list(); loaded != saved {
		t.Errorf("saved\n%s\nand after loading\n%s", saved, loaded)
	}
	// What was loaded so can be replaced.
	apply(t, n, adb(p, 6001))
	if s := n.Support(); !s.Timeouts || !s.Count {
		t.Errorf("this kernel took only %+v of the table", s)
	}
}

// The table of another version, with chains elsewhere, is replaced.
func TestTableOfAnotherVersionIsReplaced(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	serveTCP(t, p, addrPort(p.IPv4, 5555))
	nft(t, `table inet phonehost {
		map old { type inet_service : ipv4_addr; elements = { 1 : 10.213.0.9 }; }
		map forward4 { type inet_service : ipv4_addr; elements = { 1 : 10.213.0.9 }; }
		chain own { type filter hook output priority 7; policy accept; }
		chain old { type nat hook output priority -77; policy accept; dnat ip to tcp dport map @old; dnat ip to tcp dport map @forward4; }
	}`)
	n := newNAT(t, nil)
	apply(t, n, adb(p, 6001))
	if out := run(t, "nft", "list", "table", "inet", nat.Table); strings.Contains(out, "old") || strings.Contains(out, "priority 7;") {
		t.Errorf("something is left:\n%s", out)
	}
	wantSeenAs(t, onHost{}, "tcp", netip.MustParseAddrPort("127.0.0.1:6001"), gateway4)
}

// Links have route_localnet when their phone has a forward on loopback, and only then.
func TestRouteLocalnetIsOnForLinksThatNeedIt(t *testing.T) {
	l := newLab(t)
	a, b := l.phone(t, 2), l.phone(t, 3)
	n := newNAT(t, nil)
	want := func(on ...string) {
		t.Helper()
		got := ""
		for _, link := range []string{"all", "default", "lo", "up-server", a.link, b.link} {
			value, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + link + "/route_localnet")
			if err != nil {
				t.Fatal(err)
			}
			if string(value) != "0\n" {
				got += link + " "
			}
		}
		if got != strings.Join(on, "") {
			t.Errorf("route_localnet is on for %q, want %q", got, on)
		}
	}
	want()
	apply(t, n, adb(a, 6001))
	want(a.link + " ")
	apply(t, n, nat.Forward{Listen: addrPort(netip.IPv4Unspecified(), 6001), Protocol: policy.TCP, Phone: b.IPv4, Port: 1})
	want(b.link + " ")
	apply(t, n, nat.Forward{Listen: addrPort(host4, 6001), Protocol: policy.TCP, Phone: b.IPv4, Port: 1})
	want()
	apply(t, n, adb(a, 6001), adb(b, 6002))
	want(a.link+" ", b.link+" ")
	if err := n.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	want()
	// A phone without a link is no error; Apply is called again when there is one.
	if err := n.Apply(t.Context(), []nat.Forward{forward(policy.TCP, "127.0.0.1:6001", "10.213.9.9:1")}); err != nil {
		t.Error(err)
	}
	want()
}

// Connections and datagrams go on while the table is replaced again and again, with forwards that come and go; none is lost.
func TestReplacementLosesNothing(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	serveTCP(t, l.server, addrPort(server4, 80))
	serveUDP(t, l.server, addrPort(server4, 53))
	serveTCP(t, p, addrPort(p.IPv4, 5555))
	serveUDP(t, p, addrPort(p.IPv4, 5555))
	n := newNAT(t, nil)
	apply(t, n, adb(p, 6001), forwardUDP(p, 6001))
	const replacements = 60
	replaced := make(chan struct{})
	go func() {
		defer close(replaced)
		for i := range replacements {
			forwards := []nat.Forward{adb(p, 6001), forwardUDP(p, 6001)}
			if i%2 == 0 {
				forwards = append(forwards, many(p, 50)...)
			}
			if err := n.Apply(t.Context(), forwards); err != nil {
				t.Errorf("replacement %d: %v", i, err)
				return
			}
		}
	}()
	type talk struct {
		name, network string
		from          place
		to            netip.AddrPort
		lives         bool // one connection all the time
	}
	results := make(chan error)
	talks := []talk{
		{"a connection through the masquerade", "tcp", p, addrPort(server4, 80), true},
		{"new connections through the masquerade", "tcp", p, addrPort(server4, 80), false},
		{"datagrams through the masquerade", "udp", p, addrPort(server4, 53), true},
		{"new datagrams through the masquerade", "udp", p, addrPort(server4, 53), false},
		{"new datagrams through a forward on loopback", "udp", onHost{}, netip.MustParseAddrPort("127.0.0.1:6001"), false},
		{"a connection through a forward on loopback", "tcp", onHost{}, netip.MustParseAddrPort("127.0.0.1:6001"), true},
		{"new connections through a forward on loopback", "tcp", onHost{}, netip.MustParseAddrPort("127.0.0.1:6001"), false},
	}
	for _, x := range talks {
		go func() {
			rounds, err := chat(x.from, x.network, x.to, x.lives, replaced)
			if err != nil {
				err = fmt.Errorf("%s: round %d: %w", x.name, rounds, err)
			} else if rounds < replacements {
				err = fmt.Errorf("%s: only %d rounds during %d replacements", x.name, rounds, replacements)
			}
			results <- err
		}()
	}
	for range talks {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// chat speaks and is answered until done is closed, and returns how often. A datagram that is lost is an answer that never comes; TCP
// would send again, but not what was refused since a rule was missing.
func chat(from place, network string, to netip.AddrPort, lives bool, done <-chan struct{}) (rounds int, err error) {
	var conn net.Conn
	for ; ; rounds++ {
		select {
		case <-done:
			if conn != nil {
				conn.Close()
			}
			return rounds, nil
		default:
		}
		if conn == nil {
			if conn, err = dial(from, network, to, patience); err != nil {
				return rounds, err
			}
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			return rounds, err
		}
		if _, err := conn.Read(make([]byte, 256)); err != nil {
			return rounds, err
		}
		if !lives {
			conn.Close()
			conn = nil
		}
	}
}

// BenchmarkApply replaces the table with forwards, against nft doing the same from text.
func BenchmarkApply(b *testing.B) {
	l := newLab(b)
	p := l.phone(b, 2)
	n := newNAT(b, nil)
	for _, forwards := range []int{0, 100, 1000} {
		b.Run(fmt.Sprintf("forwards=%d", forwards), func(b *testing.B) {
			list := many(p, forwards)
			for b.Loop() {
				if err := n.Apply(b.Context(), list); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("forwards=%d/nft", forwards), func(b *testing.B) {
			text := "table inet " + nat.Table + "\ndelete table inet " + nat.Table + "\n" + run(b, "nft", "list", "table", "inet", nat.Table)
			program := testenv.Tool(b, "nft")
			for b.Loop() {
				cmd := exec.CommandContext(b.Context(), program, "-f", "-")
				cmd.Stdin = strings.NewReader(text)
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
			}
		})
	}
}
