package phone

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/runtime/container"
)

// addresses has cmp compare addresses.
var addresses = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})

var testPools = Pools{IPv4: netip.MustParsePrefix("10.213.0.0/16"), IPv6: netip.MustParsePrefix("fd70::/64")}

// networked is the configuration of a host whose phones have networks, and that has the policies school and work.
func networked(c *Config) {
	c.Pools = testPools
	c.HasPolicy = func(_ *store.Tx, name string) (bool, error) { return name == "school" || name == "work", nil }
}

func forward(listen string, protocol policy.Protocol, port uint16) Forward {
	return Forward{netip.MustParseAddrPort(listen), protocol, port}
}

// runNetworked runs fn in a bubble of fake time over a host whose phones have networks.
func runNetworked(t *testing.T, edit func(*Config), fn func(t *testing.T, a *agent)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		a := startAgent(t, phonetest.New(), path, func(c *Config) {
			networked(c)
			if edit != nil {
				edit(c)
			}
		})
		defer a.stop()
		fn(t, a)
	})
}

// net returns the network that was made for a phone, when nothing moves any more.
func (a *agent) net(id string) netpolicy.Phone {
	a.t.Helper()
	synctest.Wait()
	a.w.Lock()
	defer a.w.Unlock()
	p, made := a.w.Nets[id]
	if !made {
		a.t.Fatalf("phone %s has no network", id)
	}
	return p
}

// createWith makes a phone with a network.
func (a *agent) createWith(id string, n Network) (Snapshot, error) {
	return a.Create(a.t.Context(), Spec{ID: id, Image: "testphone", MemoryBytes: 256 << 20, Network: n})
}

// rewire changes phones' networks, and fails the test unless all of them are.
func (a *agent) rewire(c NetworkChange, ids ...string) {
	a.t.Helper()
	refused, err := a.ChangeNetworks(a.t.Context(), ids, c, "uid/0")
	if err := errors.Join(append(refused, err)...); err != nil {
		a.t.Fatal(err)
	}
}

func TestAddressesAreTheLowestFree(t *testing.T) {
	runNetworked(t, nil, func(t *testing.T, a *agent) {
		address := func(id string) string {
			snap, err := a.Get(id)
			if err != nil {
				t.Fatal(err)
			}
			return snap.Record.IPv4.String() + " " + snap.Record.IPv6.String()
		}
		a.create("p1")
		if _, err := a.createWith("fixed", Network{IPv4: netip.MustParseAddr("10.213.0.3"), IPv6: netip.MustParseAddr("fd70::ffff")}); err != nil {
			t.Fatal(err)
		}
		a.create("p2")
		got := []string{address("p1"), address("fixed"), address("p2")}
		if want := []string{"10.213.0.2 fd70::2", "10.213.0.3 fd70::ffff", "10.213.0.4 fd70::3"}; !slices.Equal(got, want) {
			t.Errorf("addresses %v, want %v", got, want)
		}
		a.do(operation.Delete, "p1", operation.Succeeded)
		a.create("p3")
		if got := address("p3"); got != "10.213.0.2 fd70::2" {
			t.Errorf("the address of a deleted phone is not given again: %s", got)
		}
		a.do(operation.PowerOn, "p3", operation.Succeeded)
		a.do(operation.Restart, "p3", operation.Succeeded)
		a.do(operation.Reset, "p3", operation.Succeeded)
		if p := a.net("p3"); p.IPv4.String() != "10.213.0.2" || p.IPv6.String() != "fd70::2" || p.Slot != 0 || p.Policy != "allow-internet" {
			t.Errorf("network of p3: %+v", p)
		}
	})
}

