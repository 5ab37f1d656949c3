package nat_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

func TestMain(m *testing.M) {
	// A fuzzer speaks to its workers by open files, which do not go along to another network, and needs none.
	if slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.fuzz") }) {
		os.Exit(m.Run())
	}
	os.Exit(netlab.Run(m))
}

var (
	pool4 = netip.MustParsePrefix("10.213.0.0/16")
	pool6 = netip.MustParsePrefix("fd70:686f:6e65::/64")
	// Addresses of the host's uplink and of the server behind it.
	host4, host6     = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	server4, server6 = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	gateway4         = netip.MustParseAddr("10.213.0.1")
	gateway6         = netip.MustParseAddr("fd70:686f:6e65::1")
	loopback4        = netip.MustParseAddr("127.0.0.1")
)

// times are the datapath's, as the engine of networks hands them on.
var times = nat.Timeouts{
	TCPNew: datapath.DefaultTimeouts.TCPNew, TCPEstablished: datapath.DefaultTimeouts.TCPEstablished, TCPClosing: datapath.DefaultTimeouts.TCPClosing,
	TCPClosed: datapath.DefaultTimeouts.TCPClosed, UDPNew: datapath.DefaultTimeouts.UDPNew, UDPEstablished: datapath.DefaultTimeouts.UDPEstablished,
}

// lab is a host, which the test's process is, with a server at its uplink and phones.
type lab struct {
	server netlab.Namespace
}

// phone is a namespace wired as phones are, without the datapath.
type phone struct {
	netlab.Namespace
	link       string // the name of the host's end
	IPv4, IPv6 netip.Addr
}

// newLab makes a host that forwards between its uplink and its phones.
func newLab(t testing.TB) *lab {
	t.Helper()
	testenv.Root(t)
	sysctl(t, "net/ipv6/conf/default/accept_dad", "0")
	l := &lab{server: netlab.Make(t, "server")}
	l.server.Wire(t, []string{host4.String() + "/24", host6.String() + "/64"}, []string{server4.String() + "/24", server6.String() + "/64"})
	forwarding(t, "up-server")
	for _, gateway := range []netip.Addr{server4, server6} {
		route := &netlink.Route{Gw: net.IP(gateway.AsSlice())}
		if err := netlink.RouteReplace(route); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// forwarding lets packets come in by a link and leave by another, of both families.
func forwarding(t testing.TB, link string) {
	t.Helper()
	sysctl(t, "net/ipv4/conf/"+link+"/forwarding", "1")
	sysctl(t, "net/ipv6/conf/all/forwarding", "1")
}

func sysctl(t testing.TB, name, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// phone makes the phone with the number-th addresses of the pools.
func (l *lab) phone(t testing.TB, number byte) phone {
	t.Helper()
	name := fmt.Sprintf("phone%d", number)
	p := phone{Namespace: netlab.Make(t, name), link: fmt.Sprintf("ph-%010x", number)}
	if err := p.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0) }); err != nil {
		t.Fatal(err)
	}
	p.IPv4 = netip.AddrFrom4([4]byte{10, 213, 0, number})
	six := pool6.Addr().As16()
	six[15] = number
	p.IPv6 = netip.AddrFrom16(six)
	f, err := os.Open(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pair := netlink.NewVeth(netlink.LinkAttrs{Name: p.link})
	pair.PeerName, pair.PeerNamespace = "eth0", netlink.NsFd(int(f.Fd()))
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(pair) })
	address(t, p.link, gateway4.String()+"/32", gateway6.String()+"/128")
	forwarding(t, p.link)
	run(t, "ip", "route", "add", p.IPv4.String(), "dev", p.link)
	run(t, "ip", "-6", "route", "add", p.IPv6.String(), "dev", p.link)
	p.Run(t, "ip", "addr", "add", p.IPv4.String()+"/16", "dev", "eth0")
	p.Run(t, "ip", "addr", "add", p.IPv6.String()+"/64", "dev", "eth0", "nodad")
	p.Run(t, "ip", "link", "set", "eth0", "up")
	p.Run(t, "ip", "route", "add", "default", "via", gateway4.String())
	p.Run(t, "ip", "-6", "route", "add", "default", "via", gateway6.String())
	return p
}

