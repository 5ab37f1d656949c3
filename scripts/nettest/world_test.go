package nettest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/netns"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/netpolicy/wire"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// The server's addresses are public ones, as far as policies go; it is the host's router, too. other4 and other6 are public addresses
// beside them.
var (
	server4, server6 = netip.MustParseAddr("203.0.114.2"), netip.MustParseAddr("2001:4860::2")
	other4, other6   = netip.MustParseAddr("203.0.114.3"), netip.MustParseAddr("2001:4860::3")
	router4          = netip.MustParseAddr("192.168.77.2")
	host4, host6     = netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("fd00:77::1")
	gateway4         = netip.MustParseAddr("10.213.0.1")
	gateway6         = netip.MustParseAddr("fd70:686f:6e65::1")
)

// namespaces is where the phones' are.
const namespaces = "/run/phonehost/netns"

// ports is the policy of the attacker: the default, but for one port that nobody may use.
const ports = "default allow-internet\ndeny egress tcp any 6666\ndeny egress udp any 6666\n"

// mark is in each frame that must not pass.
var mark = []byte("<not to pass>")

// world is a host with an uplink to a server, and phones.
type world struct {
	t      *testing.T
	cfg    netpolicy.Config
	engine *netpolicy.Engine
	server netlab.Namespace
}

func newWorld(t *testing.T) *world {
	testenv.Root(t)
	w := &world{t: t, server: netlab.Make(t, "server")}
	w.server.Wire(t, []string{"192.168.77.1/24", "fd00:77::1/64"}, []string{"192.168.77.2/24", "fd00:77::2/64"})
	for _, family := range []struct {
		gateway   string
		addresses []netip.Addr
	}{{"192.168.77.2", []netip.Addr{server4, other4}}, {"fd00:77::2", []netip.Addr{server6, other6}}} {
		for _, a := range family.addresses {
			w.server.Run(t, "ip", "address", "add", a.String(), "dev", "lo", "nodad")
		}
		netlab.Host().Run(t, "ip", "route", "add", "default", "via", family.gateway)
	}
	state := filepath.Join(t.TempDir(), "state")
	w.cfg = netpolicy.Config{
		NetNS: netns.New(namespaces), Pins: "/sys/fs/bpf/phonehost/net",
		Pool4: netip.MustParsePrefix("10.213.0.0/16"), Pool6: netip.MustParsePrefix("fd70:686f:6e65::/64"),
		Uplink: "up-server", Masquerade4: true, Masquerade6: true, NameServerState: state,
		NameServers: []netip.AddrPort{netip.AddrPortFrom(router4, 53)},
	}
	w.open()
	t.Cleanup(w.clean)
	return w
}

// clean removes all phones.
func (w *world) clean() {
	ids, err := w.engine.List()
	if err != nil {
		w.t.Error(err)
	}
	for _, id := range ids {
		if err := w.engine.Remove(context.Background(), id); err != nil {
			w.t.Error(err)
		}
	}
	if err := w.engine.Close(); err != nil {
		w.t.Error(err)
	}
}

// open begins with an engine, or goes on with another.
func (w *world) open() {
	w.t.Helper()
	engine, err := netpolicy.Open(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.engine = engine
}

func phone(slot uint32) netpolicy.Phone {
	return netpolicy.Phone{
		ID: fmt.Sprintf("p%d", slot), Slot: slot, Policy: netpolicy.DefaultPolicy,
		IPv4: netip.AddrFrom4([4]byte{10, 213, 1, byte(slot)}), IPv6: netip.MustParseAddr(fmt.Sprintf("fd70:686f:6e65::1:%d", slot)),
	}
}

// ensure makes a phone's network and returns its namespace.
func (w *world) ensure(p netpolicy.Phone) netlab.Namespace {
	w.t.Helper()
	if err := w.engine.Ensure(w.t.Context(), p); err != nil {
		w.t.Fatal(err)
	}
	return w.namespace(p.ID)
}

func (w *world) namespace(id string) netlab.Namespace {
	return netlab.Namespace{Name: id, Path: w.cfg.NetNS.Path(id)}
}

// policy puts a policy in force.
func (w *world) policy(name, text string) {
	w.t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.engine.SetPolicy(w.t.Context(), name, p); err != nil {
		w.t.Fatal(err)
	}
}

// dropped returns what was dropped of a phone, by reason.
func (w *world) dropped(id string) map[string]uint64 {
	w.t.Helper()
	status, err := w.engine.Status(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return status.Counters.Dropped
}

// end is one end of a phone's link: its addresses, and the hardware addresses of both ends.
type end struct {
	id              string
	four, six       netip.Addr
	linkLocal       netip.Addr
	mac, gatewayMAC net.HardwareAddr
}

func endOf(p netpolicy.Phone) end {
	e := end{id: p.ID, four: p.IPv4, six: p.IPv6}
	e.mac, e.gatewayMAC = wire.MACs(p.ID)
	e.linkLocal = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: e.mac[0] ^ 2, 9: e.mac[1], 10: e.mac[2], 11: 0xff, 12: 0xfe, 13: e.mac[3], 14: e.mac[4], 15: e.mac[5]})
	return e
}

// frame is one that the phone sends to its gateway, with a packet whose addresses tell its kind.
func (e end) frame(packet []byte) []byte {
	if packet[0]>>4 == 4 {
		return ether(e.gatewayMAC, e.mac, 0x0800, packet)
	}
	return ether(e.gatewayMAC, e.mac, 0x86dd, packet)
}

func TestMain(m *testing.M) {
	children := map[string]func() error{"inside": inside, "engine": engineChild}
	child, found := children[os.Getenv(childEnv)]
	if !found {
		os.Exit(netlab.Run(m))
	}
	if err := child(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
