package nat_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// entry is one of the kernel's table of connections.
type entry struct {
	protocol, state string
	left            int // seconds until it goes without a packet
	text            string
}

// entries lists the kernel's entries of a family in whose text all the words are.
func entries(t testing.TB, family string, words ...string) []entry {
	t.Helper()
	var some []entry
lines:
	for line := range strings.Lines(run(t, "conntrack", "-L", "-f", family)) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		left, err := strconv.Atoi(fields[2])
		if err != nil {
			continue // the line that counts them
		}
		for _, w := range words {
			if !strings.Contains(line, w+" ") {
				continue lines
			}
		}
		some = append(some, entry{fields[0], fields[3], left, strings.TrimSpace(line)})
	}
	return some
}

// wantTime fails unless there is one entry with the words and it lives for longer than more and up to most seconds.
func wantTime(t testing.TB, what, family string, more, most int, words ...string) {
	t.Helper()
	var found []entry
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if found = entries(t, family, words...); len(found) == 1 && found[0].left > more && found[0].left <= most {
			return
		}
	}
	t.Errorf("%s: %+v; want one entry that lives for %d to %d s", what, found, more+1, most)
}

// The entries of phones' flows live no longer than the datapath's flows do, in every state, to the world, to the gateway and by
// forwards; also after the table was replaced. Others' entries keep the times of the host.
func TestTimesOfPhonesFlows(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	serveTCP(t, l.server, addrPort(server4, 80))
	serveTCP(t, l.server, addrPort(server6, 80))
	serveUDP(t, l.server, addrPort(server4, 53))
	serveUDP(t, onHost{}, addrPort(gateway4, 53))
	serveTCP(t, p, addrPort(p.IPv4, 5555))
	n := newNAT(t, nil)
	apply(t, n, adb(p, 6001), nat.Forward{Listen: addrPort(host4, 6002), Protocol: policy.TCP, Phone: p.IPv4, Port: 5555})
	connect := func(at place, network string, to netip.AddrPort) (net.Conn, string) {
		t.Helper()
		conn, err := dial(at, network, to, patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn, fmt.Sprintf("sport=%d", netip.MustParseAddrPort(conn.LocalAddr().String()).Port())
	}
	say := func(conn net.Conn, answers bool) {
		t.Helper()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 200)); answers && err != nil {
			t.Fatal(err)
		}
	}
	go func() { _, _ = dial(p, "tcp", netip.MustParseAddrPort("192.0.2.77:80"), impatience) }() // where nobody is
	wantTime(t, "TCP without an answer", "ipv4", 10, 20, "SYN_SENT", "dst=192.0.2.77")
	long, port := connect(p, "tcp", addrPort(server4, 80))
	say(long, true)
	wantTime(t, "established TCP", "ipv4", 7400, 7440, "ESTABLISHED", port)
	long6, port6 := connect(p, "tcp", addrPort(server6, 80))
	say(long6, true)
	wantTime(t, "established TCP over IPv6", "ipv6", 7400, 7440, "ESTABLISHED", port6)
	var deaf net.Listener // accepts nothing, so it closes nothing
	if err := l.server.Do(func() (err error) { deaf, err = net.Listen("tcp4", "192.0.2.2:81"); return err }); err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	half, portHalf := connect(p, "tcp", addrPort(server4, 81))
	if err := half.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wantTime(t, "TCP closed by one side", "ipv4", 40, 60, "CLOSE_WAIT", portHalf)
	closed, portClosed := connect(p, "tcp", addrPort(server4, 80))
	if err := closed.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(closed); err != nil {
		t.Fatal(err)
	}
	wantTime(t, "closed TCP", "ipv4", 3, 10, "TIME_WAIT", portClosed)
	reset, portReset := connect(p, "tcp", addrPort(server4, 80))
	say(reset, true)
	_ = reset.(*net.TCPConn).SetLinger(0)
	reset.Close()
	wantTime(t, "reset TCP", "ipv4", 3, 10, "CLOSE", portReset)
	silent, portSilent := connect(p, "udp", addrPort(server4, 99))
	if _, err := silent.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	wantTime(t, "UDP without an answer", "ipv4", 20, 30, "udp", portSilent)
	dns, portDNS := connect(p, "udp", addrPort(gateway4, 53))
	say(dns, true)
	wantTime(t, "UDP to the gateway", "ipv4", 20, 180, "udp", portDNS)
	for family, server := range map[string]netip.Addr{"ipv4": server4, "ipv6": server6} {
		p.Run(t, "ping", "-c", "1", "-W", "5", server.String())
		most := int(datapath.DefaultTimeouts.ICMP / time.Second) // no object has it: the kernel's own is the same
		wantTime(t, "echo over "+family, family, most-10, most, map[string]string{"ipv4": "icmp", "ipv6": "icmpv6"}[family], "dst="+server.String())
	}
	_, portIn := connect(l.server, "tcp", addrPort(host4, 6002))
	wantTime(t, "a forward from outside", "ipv4", 7400, 7440, "ESTABLISHED", portIn)
	own, portOwn := connect(onHost{}, "tcp", netip.MustParseAddrPort("127.0.0.1:6001"))
	say(own, true)
	wantTime(t, "a forward on loopback", "ipv4", 7400, 7440, "ESTABLISHED", portOwn, "dst=127.0.0.1")

	// Its end may not set the flows free: the kernel gives those of a deleted object the host's times, with their next packet.
	apply(t, n, adb(p, 6001))
	say(long, true)
	say(long6, true)
	say(own, true)
	wantTime(t, "established TCP after a replacement", "ipv4", 7400, 7440, "ESTABLISHED", port)
	wantTime(t, "established TCP over IPv6 after a replacement", "ipv6", 7400, 7440, "ESTABLISHED", port6)
	wantTime(t, "a forward on loopback after a replacement", "ipv4", 7400, 7440, "ESTABLISHED", portOwn, "dst=127.0.0.1")

	hosts, portHost := connect(onHost{}, "tcp", addrPort(server4, 80))
	say(hosts, true)
	wantTime(t, "the host's own TCP", "ipv4", 7440, 1<<30, "ESTABLISHED", portHost)
}

