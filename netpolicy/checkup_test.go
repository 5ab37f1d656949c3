package netpolicy_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

func checkup(t *testing.T, cfg netpolicy.Config) *netpolicy.Checkup {
	t.Helper()
	c, err := netpolicy.NewCheckup(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A look at a host with a phone on it finds what is there, and leaves all as it was: the kernel's objects, and the traffic.
func TestCheckupChangesNothing(t *testing.T) {
	w := newWorld(t)
	one := w.ensure(phone(1))
	w.serve(w.server, ":80")
	before := hostState(t)
	c := checkup(t, w.cfg)
	if dir, err := c.PinDir(); err != nil || dir != w.cfg.Pins {
		t.Errorf("pins in %s: %v", dir, err)
	}
	if err := c.Pools(); err != nil {
		t.Errorf("the pools: %v", err)
	}
	if up, err := c.Uplinks(); err != nil || len(up) != 1 || up[0].Name != "up-server" || !up[0].IPv4 || !up[0].IPv6 || up[0].MTU != 1500 {
		t.Errorf("the uplinks: %+v, %v", up, err)
	}
	if err := c.Filters(); err != nil {
		t.Errorf("clsact filters: %v", err)
	}
	if all, text, err := c.Connections(t.Context()); err != nil || !all || !strings.Contains(text, "bounded") {
		t.Errorf("connections: %t %q %v", all, text, err)
	}
	if err := c.Limits(t.Context()); err != nil {
		t.Errorf("limits: %v", err)
	}
	if found, err := c.Conflicts(t.Context()); err != nil || len(found) != 0 {
		t.Errorf("conflicts on a host without rules: %v, %v", found, err)
	}
	if after := hostState(t); after != before {
		t.Errorf("after the checks the host has\n%s\nand before\n%s", after, before)
	}
	if !w.reaches(one, server4+":80") {
		t.Error("the phone does not reach the server any more")
	}
}

// Without an engine, before the first phone, the checks say what will be.
func TestCheckupWithoutAnEngine(t *testing.T) {
	testenv.Root(t)
	cfg := netpolicy.Config{
		Pins: "/sys/fs/bpf/phonehost/other", Pool4: netip.MustParsePrefix("10.214.0.0/16"), Pool6: netip.MustParsePrefix("fd70:686f:6e66::/64"),
	}
	c := checkup(t, cfg)
	if _, err := c.PinDir(); err != nil {
		t.Errorf("a directory below the BPF file system: %v", err)
	}
	if _, err := os.Stat(cfg.Pins); err == nil {
		t.Error("the check made the directory")
	}
	cfg.Pins = filepath.Join(t.TempDir(), "pins")
	if _, err := checkup(t, cfg).PinDir(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a directory of another file system: %v", err)
	}
	if up, err := c.Uplinks(); err != nil || len(up) != 0 {
		t.Errorf("uplinks of a host without a default route: %+v, %v", up, err)
	}
	cfg.Uplink = "none0"
	if _, err := checkup(t, cfg).Uplinks(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("an uplink that is not there: %v", err)
	}
	if asked, err := c.NameServer(t.Context()); asked || err != nil {
		t.Errorf("the name server of no phones: %t, %v", asked, err)
	}
	netlab.Host().Run(t, "ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
	defer netlab.Host().Run(t, "ip", "link", "delete", "other0")
	netlab.Host().Run(t, "ip", "address", "add", "10.214.7.1/24", "dev", "other0")
	if err := c.Pools(); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "network.ipv4_pool") {
		t.Errorf("a pool that the host uses: %v", err)
	}
}

// The link that a killed trial has left is not taken for a network of the host's: the next agent's phones would have no networks.
func TestLinkOfAKilledTrialIsOurs(t *testing.T) {
	w := newWorld(t)
	host := netlab.Host()
	host.Run(t, "ip", "link", "add", "ph-trial", "type", "veth", "peer", "name", "ph-tria0")
	host.Run(t, "ip", "address", "add", "10.213.0.1/32", "dev", "ph-trial")
	host.Run(t, "ip", "link", "set", "ph-trial", "up")
	host.Run(t, "ip", "route", "add", "10.213.255.254/32", "dev", "ph-trial")
	w.open()
	if found, err := checkup(t, w.cfg).Conflicts(t.Context()); err != nil || len(found) != 0 {
		t.Errorf("conflicts: %v, %v", found, err)
	}
	if _, err := net.InterfaceByName("ph-trial"); err == nil {
		t.Error("the next trial has left the link")
	}
}

// Whoever has the name server's port is named, and the name server is asked only where there is one to ask.
func TestNameServersPort(t *testing.T) {
	w := newWorld(t)
	w.ensure(phone(1))
	c := checkup(t, w.cfg)
	if found, err := c.Squatters(); err != nil || len(found) != 0 {
		t.Errorf("nobody listens, and there are %v, %v", found, err)
	}
	if asked, err := c.NameServer(t.Context()); !asked || err == nil || !strings.Contains(err.Error(), "10.213.0.1 by udp") || !strings.Contains(err.Error(), "fd70:686f:6e65::1 by tcp") {
		t.Errorf("no name server runs: %t, %v", asked, err)
	}
	l, err := net.ListenPacket("udp4", ":53")
	if err != nil {
		t.Fatal(err)
	}
	found, err := c.Squatters()
	l.Close()
	if err != nil || len(found) != 1 || !strings.HasSuffix(found[0], "listens on 0.0.0.0:53") || !strings.Contains(found[0], "pid") {
		t.Errorf("this process listens on all addresses: %v, %v", found, err)
	}
	refuse := dns.HandlerFunc(func(out dns.ResponseWriter, m *dns.Msg) {
		_ = out.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeRefused))
	})
	for _, address := range []string{"10.213.0.1:53", "[fd70:686f:6e65::1]:53"} {
		for _, network := range []string{"udp", "tcp"} {
			started := make(chan struct{})
			server := &dns.Server{Addr: address, Net: network, Handler: refuse, NotifyStartedFunc: func() { close(started) }}
			ended := make(chan error, 1)
			go func() { ended <- server.ListenAndServe() }()
			select {
			case <-started:
			case err := <-ended:
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = server.Shutdown() })
		}
	}
	if asked, err := c.NameServer(t.Context()); !asked || err != nil {
		t.Errorf("a name server answers: %t, %v", asked, err)
	}
}

// What other rules drop is found through the Checkup too, with what mends it.
func TestCheckupFindsConflicts(t *testing.T) {
	w := newWorld(t)
	w.ensure(phone(1))
	host := netlab.Host()
	host.Run(t, "nft", "add table inet fence; add chain inet fence forward { type filter hook forward priority filter; policy drop; }")
	defer host.Run(t, "nft", "delete table inet fence")
	found, err := checkup(t, w.cfg).Conflicts(t.Context())
	if err != nil || len(found) != 2 || found[0].Table != "inet fence" || len(found[0].Mend) == 0 {
		t.Fatalf("conflicts: %+v, %v", found, err)
	}
	for _, c := range found {
		for _, command := range c.Mend {
			host.Run(t, "sh", "-c", command)
		}
	}
	if left, err := checkup(t, w.cfg).Conflicts(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("after the commands: %v, %v", left, err)
	}
}
