package netpolicy_test

import (
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// traces is what networks of phones leave on a host: links, routes, rules, pins, the namespaces' files, settings of the uplink.
func (w *world) traces() string {
	w.t.Helper()
	host := netlab.Host()
	var b strings.Builder
	for _, command := range [][]string{
		{"ip", "-o", "link"}, {"ip", "address"}, {"ip", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"}, {"ip", "rule"},
		{"ip", "neigh", "show", "nud", "permanent"}, {"tc", "qdisc"}, {"nft", "list", "ruleset"},
		{"sh", "-c", "grep . /proc/sys/net/ipv[46]/conf/up-server/*forwarding /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/up-server/accept_ra"},
	} {
		b.WriteString(strings.Join(command, " ") + "\n" + host.Run(w.t, command[0], command[1:]...))
	}
	for _, dir := range []string{"/sys/fs/bpf", w.cfg.NetNS.Path(""), w.cfg.NameServerState} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != dir {
				b.WriteString(path + "\n")
			}
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	// What changes by itself: lifetimes, and the order in which links' states settle.
	return regexp.MustCompile(` expires \d+sec| state [A-Z]+| (valid|preferred)_lft \S+`).ReplaceAllString(b.String(), "")
}

// noForwarding has the uplink forward nothing, but for IPv6 on kernels before 6.17: there the switch is that of all links, and is on already.
func noForwarding(t *testing.T) {
	t.Helper()
	netlab.Host().Run(t, "sh", "-ec", `cd /proc/sys/net
		echo 0 >ipv4/conf/up-server/forwarding
		if test -e ipv6/conf/up-server/force_forwarding; then echo 0 >ipv6/conf/up-server/force_forwarding; else echo 1 >ipv6/conf/all/forwarding; fi`)
}

// TestRemove compares a host before it had phones and after their networks were removed.
func TestRemove(t *testing.T) {
	w := newWorld(t)
	w.close()
	w.cfg.Settings = filepath.Join(t.TempDir(), "settings")
	if _, err := netpolicy.Remove(t.Context(), w.cfg); err != nil { // what the engine of newWorld made
		t.Fatal(err)
	}
	noForwarding(t)
	netlab.Host().Run(t, "nft", "add table inet other; add chain inet other c; add rule inet other c drop")
	t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "inet", "other").Run() })
	until(t, "an uplink whose addresses are settled", func() bool {
		return !strings.Contains(netlab.Host().Run(t, "ip", "address"), "tentative")
	})
	before := w.traces()

	w.open()
	w.policy("web", "allow egress tcp 203.0.114.0/24 80\ndefault deny-all\n")
	for slot := range uint32(3) {
		p := phone(slot + 1)
		p.Policy, p.UpBits, p.DownBits = "web", 1_000_000, 1_000_000
		p.Forwards = []netpolicy.Forward{{Listen: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 6000+uint16(slot)), Protocol: policy.TCP, Port: 80}}
		w.ensure(p)
	}
	during := w.traces()
	for _, made := range []string{"ph-", "unreachable 10.213.0.0/16", "table inet phonehost", "/v1/policies", "netns/p3", "tbf", "conf/up-server/forwarding:1"} {
		if !strings.Contains(during, made) {
			t.Errorf("phones' networks leave no trace %q, so that it has gone says nothing:\n%s", made, during)
		}
	}
	if _, err := netpolicy.Remove(t.Context(), w.cfg); !errdefs.IsUnavailable(err) {
		t.Errorf("removing the networks of an engine that is open: %v; want ErrUnavailable", err)
	}
	if now := w.traces(); now != during {
		t.Errorf("the refusal changed\n%s\nto\n%s", during, now)
	}
	w.close()
	for range 2 { // the second finds nothing, which is no error
		left, err := netpolicy.Remove(t.Context(), w.cfg)
		if err != nil || len(left) != 0 {
			t.Fatalf("removing: %v; settings left: %v", err, left)
		}
		if err := os.MkdirAll(w.cfg.NameServerState, 0o755); err != nil { // which was there before
			t.Fatal(err)
		}
		if after := w.traces(); after != before {
			t.Errorf("of phones' networks there is something left. Before:\n%s\nafter:\n%s", before, after)
		}
	}
	w.open() // and a host that has been cleaned can have phones again
	w.serve(w.server, ":80")
	if !w.reaches(w.ensure(phone(1)), server4+":80") {
		t.Error("a phone made after the removal reaches nothing")
	}
}

// TestRemoveLeavesWhatOthersNeed removes networks from a host that has come to forward for others.
func TestRemoveLeavesWhatOthersNeed(t *testing.T) {
	w := newWorld(t)
	w.close()
	w.cfg.Settings = filepath.Join(t.TempDir(), "settings")
	noForwarding(t)
	w.open()
	w.ensure(phone(1))
	netlab.Host().Run(t, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	t.Cleanup(func() { _ = os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) })
	w.close()
	left, err := netpolicy.Remove(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := netpolicy.Setting{Name: "net.ipv4.conf.up-server.forwarding", Before: "0", Now: "1"}
	if len(left) != 1 || left[0] != want {
		t.Errorf("settings left: %+v, want %+v", left, want)
	}
}

// TestRelease takes the networks of one phone of two away, without an engine.
func TestRelease(t *testing.T) {
	w := newWorld(t)
	stays, goes := phone(1), phone(2)
	goes.UpBits = 1_000_000
	one, two := w.ensure(stays), w.ensure(goes)
	w.serve(w.server, ":80")
	w.close()
	r, err := netpolicy.Retire(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Made() {
		t.Error("pins of an engine are not seen")
	}
	for range 2 {
		if err := r.Release(t.Context(), "p2"); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := r.Phones(); err != nil || len(ids) != 1 || ids[0] != "p1" {
		t.Errorf("phones with a network: %v, %v; want p1", ids, err)
	}
	if links := two.Run(t, "ip", "-o", "link"); strings.Contains(links, "eth0") {
		t.Errorf("p2 has a link still:\n%s", links)
	}
	if !w.reaches(one, server4+":80") || !w.kept(one, "192.168.77.2:80") {
		t.Error("p1, which keeps its network, is not judged by its policy")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	if !w.reaches(w.ensure(goes), server4+":80") {
		t.Error("p2 reaches nothing after it got its network again")
	}
}