func TestCreateRefusesNetworks(t *testing.T) {
	ipv4 := func(s string) Network { return Network{IPv4: netip.MustParseAddr(s)} }
	listen := func(s string) Network { return Network{Forwards: []Forward{forward(s, policy.TCP, 5555)}} }
	for name, tt := range map[string]struct {
		edit   func(*Config)
		n      Network
		reason string
		field  string
	}{
		"taken":               {n: ipv4("10.213.0.2"), reason: fault.AddressTaken},
		"gateway":             {n: ipv4("10.213.0.1"), reason: fault.InvalidField, field: "spec.network.ipv4"},
		"network's own":       {n: ipv4("10.213.0.0"), reason: fault.InvalidField, field: "spec.network.ipv4"},
		"broadcast":           {n: ipv4("10.213.255.255"), reason: fault.InvalidField, field: "spec.network.ipv4"},
		"outside":             {n: ipv4("10.214.0.2"), reason: fault.InvalidField, field: "spec.network.ipv4"},
		"other family":        {n: ipv4("fd70::5"), reason: fault.InvalidField, field: "spec.network.ipv4"},
		"no pool":             {func(c *Config) { c.Pools.IPv6 = netip.Prefix{} }, Network{IPv6: netip.MustParseAddr("fd70::5")}, fault.InvalidField, "spec.network.ipv6"},
		"no policy":           {n: Network{Policy: "none"}, reason: fault.NoSuchPolicy},
		"forward taken":       {n: listen("127.0.0.1:6001"), reason: fault.ForwardTaken},
		"forward everywhere":  {n: listen("0.0.0.0:6001"), reason: fault.ForwardTaken},
		"forward of a pool":   {n: listen("10.213.0.1:6002"), reason: fault.InvalidField, field: "spec.network.forwards[0].listen"},
		"forward without one": {func(c *Config) { c.Pools.IPv6 = netip.Prefix{} }, listen("[2001:db8::1]:6002"), fault.InvalidField, "spec.network.forwards[0].listen"},
		"full":                {func(c *Config) { c.Pools.IPv4 = netip.MustParsePrefix("10.213.0.0/30") }, Network{}, fault.NoFreeAddress, ""},
	} {
		t.Run(name, func(t *testing.T) {
			runNetworked(t, tt.edit, func(t *testing.T, a *agent) {
				if _, err := a.createWith("p1", listen("127.0.0.1:6001")); err != nil {
					t.Fatal(err)
				}
				_, err := a.createWith("p2", tt.n)
				if fault.Reason(err) != tt.reason || fault.Meta(err)["field"] != tt.field {
					t.Errorf("%v, want %s %s", err, tt.reason, tt.field)
				}
				if _, err := a.Get("p2"); err == nil {
					t.Error("a phone that was refused is there")
				}
			})
		})
	}
}

func TestNetworkDisabled(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		if p := a.net("p1"); p.IPv4.IsValid() {
			t.Errorf("a phone without a network has an address: %+v", p)
		}
		_, created := a.createWith("p2", Network{UpBits: MinBits})
		_, changed := a.ChangeNetworks(t.Context(), []string{"p1"}, NetworkChange{Cut: new(true)}, "uid/0")
		_, forwarded := a.AddForward(t.Context(), "p1", forward("127.0.0.1:1", policy.TCP, 1), "uid/0")
		removed := a.RemoveForward(t.Context(), "p1", netip.MustParseAddrPort("127.0.0.1:1"), 0, "uid/0")
		for i, err := range []error{created, changed, forwarded, removed} {
			if fault.Reason(err) != fault.NetworkDisabled || !errdefs.IsFailedPrecondition(err) {
				t.Errorf("%d: %v, want NETWORK_DISABLED", i, err)
			}
		}
	})
}

// TestPhonesOfEarlierReleases gives phones that were made without networks their addresses, and moves them with the pool, but for an
// address that was asked for.
func TestPhonesOfEarlierReleases(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, nil)
		a.on("p1")
		a.create("p2")
		a.stop()
		lives := []struct {
			pools Pools
			want  string
		}{
			{Pools{IPv4: testPools.IPv4}, "10.213.0.2 invalid IP, 10.213.0.3 invalid IP, 10.213.0.9 invalid IP"},
			{testPools, "10.213.0.2 fd70::2, 10.213.0.3 fd70::3, 10.213.0.9 fd70::4"},
			{Pools{}, "10.213.0.2 fd70::2, 10.213.0.3 fd70::3, 10.213.0.9 fd70::4"},
			{Pools{IPv4: netip.MustParsePrefix("10.99.0.0/24")}, "10.99.0.2 invalid IP, 10.99.0.3 invalid IP, 10.213.0.9 invalid IP"},
			{testPools, "10.213.0.2 fd70::2, 10.213.0.3 fd70::3, 10.213.0.9 fd70::4"},
		}
		for i, life := range lives {
			a = startAgent(t, w, path, func(c *Config) { networked(c); c.Pools = life.pools })
			if i == 0 {
				if _, err := a.createWith("p3", Network{IPv4: netip.MustParseAddr("10.213.0.9")}); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			for _, snap := range a.List() {
				got = append(got, fmt.Sprint(snap.Record.IPv4, snap.Record.IPv6))
			}
			if got := strings.Join(got, ", "); got != life.want {
				t.Errorf("life %d: %s, want %s", i, got, life.want)
			}
			synctest.Wait()
			if snap, _ := a.Get("p1"); life.pools.Enabled() && (a.net("p1").IPv4 != snap.Record.IPv4 || !snap.NetworkInForce) {
				t.Errorf("life %d: the phone that runs has %v", i, a.net("p1").IPv4)
			}
			a.stop()
		}
	})
}

