package datapath_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestOpenAdoptsWhatIsPinned(t *testing.T) {
	d := open(t, datapath.Config{})
	mapIDs, programs := d.MapIDs(), d.ProgramIDs()
	if _, err := datapath.Open(datapath.Config{Dir: dir}); !errdefs.IsUnavailable(err) {
		t.Errorf("a second one beside it: %v; want errdefs.ErrUnavailable", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again := reopen(t, datapath.Config{Sample: 7})
	if diff := cmp.Diff(mapIDs, again.MapIDs()); diff != "" {
		t.Errorf("maps are others (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(programs, again.ProgramIDs()); diff != "" {
		t.Errorf("programs are others (-before +after):\n%s", diff)
	}
	nothing(t, again)
}

func TestOpenRefuses(t *testing.T) {
	testenv.Root(t)
	for _, test := range []struct {
		name   string
		config datapath.Config
		class  error
		says   string
	}{
		{"a directory on no BPF file system", datapath.Config{Dir: "/run/phonehost-net"}, errdefs.ErrFailedPrecondition, "mount -t bpf"},
		{"a relative path", datapath.Config{Dir: "net"}, errdefs.ErrInvalidArgument, "begin at the root"},
		{"a name with a dot", datapath.Config{Dir: "/sys/fs/bpf/net.d"}, errdefs.ErrInvalidArgument, "dots"},
		{"too many phones", datapath.Config{Dir: dir, MaxPhones: 1 << 17}, errdefs.ErrInvalidArgument, "65536"},
		{"too few flows", datapath.Config{Dir: dir, MaxFlows: 1}, errdefs.ErrInvalidArgument, "16 to 1048576"},
		{"half of the timeouts", datapath.Config{Dir: dir, Timeouts: datapath.Timeouts{TCPNew: 1}}, errdefs.ErrInvalidArgument, "set all"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := datapath.Open(test.config)
			if err == nil {
				d.Close()
			}
			if !errors.Is(err, test.class) {
				t.Errorf("%v; want %v", err, test.class)
			}
			contains(t, err, test.says)
		})
	}
}

func TestMapsOfAnotherSize(t *testing.T) {
	d := cold(t, datapath.Config{MaxPhones: 64})
	ids := d.MapIDs()
	if err := d.Attach("p1", device(t, "ph-1").Index); err != nil {
		t.Fatal(err)
	}
	d.Close()
	smaller := reopen(t, datapath.Config{MaxPhones: 32})
	if !maps.Equal(ids, smaller.MapIDs()) {
		t.Error("maps with more room than is wanted were made anew")
	}
	if err := smaller.SetPhone(5, phoneIn(32)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("slot 32 of 32: %v; want errdefs.ErrInvalidArgument", err)
	}
	smaller.Close()
	_, err := datapath.Open(datapath.Config{Dir: dir, MaxPhones: 128})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("larger maps than a phone uses: %v; want errdefs.ErrFailedPrecondition", err)
	}
	contains(t, err, "map ", "MaxEntries", "1 phones", "restart the host")
	again := reopen(t, datapath.Config{MaxPhones: 64})
	if err := again.Detach("p1"); err != nil {
		t.Fatal(err)
	}
	again.Close()
	larger := reopen(t, datapath.Config{MaxPhones: 128})
	if now := larger.MapIDs(); now["counters"] == ids["counters"] {
		t.Error("the maps are those of the smaller size")
	}
	if err := larger.SetPhone(device(t, "ph-2").Index, phoneIn(127)); err != nil {
		t.Error(err)
	}
}

func TestPhones(t *testing.T) {
	d := open(t, datapath.Config{})
	link := device(t, "ph-1")
	p := phoneIn(3)
	p.Cut, p.DHCP = true, true
	for range 2 { // the second time changes nothing
		if err := d.SetPhone(link.Index, p); err != nil {
			t.Fatal(err)
		}
	}
	phones, err := d.Phones()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]datapath.Phone{link.Index: p}, phones, cmp.Comparer(func(a, b policy.PortRange) bool { return a == b }), addresses); diff != "" {
		t.Errorf("the phone that was set and the one that is there (-set +there):\n%s", diff)
	}
	if err := d.SetForwards(3, []datapath.Forward{{Protocol: policy.TCP, Port: 5555}, {Protocol: policy.UDP, Port: 53}}); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"phones": 1, "clients": 2, "flows": 1, "denials": 1, "forwards": 2}
	elements(t, d, want)
	if err := d.SetForwards(3, []datapath.Forward{{Protocol: policy.TCP, Port: 5555}}); err != nil {
		t.Fatal(err)
	}
	p.IPv6 = phoneIn(4).IPv6 // readdressed
	if err := d.SetPhone(link.Index, p); err != nil {
		t.Fatal(err)
	}
	want["forwards"] = 1
	elements(t, d, want)
	for range 2 {
		if err := d.RemovePhone(link.Index); err != nil {
			t.Fatal(err)
		}
	}
	nothing(t, d)
}

