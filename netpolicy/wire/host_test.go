package wire

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// settings returns the host's settings of forwarding and router advertisements but those of phones' links.
func settings(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"ipv4/ip_forward", "ipv4/conf/*/*", "ipv6/conf/*/*", "ipv4/neigh/*/proxy_delay"} {
		paths, err := filepath.Glob(filepath.Join(sysctls, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			name := strings.TrimPrefix(path, sysctls+"/")
			if value, err := readSetting(name); err == nil && !strings.Contains(name, "/"+Prefix) {
				out[name] = value
			}
		}
	}
	return out
}

// changes returns what differs between two sets of settings.
func changes(before, after map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range after {
		if before[name] != value {
			out[name] = before[name] + " -> " + value
		}
	}
	return out
}

// bystander makes a link of the host that has nothing to do with phones.
func bystander(t testing.TB) {
	t.Helper()
	run(t, "ip", "link", "add", "bystander", "type", "bridge")
	run(t, "ip", "link", "set", "bystander", "up")
	t.Cleanup(func() { tidy("ip", "link", "del", "bystander") })
}

func TestOnlyTheUplinksForwardingIsChanged(t *testing.T) {
	if _, err := os.Stat(filepath.Join(sysctls, "ipv6/conf/lo/force_forwarding")); err != nil {
		t.Skip("this kernel, older than 6.17, forwards IPv6 on all links or none")
	}
	l := newLab(t)
	bystander(t)
	before := settings(t)
	p := phone("p1", 0)
	l.ensure(t, p)
	l.reaches(t, p.ID)
	want := map[string]string{
		"ipv4/conf/up-server/forwarding":       "0 -> 1",
		"ipv6/conf/up-server/force_forwarding": "0 -> 1",
	}
	if diff := cmp.Diff(want, changes(before, settings(t))); diff != "" {
		t.Errorf("what has been changed (-want +got):\n%s", diff)
	}
}

// resetForwarding takes back what forwarding IPv6 on all links has changed for links that outlive a test.
func resetForwarding(t testing.TB) {
	t.Helper()
	for _, s := range []setting{
		{path: "ipv6/conf/all/forwarding", value: "0"}, {path: "ipv6/conf/default/accept_ra", value: "1"}, {path: "ipv6/conf/lo/accept_ra", value: "1"},
	} {
		if err := s.set(); err != nil {
			t.Error(err)
		}
	}
}

// TestForwardingOfOlderKernels shows that where IPv6 is forwarded on all links or none, those that take advertisements take them still.
func TestForwardingOfOlderKernels(t *testing.T) {
	l := newLab(t)
	bystander(t)
	l.global = true
	t.Cleanup(func() { resetForwarding(t) })
	off := setting{path: "ipv6/conf/bystander/accept_ra", value: "0"}
	if err := off.set(); err != nil {
		t.Fatal(err)
	}
	before := settings(t)
	p := phone("p1", 0)
	l.ensure(t, p)
	l.reaches(t, p.ID)
	want := map[string]string{
		"ipv4/conf/up-server/forwarding": "0 -> 1",
		"ipv6/conf/all/forwarding":       "0 -> 1", "ipv6/conf/default/forwarding": "0 -> 1",
		"ipv6/conf/bystander/forwarding": "0 -> 1", "ipv6/conf/lo/forwarding": "0 -> 1", "ipv6/conf/up-server/forwarding": "0 -> 1",
		"ipv6/conf/default/accept_ra": "1 -> 2", "ipv6/conf/lo/accept_ra": "1 -> 2", "ipv6/conf/up-server/accept_ra": "1 -> 2",
	}
	if diff := cmp.Diff(want, changes(before, settings(t))); diff != "" {
		t.Errorf("what has been changed (-want +got):\n%s", diff)
	}
	again := settings(t)
	l.ensure(t, p)
	if diff := cmp.Diff(again, settings(t)); diff != "" {
		t.Errorf("a second Ensure changes settings:\n%s", diff)
	}
}