// TestNetworkChangesAtOnce changes all there is of a network under a guest.
func TestNetworkChangesAtOnce(t *testing.T) {
	runNetworked(t, nil, func(t *testing.T, a *agent) {
		a.on("p1")
		a.on("p2")
		a.create("off")
		pid := a.want("p1", Running).InitPID
		a.rewire(NetworkChange{Policy: new("school")}, "p1", "p2", "off")
		a.rewire(NetworkChange{UpBits: new(uint64(1e6))}, "p1")
		a.rewire(NetworkChange{DownBits: new(uint64(2e6))}, "p1")
		a.rewire(NetworkChange{Cut: new(true)}, "p1")
		f := forward("127.0.0.1:6001", 0, 5555)
		for range 2 { // again changes nothing
			if _, err := a.AddForward(t.Context(), "p1", f, "uid/0"); err != nil {
				t.Fatal(err)
			}
		}
		want := netpolicy.Phone{
			ID: "p1", IPv4: netip.MustParseAddr("10.213.0.2"), IPv6: netip.MustParseAddr("fd70::2"), Policy: "school", UpBits: 1e6, DownBits: 2e6,
			Cut: true, DHCP: true, Forwards: []netpolicy.Forward{{Listen: f.Listen, Protocol: policy.TCP, Port: 5555}},
		}
		if diff := cmp.Diff(want, a.net("p1"), addresses); diff != "" {
			t.Errorf("network (-want +got):\n%s", diff)
		}
		if _, made := a.w.Nets["off"]; made || a.net("p2").Policy != "school" {
			t.Errorf("off %v, p2 %+v", made, a.net("p2"))
		}
		if err := a.RemoveForward(t.Context(), "p1", f.Listen, 0, "uid/0"); err != nil {
			t.Fatal(err)
		}
		a.rewire(NetworkChange{Cut: new(false), UpBits: new(uint64(0)), DownBits: new(uint64(0))}, "p1")
		want.Cut, want.UpBits, want.DownBits, want.Forwards = false, 0, 0, nil
		if diff := cmp.Diff(want, a.net("p1"), addresses); diff != "" {
			t.Errorf("network, restored (-want +got):\n%s", diff)
		}
		snap := a.want("p1", Running)
		if snap.InitPID != pid || !snap.NetworkInForce || snap.NetworkProblem != "" {
			t.Errorf("phone afterwards: %+v", snap)
		}
		a.do(operation.PowerOn, "off", operation.Succeeded)
		if a.net("off").Policy != "school" {
			t.Errorf("a phone that was off has %+v", a.net("off"))
		}
		err := a.db.View(func(tx *store.Tx) error {
			if got := PolicyUsers(tx, "school"); !slices.Equal(got, []string{"off", "p1", "p2"}) {
				t.Errorf("users of the policy: %v", got)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestNetworkChangeWaitsForNobody cuts a phone while its controller is held up by something else.
func TestNetworkChangeWaitsForNobody(t *testing.T) {
	runNetworked(t, nil, func(t *testing.T, a *agent) {
		a.on("p1")
		a.w.Lock()
		a.w.Hook = hang("SetLimits before")
		a.w.Unlock()
		a.submit(operation.Update, "p1", patching(Spec{VCPUs: 1}, "vcpus"))
		synctest.Wait()
		before := time.Now()
		a.rewire(NetworkChange{Cut: new(true)}, "p1")
		if !a.net("p1").Cut || time.Since(before) != 0 {
			t.Errorf("cut after %v: %+v", time.Since(before), a.net("p1"))
		}
	})
}

// TestAgentDiesInNetworkChange kills the agent before and after the kernel has a change: the next one makes it without being asked.
func TestAgentDiesInNetworkChange(t *testing.T) {
	for _, point := range []string{"EnsureNetwork before", "EnsureNetwork after"} {
		t.Run(point, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			synctest.Test(t, func(t *testing.T) {
				w := phonetest.New()
				a := startAgent(t, w, path, networked)
				a.on("p1")
				died := make(chan struct{})
				w.Lock()
				w.Hook = die(point, died)
				w.Unlock()
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan []error)
				go func() {
					refused, _ := a.ChangeNetworks(ctx, []string{"p1"}, NetworkChange{Policy: new("school"), Cut: new(true)}, "uid/0")
					ended <- refused
				}()
				<-died
				w.Lock()
				w.Hook = hang(point) // the controller's try is not to succeed either
				w.Unlock()
				cancel()
				if refused := <-ended; fault.Reason(refused[0]) != fault.NetworkFailed {
					t.Errorf("the call that was given up says %v", refused)
				}
				a.stop()
				w.Lock()
				w.Hook = nil
				w.Unlock()
				a = startAgent(t, w, path, networked)
				defer a.stop()
				if p := a.net("p1"); p.Policy != "school" || !p.Cut {
					t.Errorf("after the agent's death: %+v", p)
				}
			})
		})
	}
}

// TestNetworkThatFails is stored, told, tried again, and in nobody's way.
func TestNetworkThatFails(t *testing.T) {
	runNetworked(t, nil, func(t *testing.T, a *agent) {
		a.on("p1")
		a.w.Lock()
		a.w.Hook = fail("EnsureNetwork before", fmt.Errorf("no room for another qdisc: %w", errdefs.ErrResourceExhausted))
		a.w.Unlock()
		refused, err := a.ChangeNetworks(t.Context(), []string{"p1"}, NetworkChange{UpBits: new(uint64(1e6))}, "uid/0")
		if err != nil || fault.Reason(refused[0]) != fault.NetworkFailed || !errdefs.IsUnavailable(refused[0]) {
			t.Fatalf("%v %v, want NETWORK_FAILED", refused, err)
		}
		snap := a.want("p1", Running)
		if snap.NetworkInForce || snap.NetworkProblem != "no room for another qdisc" || snap.Record.Spec.Network.UpBits != 1e6 {
			t.Errorf("phone with a problem: %+v", snap)
		}
		time.Sleep(time.Minute)
		tries := a.w.Count("EnsureNetwork")
		if tries < 8 || tries > 20 {
			t.Errorf("%d tries in a minute", tries)
		}
		if r := a.finish(a.submit(operation.Update, "p1", patching(Spec{VCPUs: 1}, "vcpus"))); r.State != operation.Succeeded {
			t.Errorf("an update beside it: %+v", r)
		}
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		if r := a.finish(a.submit(operation.PowerOn, "p1", nil)); r.State != operation.Failed {
			t.Errorf("a phone without its network was started: %+v", r)
		}
		a.w.Lock()
		a.w.Hook = nil
		a.w.Unlock()
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		if snap := a.want("p1", Running); a.net("p1").UpBits != 1e6 || !snap.NetworkInForce || snap.NetworkProblem != "" {
			t.Errorf("with room again: %+v %+v", a.net("p1"), snap)
		}
	})
}

// TestAdoptionMakesNetworks has the next agent make the networks of what runs, and of nothing else; a host that restarted has none before.
func TestAdoptionMakesNetworks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, networked)
		a.on("running")
		a.on("off")
		a.do(operation.PowerOff, "off", operation.Succeeded)
		a.stop()
		clear(w.Nets)
		a = startAgent(t, w, path, networked)
		a.net("running")
		if _, made := w.Nets["off"]; made {
			t.Error("a network was made for a phone that is off")
		}
		a.stop()
		w.RestartHost()
		a = startAgent(t, w, path, func(c *Config) { networked(c); c.HostBoot = "boot-2" })
		defer a.stop()
		time.Sleep(time.Minute)
		a.want("running", Running)
		a.net("running")
	})
}

