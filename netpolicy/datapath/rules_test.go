package datapath_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// compiled compiles a policy of n rules, each with a network of its own.
func compiled(t testing.TB, n int, generation uint64) *policy.Object {
	t.Helper()
	var p policy.Policy
	for i := range n {
		p.Rules = append(p.Rules, policy.Rule{
			Action: policy.Action(i % 2), CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + i>>16), byte(i >> 8), byte(i), 0}), 24), Protocol: policy.TCP,
			Ports: []policy.PortRange{{First: 80, Last: uint16(80 + i%50)}, {First: 443, Last: 443}},
		})
	}
	o, err := policy.Compile(p, generation)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestPolicies(t *testing.T) {
	d := open(t, datapath.Config{})
	objects := map[uint32]*policy.Object{0: compiled(t, 0, 5), 7: compiled(t, 10_000, 6), 1023: compiled(t, 10, 7)}
	want := map[uint32]datapath.LoadedPolicy{}
	for slot, o := range objects {
		if err := d.LoadPolicy(slot, o); err != nil {
			t.Fatal(err)
		}
		want[slot] = datapath.LoadedPolicy{Generation: o.Generation, Header: [2]policy.Cell(o.Cells)}
	}
	loaded := func() {
		t.Helper()
		have, err := d.LoadedPolicies()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("loaded policies (-want +have):\n%s", diff)
		}
	}
	loaded()
	cells, err := d.Cells(7)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(objects[7].Cells, cells); diff != "" {
		t.Errorf("the kernel's object is not the one that was loaded (-want +have):\n%s", diff)
	}
	if err := d.WriteCell(7); err == nil {
		t.Error("an object that is in force can be written to")
	}
	if err := d.LoadPolicy(7, compiled(t, 3, 8)); err != nil {
		t.Fatal(err)
	}
	want[7] = datapath.LoadedPolicy{Generation: 8, Header: [2]policy.Cell(compiled(t, 3, 8).Cells)}
	loaded()
	d.Close()
	d = reopen(t, datapath.Config{})
	loaded()
	for slot := range want {
		for range 2 {
			if err := d.UnloadPolicy(slot); err != nil {
				t.Fatal(err)
			}
		}
	}
	want = map[uint32]datapath.LoadedPolicy{}
	loaded()
}

func TestPoliciesRefused(t *testing.T) {
	d := open(t, datapath.Config{})
	for name, err := range map[string]error{
		"slot 1024":             d.LoadPolicy(1024, compiled(t, 1, 1)),
		"unload slot 1024":      d.UnloadPolicy(1024),
		"no cells":              d.LoadPolicy(0, &policy.Object{}),
		"no protected":          d.SetProtected(nil),
		"counters of slot 1024": func() error { _, err := d.Counters(1024); return err }(),
		"flows of slot 1024":    func() error { _, err := d.Flows(1024); return err }(),
		"denials of slot 1024":  func() error { _, err := d.Denials(1024); return err }(),
	} {
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v; want errdefs.ErrInvalidArgument", name, err)
		}
	}
}

func TestProtected(t *testing.T) {
	d := open(t, datapath.Config{})
	for _, n := range []int{1, 300, 2} {
		var classes []policy.AddressClass
		for i := range n {
			classes = append(classes, policy.AddressClass{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)), Class: 3})
		}
		cells := policy.CompileAddresses(classes)
		if err := d.SetProtected(cells); err != nil {
			t.Fatal(err)
		}
		have, err := d.ProtectedCells()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(cells, have); diff != "" {
			t.Errorf("the kernel's protected addresses (-want +have):\n%s", diff)
		}
	}
}

func BenchmarkLoadPolicy(b *testing.B) {
	d := open(b, datapath.Config{})
	for _, n := range []int{10, 1000, 10_000} {
		o := compiled(b, n, 1)
		b.Run(fmt.Sprintf("rules=%d/cells=%d", n, len(o.Cells)), func(b *testing.B) {
			for b.Loop() {
				if err := d.LoadPolicy(0, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