// TestHowThisKernelDecidesForwarding records what the package's comment says: IPv4 asks the link on which a packet arrives, and IPv6 all of
// them or, from 6.17 on, that link too.
func TestHowThisKernelDecidesForwarding(t *testing.T) {
	l := newLab(t)
	p := phone("p1", 0)
	l.ensure(t, p)
	host := LinkName(p.ID)
	set := func(path, value string) {
		t.Helper()
		if err := (setting{path: path, value: value}).set(); err != nil {
			t.Fatal(err)
		}
	}
	if value, err := readSetting("ipv4/ip_forward"); err != nil || value != "0" {
		t.Fatalf("ip_forward is %q, %v: the links alone are to decide", value, err)
	}
	for _, link := range []string{host, uplinkName} {
		set("ipv4/conf/"+link+"/forwarding", "0")
		if l.pings(t, l.guest(p.ID), server4) {
			t.Errorf("IPv4 is forwarded although %s does not", link)
		}
		l.ensure(t, p)
		if !l.pings(t, l.guest(p.ID), server4) {
			t.Errorf("IPv4 is not forwarded though %s does", link)
		}
	}
	if _, err := readSetting("ipv6/conf/lo/force_forwarding"); err != nil {
		return
	}
	for _, link := range []string{host, uplinkName} {
		set("ipv6/conf/"+link+"/force_forwarding", "0")
		set("ipv6/conf/"+link+"/forwarding", "1")
		if l.pings(t, l.guest(p.ID), server6) {
			t.Errorf("IPv6 is forwarded although %s does not force it: a link's own forwarding decides", link)
		}
		set("ipv6/conf/"+link+"/forwarding", "0")
		l.ensure(t, p)
		if !l.pings(t, l.guest(p.ID), server6) {
			t.Errorf("IPv6 is not forwarded though %s forces it", link)
		}
	}
	// Whoever switches the host's forwarding off resets all links; the next Ensure mends it.
	set("ipv4/ip_forward", "1")
	set("ipv4/ip_forward", "0")
	set("ipv6/conf/all/forwarding", "1")
	set("ipv6/conf/all/forwarding", "0")
	if l.pings(t, l.guest(p.ID), server4) || l.pings(t, l.guest(p.ID), server6) {
		t.Error("something is forwarded after it was switched off for the host")
	}
	l.ensure(t, p)
	l.reaches(t, p.ID)
}

func TestTheMTUFollowsTheUplink(t *testing.T) {
	l := newLab(t)
	p := phone("p1", 0)
	if link := l.ensure(t, p); link.MTU != 1500 {
		t.Errorf("MTU %d, want the uplink's 1500", link.MTU)
	}
	for _, c := range []struct{ uplink, want int }{{1400, 1400}, {9000, 9000}, {1000, 1280}, {1500, 1500}} {
		run(t, "ip", "link", "set", uplinkName, "mtu", fmt.Sprint(c.uplink))
		l.server.Run(t, "ip", "link", "set", "eth0", "mtu", fmt.Sprint(c.uplink))
		if c.uplink < 1280 { // it has lost IPv6 by that
			l.server.Run(t, "ip", "link", "set", "eth0", "mtu", "1500")
		}
		link := l.ensure(t, p)
		if link.MTU != c.want {
			t.Errorf("MTU %d, want %d of an uplink with %d", link.MTU, c.want, c.uplink)
		}
		if c.uplink < 1280 {
			continue
		}
		if c.uplink == 1500 { // IPv6 is back on the uplink but not its address and route
			linkLocals(t, l.server)
			run(t, "ip", "-6", "addr", "replace", "2620:fe::1/64", "dev", uplinkName, "nodad")
			run(t, "ip", "-6", "route", "replace", "default", "via", server6)
			l.server.Run(t, "ip", "-6", "addr", "replace", server6+"/64", "dev", "eth0", "nodad")
			l.server.Run(t, "ip", "-6", "route", "replace", "default", "via", "2620:fe::1")
			l.ensure(t, p)
		}
		for to, head := range map[string]int{server4: 28, server6: 48} {
			if !l.pings(t, l.guest(p.ID), "-Mdo", "-s", fmt.Sprint(c.want-head), to) {
				t.Errorf("%d bytes do not reach %s", c.want, to)
			}
			if l.pings(t, l.guest(p.ID), "-Mdo", "-s", fmt.Sprint(c.want-head+1), to) {
				t.Errorf("%d bytes reach %s in one packet", c.want+1, to)
			}
		}
	}
	run(t, "ip", "route", "change", "default", "via", server4, "mtu", "1300")
	if link := l.ensure(t, p); link.MTU != 1300 {
		t.Errorf("MTU %d, want that of the default route, 1300", link.MTU)
	}
}

