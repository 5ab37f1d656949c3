package netpolicy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/netns"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

func TestMain(m *testing.M) { os.Exit(netlab.Run(m)) }

// world is a host with an uplink to a server, and phones.
type world struct {
	t      testing.TB
	cfg    netpolicy.Config
	engine *netpolicy.Engine
	server netlab.Namespace
}

// The server's addresses are public ones, as far as policies go; it is the host's router, too.
const (
	server4 = "203.0.114.2"
	server6 = "2001:4860::2"
)

func newWorld(t testing.TB) *world {
	t.Helper()
	testenv.Root(t)
	w := &world{t: t, server: netlab.Make(t, "server")}
	w.server.Wire(t, []string{"192.168.77.1/24", "fd00:77::1/64"}, []string{"192.168.77.2/24", "fd00:77::2/64"})
	host := netlab.Host()
	for _, family := range []struct{ address, gateway string }{{server4 + "/32", "192.168.77.2"}, {server6 + "/128", "fd00:77::2"}} {
		w.server.Run(t, "ip", "address", "add", family.address, "dev", "lo")
		host.Run(t, "ip", "route", "add", "default", "via", family.gateway)
	}
	w.cfg = netpolicy.Config{
		NetNS: netns.New("/run/phonehost/netns"), Pins: "/sys/fs/bpf/phonehost/net",
		Pool4: netip.MustParsePrefix("10.213.0.0/16"), Pool6: netip.MustParsePrefix("fd70:686f:6e65::/64"),
		Uplink: "up-server", Masquerade4: true, Masquerade6: true, Sample: 1, NameServerState: t.TempDir(),
	}
	w.open()
	t.Cleanup(func() {
		if w.engine == nil {
			if _, err := netpolicy.Remove(context.Background(), w.cfg); err != nil {
				t.Error(err)
			}
			return
		}
		ids, err := w.engine.List()
		if err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			if err := w.engine.Remove(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
		if err := w.engine.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// open begins with an engine, or goes on with another.
func (w *world) open() {
	w.t.Helper()
	w.close()
	engine, err := netpolicy.Open(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.engine = engine
}

// close ends the engine, and leaves what it has made.
func (w *world) close() {
	w.t.Helper()
	if w.engine == nil {
		return
	}
	if err := w.engine.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.engine = nil
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
	return netlab.Namespace{Name: p.ID, Path: w.cfg.NetNS.Path(p.ID)}
}

// remove removes a phone's network.
func (w *world) remove(id string) {
	w.t.Helper()
	if err := w.engine.Remove(w.t.Context(), id); err != nil {
		w.t.Fatal(err)
	}
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

// serve answers every TCP connection to an address in a namespace with the peer's address, and echoes what it then gets.
func (w *world) serve(ns netlab.Namespace, address string) {
	w.t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprintf(conn, "%s\n", conn.RemoteAddr())
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
}

// patience is how long a connection that must fail is tried: what is dropped is not answered.
const patience = 300 * time.Millisecond

// dial connects from a namespace and returns the connection and how the server sees it.
func dial(ns netlab.Namespace, address string, patience time.Duration) (conn net.Conn, seen string, err error) {
	err = ns.Do(func() (err error) {
		d := net.Dialer{Timeout: patience}
		conn, err = d.Dial("tcp", address)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	line := make([]byte, 128)
	n, err := conn.Read(line)
	return conn, strings.TrimSpace(string(line[:n])), err
}

// reaches tells whether a connection can be made.
func (w *world) reaches(ns netlab.Namespace, address string) bool {
	w.t.Helper()
	conn, _, err := dial(ns, address, 5*time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// kept tells whether a connection cannot be made; what fails in another way than by silence ends the test.
func (w *world) kept(ns netlab.Namespace, address string) bool {
	w.t.Helper()
	conn, _, err := dial(ns, address, patience)
	if err == nil {
		conn.Close()
		return false
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		if !errors.Is(err, syscall.EHOSTUNREACH) {
			w.t.Fatalf("from %s to %s: %v, which is no silence", ns.Name, address, err)
		}
	}
	return true
}

func TestPhonesReachTheInternetAndNobodyElse(t *testing.T) {
	w := newWorld(t)
	one, two := w.ensure(phone(1)), w.ensure(phone(2))
	w.serve(w.server, ":80")
	w.serve(two, ":80")
	host := netlab.Host()
	w.serve(host, ":80")
	for _, server := range []string{server4, "[" + server6 + "]"} {
		conn, seen, err := dial(one, server+":80", 5*time.Second)
		if err != nil {
			t.Fatalf("p1 does not reach the server %s: %v", server, err)
		}
		conn.Close()
		if strings.HasPrefix(seen, "10.213.") || strings.HasPrefix(seen, "[fd70:") {
			t.Errorf("the server sees p1 as %s: not hidden", seen)
		}
	}
	for name, address := range map[string]string{
		"its neighbour": "10.213.1.2:80", "its neighbour's IPv6 address": "[fd70:686f:6e65::1:2]:80",
		"the gateway": "10.213.0.1:80", "the host's address on the uplink": "192.168.77.1:80", "that of IPv6": "[fd00:77::1]:80",
		"a machine in the host's network": "192.168.77.2:80", "that by IPv6": "[fd00:77::2]:80",
	} {
		if !w.kept(one, address) {
			t.Errorf("p1 reaches %s, %s", name, address)
		}
	}
	for _, address := range []string{"10.213.1.2:80", "[fd70:686f:6e65::1:2]:80"} {
		if !w.kept(host, address) {
			t.Errorf("the host reaches p2 at %s, which no rule allows", address)
		}
	}
}

func TestPolicyChangesAtOnce(t *testing.T) {
	w := newWorld(t)
	w.policy("web", "allow egress tcp 203.0.114.0/24 80\ndefault deny-all\n")
	p := phone(1)
	p.Policy = "web"
	one := w.ensure(p)
	w.serve(w.server, ":80")
	w.serve(w.server, ":81")
	if !w.reaches(one, server4+":80") || !w.kept(one, server4+":81") || !w.kept(one, "["+server6+"]:80") {
		t.Fatal("the policy is not what decides")
	}
	conn, _, err := dial(one, server4+":80", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w.policy("web", "allow egress tcp 203.0.114.0/24 81\ndefault deny-all\n")
	if !w.reaches(one, server4+":81") || !w.kept(one, server4+":80") {
		t.Error("the changed policy is not what decides")
	}
	if _, err := conn.Write([]byte("still here?")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if n, err := conn.Read(make([]byte, 16)); err == nil {
		t.Errorf("an established connection that the policy forbids now goes on: %d bytes", n)
	}
	// Another engine finds the same, and says the same.
	w.open()
	w.policy("web", "allow egress tcp 203.0.114.0/24 81\ndefault deny-all\n")
	w.ensure(p)
	if !w.reaches(one, server4+":81") || !w.kept(one, server4+":80") {
		t.Error("the policy is not what decides after another engine has taken over")
	}
}

func TestCutAndRestore(t *testing.T) {
	w := newWorld(t)
	p := phone(1)
	one := w.ensure(p)
	w.serve(w.server, ":80")
	p.Cut = true
	w.ensure(p)
	if !w.kept(one, server4+":80") {
		t.Error("a phone that is cut reaches the server")
	}
	p.Cut = false
	w.ensure(p)
	if !w.reaches(one, server4+":80") {
		t.Error("a phone that was restored does not reach the server")
	}
}

func TestForwards(t *testing.T) {
	w := newWorld(t)
	p := phone(1)
	p.Forwards = []netpolicy.Forward{
		{Listen: netip.MustParseAddrPort("127.0.0.1:6001"), Protocol: policy.TCP, Port: 5555},
		{Listen: netip.MustParseAddrPort("192.168.77.1:6002"), Protocol: policy.TCP, Port: 5555},
	}
	one := w.ensure(p)
	w.serve(one, ":5555")
	w.serve(one, ":5556")
	host := netlab.Host()
	if !w.reaches(host, "127.0.0.1:6001") {
		t.Error("the host does not reach the phone by its forward on loopback")
	}
	if !w.reaches(w.server, "192.168.77.1:6002") {
		t.Error("the server does not reach the phone by its forward")
	}
	p.Forwards = nil
	w.ensure(p)
	if conn, _, err := dial(w.server, "192.168.77.1:6002", patience); err == nil {
		conn.Close()
		t.Error("a forward that was removed still leads to the phone")
	}
}

func TestDecisionsAreExplained(t *testing.T) {
	w := newWorld(t)
	w.policy("some", "default deny-all\nallow egress tcp 203.0.114.0/24 80\nallow egress any 10.0.0.0/8\nallow egress tcp *.example.com 443\n")
	p := phone(1)
	p.Policy = "some"
	w.ensure(p)
	for _, tt := range []struct {
		name    string
		probe   netpolicy.Probe
		allowed bool
		reason  string
		text    string
	}{
		{"a rule allows", netpolicy.Probe{Protocol: policy.TCP, Peer: netip.MustParseAddr(server4), Port: 80}, true, "NONE", "rule 1"},
		{"no rule", netpolicy.Probe{Protocol: policy.TCP, Peer: netip.MustParseAddr(server4), Port: 81}, false, "DEFAULT", "deny-all"},
		{"a neighbour", netpolicy.Probe{Protocol: policy.TCP, Peer: netip.MustParseAddr("10.213.1.2"), Port: 80}, false, "PROTECTED", "10.213.0.0/16"},
		{"a name", netpolicy.Probe{Protocol: policy.TCP, Name: "www.example.com", Port: 443}, true, "NONE", "rule 3"},
		{"another name", netpolicy.Probe{Protocol: policy.TCP, Name: "www.example.org", Port: 443}, false, "NAME", "deny-all"},
		{"from outside", netpolicy.Probe{Direction: policy.Ingress, Protocol: policy.TCP, Peer: netip.MustParseAddr(server4), Port: 80}, false, "DEFAULT", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := w.engine.Test(t.Context(), "p1", tt.probe)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allowed != tt.allowed || d.Reason != tt.reason || !strings.Contains(d.Text, tt.text) {
				t.Errorf("the decision is %+v; want %v for %s, explained with %q", d, tt.allowed, tt.reason, tt.text)
			}
		})
	}
}

// TestDenialsAreReported drops packets while nobody is there to be told, another engine's time included: none of it is lost.
func TestDenialsAreReported(t *testing.T) {
	w := newWorld(t)
	one := w.ensure(phone(1))
	if !w.kept(one, "192.168.77.2:80") {
		t.Fatal("p1 reaches a machine in the host's network")
	}
	w.open()
	w.ensure(phone(1))
	denials := w.engine.Denials(t.Context())
	for {
		select {
		case list := <-denials:
			for _, d := range list {
				if d.Phone == "p1" && d.Peer == netip.MustParseAddr("192.168.77.2") && d.Port == 80 && d.Reason == "PROTECTED" && d.Class == "NETWORK" && d.Count > 0 {
					return
				}
			}
			t.Logf("other denials: %+v", list)
		case <-time.After(10 * time.Second):
			t.Fatal("the denial was not reported")
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	w := newWorld(t)
	w.ensure(phone(1))
	if err := w.engine.Remove(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	before := hostState(t)
	p := phone(1)
	p.UpBits, p.DownBits = 10_000_000, 20_000_000
	p.Forwards = []netpolicy.Forward{{Listen: netip.MustParseAddrPort("127.0.0.1:6001"), Protocol: policy.TCP, Port: 5555}}
	for range 2 {
		w.ensure(p)
		w.ensure(phone(2))
		for _, id := range []string{"p1", "p2", "p1"} {
			if err := w.engine.Remove(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if after := hostState(t); after != before {
			t.Errorf("after the phones are gone the host has\n%s\nand before\n%s", after, before)
		}
	}
	if ids, err := w.engine.List(); err != nil || len(ids) > 0 {
		t.Errorf("phones that are left: %v, %v", ids, err)
	}
}

// hostState is what a phone's network could leave on the host: links, routes, rules of its own, qdiscs, neighbours.
func hostState(t *testing.T) string {
	t.Helper()
	var state strings.Builder
	for _, command := range [][]string{
		{"ip", "-brief", "link"}, {"ip", "-4", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"}, {"ip", "netns", "list"},
		{"tc", "qdisc", "show"}, {"nft", "list", "tables"}, {"find", "/sys/fs/bpf/phonehost/net", "-path", "*/links/*"}, {"ls", "/run/phonehost/netns"},
	} {
		out := netlab.Host().Run(t, command[0], command[1:]...)
		fmt.Fprintf(&state, "$ %s\n", strings.Join(command, " "))
		for line := range strings.Lines(out) {
			// The uplink's link-local address is the kernel's, and there when the link has been up for a second.
			if !strings.Contains(line, " fe80:") || !strings.Contains(line, " dev up-server ") {
				state.WriteString(line)
			}
		}
	}
	return state.String()
}