// flood sends a datagram from each of n ports.
func flood(t testing.TB, at place, to netip.AddrPort, n int) {
	t.Helper()
	err := at.Do(func() error {
		for range n {
			conn, err := net.DialTimeout("udp", to.String(), patience)
			if err != nil {
				return err
			}
			_, _ = conn.Write([]byte("x")) // refused, when the first was answered so
			conn.Close()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// One phone's flood fills no more of the kernel's table than its part, whether it begins the flows or others do by a forward; its
// neighbour does not notice.
func TestFloodFillsNoMoreThanItsPart(t *testing.T) {
	l := newLab(t)
	p, neighbour := l.phone(t, 2), l.phone(t, 3)
	serveTCP(t, l.server, addrPort(server4, 80))
	serveTCP(t, neighbour, addrPort(neighbour.IPv4, 5555))
	const limit, sent = 50, 400
	const fewest, most = 90, 110 // twice the limit; the kernel counts a flow that begins and is not in the table yet now and then twice, or not
	n := newNAT(t, func(c *nat.Config) { c.MaxFlows = limit })
	forwards := []nat.Forward{
		{Listen: addrPort(host4, 6002), Protocol: policy.UDP, Phone: p.IPv4, Port: 99},
		{Listen: addrPort(host4, 6002), Protocol: policy.TCP, Phone: neighbour.IPv4, Port: 5555},
	}
	apply(t, n, forwards...)
	for _, test := range []struct {
		name string
		from place
		to   netip.AddrPort
		word string
	}{
		{"by the phone", p, addrPort(server4, 99), "src=" + p.IPv4.String()},
		{"by a forward", l.server, addrPort(host4, 6002), "dport=6002"},
	} {
		t.Run(test.name, func(t *testing.T) {
			flood(t, test.from, test.to, sent)
			if got := len(entries(t, "ipv4", "udp", test.word)); got > most || got < fewest {
				t.Errorf("%d flows left %d entries; want %d to %d", sent, got, fewest, most)
			}
			apply(t, n, forwards...) // does not begin to count anew
			flood(t, test.from, test.to, sent)
			if got := len(entries(t, "ipv4", "udp", test.word)); got > most {
				t.Errorf("%d more flows after a replacement left %d entries; want at most %d", sent, got, most)
			}
			for range 100 {
				wantSeenAs(t, neighbour, "tcp", addrPort(server4, 80), host4)
				wantSeenAs(t, l.server, "tcp", addrPort(host4, 6002), server4)
			}
		})
	}
}