func TestAnUplinkThatIsNamedCounts(t *testing.T) {
	l := newLab(t)
	run(t, "ip", "link", "add", "second", "mtu", "1350", "type", "bridge")
	t.Cleanup(func() { tidy("ip", "link", "del", "second") })
	c := l.config()
	c.Uplink = "second"
	link, err := open(t, c).Ensure(t.Context(), phone("p1", 0))
	if err != nil || link.MTU != 1350 {
		t.Errorf("Ensure = %+v, %v; want the MTU of the named uplink, 1350", link, err)
	}
	c.Uplink = "third"
	if _, err := open(t, c).Ensure(t.Context(), phone("p1", 0)); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), `network.uplink: there is no link "third"`) {
		t.Errorf("Ensure with an uplink that does not exist = %v", err)
	}
}

func TestWithoutIPv6ThereIsNone(t *testing.T) {
	l := newLab(t)
	c := l.config()
	c.Pool6 = netip.Prefix{}
	l.Wire = open(t, c)
	p := Phone{ID: "p1", IPv4: Nth(pool4, 0)}
	l.ensure(t, p)
	if !l.pings(t, l.guest(p.ID), server4) {
		t.Error("the phone does not reach the server")
	}
	if text := run(t, "ip", "-6", "addr", "show", "dev", LinkName(p.ID)); text != "" {
		t.Errorf("the host end has IPv6 addresses:\n%s", text)
	}
	if text := l.guest(p.ID).Run(t, "ip", "-6", "addr", "show", "dev", "eth0"); text != "" {
		t.Errorf("the phone has IPv6 addresses:\n%s", text)
	}
	// The pool is configured later.
	l.Wire = open(t, l.config())
	l.ensure(t, phone("p1", 0))
	l.reaches(t, "p1")
	if text := run(t, "ip", "-o", "-6", "addr", "show", "dev", LinkName(p.ID)); strings.Count(text, "inet6") != 2 {
		t.Errorf("the host end has other addresses than the gateway's:\n%s", text)
	}
}

func TestAHundredPhones(t *testing.T) {
	l := newLab(t)
	const phones = 100
	all := make([]Phone, phones)
	var wg sync.WaitGroup
	turns := make(chan struct{}, 8)
	each := func(do func(p Phone)) {
		for _, p := range all {
			turns <- struct{}{}
			wg.Go(func() { defer func() { <-turns }(); do(p) })
		}
		wg.Wait()
	}
	for i := range all {
		all[i] = phone(fmt.Sprintf("phone-%03d", i), uint64(i))
	}
	each(func(p Phone) {
		if _, err := l.Ensure(t.Context(), p); err != nil {
			t.Error(err)
		}
		if err := l.Up(t.Context(), p); err != nil {
			t.Error(err)
		}
	})
	each(func(p Phone) {
		for _, to := range []string{server4, server6, Gateway(pool4).String(), Gateway(pool6).String(), all[(len(all)-1)/2].IPv4.String()} {
			if !l.pings(t, l.guest(p.ID), to) {
				t.Errorf("%s does not reach %s", p.ID, to)
			}
		}
	})
	ids, err := l.List()
	if err != nil || len(ids) != phones || ids[0] != "phone-000" || ids[phones-1] != "phone-099" {
		t.Errorf("List = %q, %v", ids, err)
	}
	// A neighbour goes and comes again at the same address, and nobody else notices.
	first, other := l.settled(t, all[0]), l.settled(t, all[1])
	if err := l.Remove(t.Context(), all[0].ID); err != nil {
		t.Fatal(err)
	}
	l.nothing(t, all[0], "Remove")
	l.ensure(t, all[0])
	l.same(t, all[0], first, "Remove and Ensure")
	l.same(t, all[1], other, "Remove and Ensure of another")

	if err := l.Sweep(t.Context(), ids[:10]); err != nil {
		t.Fatal(err)
	}
	if left, err := l.List(); err != nil || !cmp.Equal(left, ids[:10]) {
		t.Errorf("after Sweep there are %q, %v; want %q", left, err, ids[:10])
	}
}