func TestNetworkChangesThatAreRefused(t *testing.T) {
	runNetworked(t, nil, func(t *testing.T, a *agent) {
		a.on("p1")
		a.create("p2")
		if _, err := a.AddForward(t.Context(), "p2", forward("0.0.0.0:6001", policy.TCP, 5555), "uid/0"); err != nil {
			t.Fatal(err)
		}
		change := func(c NetworkChange, ids ...string) error {
			refused, err := a.ChangeNetworks(t.Context(), ids, c, "uid/0")
			return errors.Join(append(refused, err)...)
		}
		add := func(f Forward) error { _, err := a.AddForward(t.Context(), "p1", f, "uid/0"); return err }
		for name, tt := range map[string]struct {
			err    error
			reason string
		}{
			"no phones":       {change(NetworkChange{Cut: new(true)}), fault.InvalidField},
			"twice":           {change(NetworkChange{Cut: new(true)}, "p1", "p1"), fault.InvalidField},
			"unknown phone":   {change(NetworkChange{Cut: new(false)}, "p1", "p9"), fault.NoSuchPhone},
			"unknown policy":  {change(NetworkChange{Policy: new("none")}, "p1"), fault.NoSuchPolicy},
			"no policy":       {change(NetworkChange{Policy: new("")}, "p1"), fault.InvalidField},
			"little":          {change(NetworkChange{UpBits: new(uint64(1))}, "p1"), fault.InvalidField},
			"much":            {change(NetworkChange{DownBits: new(uint64(1e12))}, "p1"), fault.InvalidField},
			"no forward":      {a.RemoveForward(t.Context(), "p1", netip.MustParseAddrPort("127.0.0.1:1"), 0, "uid/0"), fault.NoSuchForward},
			"forward taken":   {add(forward("127.0.0.1:6001", policy.TCP, 5555)), fault.ForwardTaken},
			"forward of pool": {add(forward("10.213.0.7:6001", policy.TCP, 5555)), fault.InvalidField},
			"forward of ICMP": {add(forward("127.0.0.1:6002", policy.ICMP, 5555)), fault.InvalidField},
		} {
			if fault.Reason(tt.err) != tt.reason {
				t.Errorf("%s: %v, want %s", name, tt.err, tt.reason)
			}
		}
		for _, field := range []string{"network", "network.policy"} {
			_, err := a.Submit(t.Context(), Request{Kind: operation.Update, IDs: []string{"p1"}, Patch: &Patch{Fields: []string{field}}})
			if fault.Meta(err)["field"] != "spec."+field {
				t.Errorf("Update of %s: %v", field, err)
			}
		}
		a.w.Lock()
		a.w.Hook = hang("Destroy before")
		a.w.Unlock()
		a.submit(operation.Delete, "p1", func(q *Request) { q.Force = true })
		if err := change(NetworkChange{Cut: new(true)}, "p1"); fault.Reason(err) != fault.Busy {
			t.Errorf("a phone that is being deleted: %v", err)
		}
	})
}