func TestSetPhoneRefuses(t *testing.T) {
	d := open(t, datapath.Config{})
	link, other := device(t, "ph-1"), device(t, "ph-2")
	if err := d.SetPhone(link.Index, phoneIn(1)); err != nil {
		t.Fatal(err)
	}
	if err := d.SetPhone(other.Index, phoneIn(1)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("two links for one slot: %v; want errdefs.ErrAlreadyExists", err)
	}
	for name, change := range map[string]func(*datapath.Phone){
		"slot":   func(p *datapath.Phone) { p.Slot = 1024 },
		"policy": func(p *datapath.Phone) { p.Policy = 1024 },
		"MAC":    func(p *datapath.Phone) { p.MAC = p.MAC[:5] },
		"IPv4":   func(p *datapath.Phone) { p.IPv4 = p.IPv6 },
		"IPv6":   func(p *datapath.Phone) { p.IPv6 = p.IPv4 },
		"prefix": func(p *datapath.Phone) { p.Prefix4 = 33 },
	} {
		p := phoneIn(2)
		change(&p)
		if err := d.SetPhone(other.Index, p); !errdefs.IsInvalidArgument(err) {
			t.Errorf("a wrong %s: %v; want errdefs.ErrInvalidArgument", name, err)
		}
	}
	if err := d.SetForwards(1, []datapath.Forward{{Protocol: policy.ICMP, Port: 1}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a forward of ICMP: %v; want errdefs.ErrInvalidArgument", err)
	}
	elements(t, d, map[string]int{"phones": 1, "clients": 2, "flows": 1, "denials": 1})
}

// TestSlotGoesOn: a slot's next phone finds nothing of the former one, whether that was removed, or its link vanished.
func TestSlotGoesOn(t *testing.T) {
	d := open(t, datapath.Config{})
	first, second := device(t, "ph-1"), device(t, "ph-2")
	if err := d.SetPhone(first.Index, phoneIn(1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Track(1, 1000, 1e9), d.Deny(1, 80, 5), d.Unlist(1, 9)); err != nil {
		t.Fatal(err)
	}
	if err := d.SetPhone(first.Index, phoneIn(1)); err != nil {
		t.Fatal(err)
	}
	if flows, err := d.Flows(1); err != nil || len(flows) != 1 {
		t.Errorf("the flows of a phone that was set again are %v, %v; want one", flows, err)
	}
	if err := netlink.LinkDel(first); err != nil {
		t.Fatal(err)
	}
	if err := d.SetPhone(second.Index, phoneIn(1)); err != nil {
		t.Fatal(err)
	}
	flows, err := d.Flows(1)
	denials, err2 := d.Denials(1)
	counters, err3 := d.Counters(1)
	if err := errors.Join(err, err2, err3); err != nil || len(flows)+len(denials) > 0 || counters != (datapath.Counters{}) {
		t.Errorf("a new phone has the flows %v, denials %v, counters %v of the former one; %v", flows, denials, counters, err)
	}
	phones, err := d.Phones()
	if err != nil || len(phones) != 1 {
		t.Errorf("phones are %v, %v; want that on link %d alone", phones, err, second.Index)
	}
}

// TestOpenClearsOrphans: what belongs to a link that vanished while nobody looked goes when the datapath is opened.
func TestOpenClearsOrphans(t *testing.T) {
	d := open(t, datapath.Config{})
	gone, stays := device(t, "ph-1"), device(t, "ph-2")
	for slot, link := range map[uint32]int{1: gone.Index, 2: stays.Index} {
		if err := errors.Join(d.SetForwards(slot, []datapath.Forward{{Protocol: policy.TCP, Port: 5555}}), d.SetPhone(link, phoneIn(slot)), d.Track(slot, 1, 1e12)); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	if err := netlink.LinkDel(gone); err != nil {
		t.Fatal(err)
	}
	again := reopen(t, datapath.Config{})
	elements(t, again, map[string]int{"phones": 1, "clients": 2, "flows": 1, "denials": 1, "forwards": 1})
	if flows, err := again.Flows(2); err != nil || len(flows) != 1 {
		t.Errorf("the phone whose link is there has the flows %v, %v; want one", flows, err)
	}
}

// elements compares how many elements the maps hold.
func elements(t *testing.T, d *datapath.Datapath, want map[string]int) {
	t.Helper()
	have, err := d.Elements()
	if err != nil {
		t.Fatal(err)
	}
	delete(have, "policies")
	delete(have, "protected")
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("elements of the maps (-want +have):\n%s", diff)
	}
}

var addresses = cmp.Comparer(func(a, b interface{ String() string }) bool { return a.String() == b.String() })

func TestRemove(t *testing.T) {
	d := cold(t, datapath.Config{})
	d.Close()
	for range 2 {
		if err := datapath.Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory of the pins is still there: %v", err)
	}
}

func BenchmarkOpen(b *testing.B) {
	b.Run("cold", func(b *testing.B) {
		testenv.Root(b)
		for b.Loop() {
			d, err := datapath.Open(datapath.Config{Dir: dir})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			d.Close()
			if err := datapath.Remove(dir); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("adopting", func(b *testing.B) {
		cold(b, datapath.Config{}).Close()
		for b.Loop() {
			d, err := datapath.Open(datapath.Config{Dir: dir})
			if err != nil {
				b.Fatal(err)
			}
			d.Close()
		}
	})
}

func BenchmarkPhone(b *testing.B) {
	d := open(b, datapath.Config{})
	link := device(b, "ph-1")
	b.Run("Attach first", func(b *testing.B) {
		for b.Loop() {
			if err := d.Attach("p1", link.Index); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := d.Detach("p1"); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("Attach again", func(b *testing.B) {
		for b.Loop() {
			if err := d.Attach("p1", link.Index); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("SetPhone first, RemovePhone", func(b *testing.B) {
		for b.Loop() {
			if err := errors.Join(d.SetPhone(link.Index, phoneIn(1)), d.RemovePhone(link.Index)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("SetPhone again", func(b *testing.B) {
		for b.Loop() {
			if err := d.SetPhone(link.Index, phoneIn(1)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestHundredPhones sets a hundred phones up from several goroutines, has another process's datapath adopt them, and takes them away.
func TestHundredPhones(t *testing.T) {
	mechanisms(t, func(t *testing.T, c datapath.Config) {
		d := open(t, c)
		const phones = 100
		var links [phones]int
		for i := range phones {
			links[i] = device(t, fmt.Sprintf("ph-%d", i)).Index
		}
		if err := d.LoadPolicy(0, compiled(t, 1000, 1)); err != nil {
			t.Fatal(err)
		}
		each := func(what string, do func(i int) error) {
			t.Helper()
			began := time.Now()
			var tasks errgroup.Group
			tasks.SetLimit(8)
			for i := range phones {
				tasks.Go(func() error { return do(i) })
			}
			if err := tasks.Wait(); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d phones: %s in %v", phones, what, time.Since(began).Round(time.Millisecond))
		}
		id := func(i int) string { return fmt.Sprintf("p%d", i) }
		each("Attach", func(i int) error { return d.Attach(id(i), links[i]) })
		each("SetPhone", func(i int) error { return d.SetPhone(links[i], phoneIn(uint32(i))) })
		d.Close()
		began := time.Now()
		d = reopen(t, c)
		t.Logf("%d phones: Open adopted them in %v", phones, time.Since(began).Round(time.Millisecond))
		elements(t, d, map[string]int{"phones": phones, "clients": 2 * phones, "flows": phones, "denials": phones})
		each("Attach and SetPhone again", func(i int) error {
			return errors.Join(d.Attach(id(i), links[i]), d.SetPhone(links[i], phoneIn(uint32(i))))
		})
		want := map[string]int{}
		for i, link := range links {
			want[id(i)] = link
		}
		attachedAre(t, d, want)
		began = time.Now()
		if err := d.LoadPolicy(0, compiled(t, 1000, 2)); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d phones: a changed policy of 1000 rules for all, compiled and in force in %v", phones, time.Since(began).Round(time.Millisecond))
		each("RemovePhone and Detach", func(i int) error { return errors.Join(d.RemovePhone(links[i]), d.Detach(id(i))) })
		elements(t, d, map[string]int{})
	})
}