// TestAPairWithoutItsAliasIsFound finds what a kill right after the pair was made has left.
func TestAPairWithoutItsAliasIsFound(t *testing.T) {
	l := newLab(t)
	if _, err := l.names.Create("p1"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"p1", "gone"} {
		run(t, "ip", "link", "add", LinkName(id), "type", "veth", "peer", "name", "far-"+id)
		t.Cleanup(func() { tidy("ip", "link", "del", LinkName(id)) })
	}
	if ids, err := l.List(); err != nil || !cmp.Equal(ids, []string{"p1"}) {
		t.Errorf("List = %q, %v, want the phone that has a namespace", ids, err)
	}
	if err := l.Sweep(t.Context(), []string{"p1"}); err != nil {
		t.Fatal(err)
	}
	text := run(t, "ip", "link", "show", "type", "veth")
	if !strings.Contains(text, LinkName("p1")) || strings.Contains(text, LinkName("gone")) {
		t.Errorf("after Sweep for p1 there are\n%s", text)
	}
	// The pair was never the phone's: its other end is here.
	l.ensure(t, phone("p1", 0))
	l.reaches(t, "p1")
}

func TestLinksOfOthersAreLeftAlone(t *testing.T) {
	l := newLab(t)
	p := phone("p1", 0)
	run(t, "ip", "link", "add", LinkName("p1"), "type", "bridge")
	t.Cleanup(func() { tidy("ip", "link", "del", LinkName("p1")) })
	run(t, "ip", "link", "add", "ph-other", "type", "veth", "peer", "name", "ph-another")
	t.Cleanup(func() { tidy("ip", "link", "del", "ph-other") })
	if _, err := l.Ensure(t.Context(), p); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "rename or delete it") {
		t.Errorf("Ensure over a link of another's = %v", err)
	}
	if err := l.Remove(t.Context(), p.ID); !errdefs.IsAlreadyExists(err) {
		t.Errorf("Remove of a link of another's = %v", err)
	}
	if err := l.Sweep(t.Context(), nil); err != nil {
		t.Error(err)
	}
	run(t, "ip", "link", "show", LinkName("p1"))
	run(t, "ip", "link", "show", "ph-other")
}

func TestWhatPhonesDoNotHaveIsUnreachable(t *testing.T) {
	l := newLab(t)
	if err := l.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{Nth(pool4, 99).String(), Nth(pool6, 99).String()} {
		if l.pings(t, l.server, to) {
			t.Errorf("%s answers", to)
		}
		out, err := l.server.Command(t, "ping", "-n", "-c1", "-W1", to).CombinedOutput()
		if err == nil || !strings.Contains(strings.ToLower(string(out)), "unreachable") {
			t.Errorf("ping of %s: %v\n%s", to, err, out)
		}
	}
	if err := l.Withdraw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := run(t, "sh", "-c", "ip route show table all proto 112; ip -6 route show table all proto 112"); text != "" {
		t.Errorf("after Withdraw there are routes left:\n%s", text)
	}
}

func TestPhonesThatCannotBeWired(t *testing.T) {
	l := newLab(t)
	for _, p := range []Phone{
		{ID: "p1", IPv4: Gateway(pool4), IPv6: Nth(pool6, 0)},
		{ID: "p1", IPv4: Nth(pool4, 0), IPv6: Gateway(pool6)},
		{ID: "p1", IPv4: Nth(pool4, 0)},
		{ID: "a/b", IPv4: Nth(pool4, 0), IPv6: Nth(pool6, 0)},
	} {
		if _, err := l.Ensure(t.Context(), p); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Ensure(%v) = %v, want an invalid argument", p, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Ensure(ctx, phone("p1", 0)); !errors.Is(err, context.Canceled) {
		t.Errorf("Ensure in a context that has ended = %v", err)
	}
	if err := l.Up(t.Context(), phone("p1", 0)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Up without Ensure = %v, want a failed precondition", err)
	}
	if err := l.Remove(t.Context(), "p1"); err != nil {
		t.Errorf("Remove of nothing: %v", err)
	}
	if ids, err := l.List(); err != nil || len(ids) != 0 {
		t.Errorf("List = %q, %v, want nothing", ids, err)
	}
}