// TestCloneHasItsOwnNetwork gives a copy the policy and the limits of its source, and addresses of its own.
func TestCloneHasItsOwnNetwork(t *testing.T) {
	runNetworked(t, nil, func(t *testing.T, a *agent) {
		n := Network{
			IPv4: netip.MustParseAddr("10.213.0.9"), Policy: "school", UpBits: 1e6, Forwards: []Forward{forward("127.0.0.1:6001", policy.TCP, 5555)},
		}
		if _, err := a.createWith("p1", n); err != nil {
			t.Fatal(err)
		}
		snap, _, err := a.Clone(t.Context(), Spec{ID: "p2"}, "p1", "uid/0")
		if err != nil {
			t.Fatal(err)
		}
		want := Network{Policy: "school", UpBits: 1e6}
		if !snap.Record.Spec.Network.equal(want) || snap.Record.IPv4.String() != "10.213.0.2" {
			t.Errorf("network of the copy: %+v %v", snap.Record.Spec.Network, snap.Record.IPv4)
		}
	})
}

// TestNetworkStepGoesBeforeTheOthers has the plan look after a network first, but for what must not wait or would undo it.
func TestNetworkStepGoesBeforeTheOthers(t *testing.T) {
	now := time.Unix(1e9, 0)
	timing := Timing{}.withDefaults()
	up := sight{known: true}
	up.obs.Guest.State, up.obs.Guest.BootGeneration = container.TaskRunning, 1
	unknown := up
	unknown.known = false
	on := Record{On: true, BootGeneration: 1, Started: Start{Generation: 1}}
	deleting := on
	deleting.Deleting = true
	for name, tt := range map[string]struct {
		r    Record
		saw  sight
		at   time.Time
		want step
	}{
		"as it should be":         {on, up, time.Time{}, stepDisplay},
		"due":                     {on, up, now, stepNetwork},
		"due without containerd":  {on, unknown, now, stepNetwork},
		"due, but it goes anyway": {deleting, up, now, stepDestroy},
		"not yet":                 {on, up, now.Add(time.Second), stepDisplay},
	} {
		if p := next(&tt.r, tt.saw, memory{networkAt: tt.at}, now, timing); p.step != tt.want {
			t.Errorf("%s: %s, want %s", name, p.step, tt.want)
		}
	}
	idle := on
	idle.Booted, idle.DataGeneration = Boot{Generation: 1}, 0
	up.obs.Display.State = container.TaskRunning
	if p := next(&idle, up, memory{tracked: true, networkAt: now.Add(time.Second)}, now, timing); p.step != stepIdle || !p.at.Equal(now.Add(time.Second)) {
		t.Errorf("with nothing else to do: %s at %v", p.step, p.at)
	}
}