// address gives a link addresses and brings it up.
func address(t testing.TB, link string, addresses ...string) {
	t.Helper()
	for _, a := range addresses {
		args := []string{"addr", "add", a, "dev", link}
		if strings.Contains(a, ":") {
			args = append(args, "nodad")
		}
		run(t, "ip", args...)
	}
	run(t, "ip", "link", "set", link, "up")
}

// run runs a command on the host and returns what it printed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), testenv.Tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// finally runs a command on the host at the test's end.
func finally(t testing.TB, name string, args ...string) {
	t.Helper()
	path := testenv.Tool(t, name)
	t.Cleanup(func() {
		if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
			t.Errorf("%s %q: %v\n%s", name, args, err, out)
		}
	})
}

// nft loads rules as text.
func nft(t testing.TB, rules string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "nft"), "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft -f: %v\n%s\n%s", err, out, rules)
	}
}

// newNAT returns a NAT of the lab's pools, whose table the test's end removes.
func newNAT(t testing.TB, change func(*nat.Config)) *nat.NAT {
	t.Helper()
	cfg := nat.Config{Pool4: pool4, Pool6: pool6, Masquerade4: true, Masquerade6: true, Timeouts: times}
	if change != nil {
		change(&cfg)
	}
	n, err := nat.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return n
}

func apply(t testing.TB, n *nat.NAT, forwards ...nat.Forward) {
	t.Helper()
	if err := n.Apply(t.Context(), forwards); err != nil {
		t.Fatal(err)
	}
}

// place is where sockets are opened: a namespace, or nil for the host.
type place interface{ Do(func() error) error }

type onHost struct{}

func (onHost) Do(fn func() error) error { return fn() }

// serveTCP answers each connection with a line that has the address of who connected, and then with what it is sent.
func serveTCP(t testing.TB, at place, address netip.AddrPort) {
	t.Helper()
	var listener net.Listener
	if err := at.Do(func() (err error) { listener, err = net.Listen("tcp", address.String()); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprintln(conn, peer(conn.RemoteAddr()))
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
}

// serveUDP answers each datagram with the address of who sent it.
func serveUDP(t testing.TB, at place, address netip.AddrPort) {
	t.Helper()
	var conn net.PacketConn
	if err := at.Do(func() (err error) { conn, err = net.ListenPacket("udp", address.String()); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 2048)
		for {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(peer(from)+"\n"), from)
		}
	}()
}

func peer(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return host
}

// patience is how long a test waits for what must come, and impatience for what must not.
const (
	patience   = 5 * time.Second
	impatience = 400 * time.Millisecond
)

// dial connects from a place.
func dial(at place, network string, to netip.AddrPort, wait time.Duration) (conn net.Conn, err error) {
	err = at.Do(func() error {
		conn, err = net.DialTimeout(network, to.String(), wait)
		return err
	})
	return conn, err
}

// seenAs returns whom the server at an address takes the caller for.
func seenAs(at place, network string, to netip.AddrPort, wait time.Duration) (string, error) {
	conn, err := dial(at, network, to, wait)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(wait))
	if network == "udp" {
		if _, err := conn.Write([]byte("who am I")); err != nil {
			return "", err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// wantSeenAs fails unless the server answers and takes the caller for want.
func wantSeenAs(t testing.TB, at place, network string, to netip.AddrPort, want netip.Addr) {
	t.Helper()
	got, err := seenAs(at, network, to, patience)
	if err != nil || got != want.String() {
		t.Errorf("%s %s: the server saw %q, %v; want %s", network, to, got, err, want)
	}
}

// wantNothing fails if anything answers.
func wantNothing(t testing.TB, at place, network string, to netip.AddrPort) {
	t.Helper()
	got, err := seenAs(at, network, to, impatience)
	if err == nil {
		t.Errorf("%s %s answered, and saw %s; want nobody there", network, to, got)
	}
	var timeout net.Error
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) &&
		!(errors.As(err, &timeout) && timeout.Timeout()) {
		t.Errorf("%s %s: %v; want silence or a refusal", network, to, err)
	}
}

func addrPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// installed needs a program that takes charge of the machine that it is installed on: no package of scripts/deps has it, and no
// PHONEHOST_TEST_REQUIRE promises it. Their packages may be unpacked anywhere on the PATH; in the machines of TestVMBesideFirewalls of
// scripts/vm/suite they are installed, and nothing is skipped.
func installed(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skip(program + " is not installed, and would take charge of the machine if it were")
	}
}
