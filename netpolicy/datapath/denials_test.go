package datapath_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/datapath"
)

// drained returns what a drain reports, as counts by port; port 0 is ReasonOther.
func drained(t *testing.T, d *datapath.Datapath, slot uint32) map[uint16]uint64 {
	t.Helper()
	counts := map[uint16]uint64{}
	err := d.DrainDenials(slot, func(list []datapath.Denial) error {
		for _, denial := range list {
			counts[denial.Port] += denial.Count
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// denied opens a datapath with a phone in slot 1 that was denied ports 80, 3 times, and 443, once.
func denied(t *testing.T) *datapath.Datapath {
	t.Helper()
	d := open(t, datapath.Config{})
	if err := errors.Join(d.SetPhone(device(t, "ph-1").Index, phoneIn(1)), d.Deny(1, 80, 3), d.Deny(1, 443, 1)); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDenials(t *testing.T) {
	d := denied(t)
	list, err := d.Denials(1)
	if err != nil || len(list) != 2 {
		t.Fatalf("denials are %v, %v; want two", list, err)
	}
	one := list[0]
	if one.Port != 80 {
		one = list[1]
	}
	if one.Peer != netip.MustParseAddr("192.0.2.1") || one.Reason != datapath.ReasonDefault || one.Rule != datapath.RuleDefault || one.Count != 3 || one.Bytes != 180 ||
		one.Last.Sub(one.First) != time.Second || time.Since(one.Last) > time.Minute {
		t.Errorf("the denial is %+v", one)
	}
	if list, err := d.Denials(2); err != nil || len(list) != 0 {
		t.Errorf("a slot without a phone has the denials %v, %v", list, err)
	}
}

func TestDrain(t *testing.T) {
	d := denied(t)
	if got := drained(t, d, 1); len(got) != 2 || got[80] != 3 || got[443] != 1 {
		t.Errorf("drained %v", got)
	}
	if got := drained(t, d, 1); len(got) != 0 {
		t.Errorf("drained %v once more", got)
	}
	if err := errors.Join(d.Deny(1, 80, 2), d.Unlist(1, 7)); err != nil {
		t.Fatal(err)
	}
	if got := drained(t, d, 1); len(got) != 2 || got[80] != 2 || got[0] != 7 {
		t.Errorf("drained %v; want 2 of port 80, 7 others", got)
	}
	d.Close()
	d = reopen(t, datapath.Config{})
	if err := d.Unlist(1, 9); err != nil {
		t.Fatal(err)
	}
	if got := drained(t, d, 1); len(got) != 1 || got[0] != 2 {
		t.Errorf("drained %v; want the 2 others that are new", got)
	}
	if got := drained(t, d, 2); len(got) != 0 {
		t.Errorf("of a slot without a phone %v is drained", got)
	}
}

// TestDrainIsRepeated: what was taken and not reported is reported by the next drain, in whatever process, with what came after.
func TestDrainIsRepeated(t *testing.T) {
	d := denied(t)
	refuse := errors.New("no")
	if err := d.DrainDenials(1, func([]datapath.Denial) error { return refuse }); !errors.Is(err, refuse) {
		t.Errorf("%v; want the error of report", err)
	}
	if err := d.Deny(1, 22, 5); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d = reopen(t, datapath.Config{})
	if got := drained(t, d, 1); len(got) != 2 || got[80] != 3 || got[443] != 1 {
		t.Errorf("drained %v; want what was taken before", got)
	}
	if got := drained(t, d, 1); len(got) != 1 || got[22] != 5 {
		t.Errorf("drained %v; want what came after", got)
	}
}

func TestFlows(t *testing.T) {
	d := open(t, datapath.Config{})
	if err := errors.Join(d.SetPhone(device(t, "ph-1").Index, phoneIn(1)), d.Track(1, 1000, int64(time.Hour)), d.Track(1, 1001, -int64(time.Second))); err != nil {
		t.Fatal(err)
	}
	list, err := d.Flows(1)
	if err != nil || len(list) != 1 {
		t.Fatalf("flows are %v, %v; want the one that has not expired", list, err)
	}
	f := list[0]
	if f.Peer != netip.MustParseAddrPort("192.0.2.1:443") || f.Port != 1000 || f.State.String() != "ESTABLISHED" || f.Rule != 3 || f.Generation != 7 || f.Packets != [2]uint64{2, 1} {
		t.Errorf("the flow is %+v", f)
	}
	if left := time.Until(f.Expires); (left-time.Hour).Abs() > time.Minute || f.Expires.Sub(f.Seen) > datapath.DefaultTimeouts.TCPEstablished {
		t.Errorf("the flow was seen at %v and expires at %v", f.Seen, f.Expires)
	}
	if err := d.Sweep(1); err != nil {
		t.Fatal(err)
	}
	if n, err := d.FlowElements(1); err != nil || n != 1 {
		t.Errorf("%d flows are left, %v; want the one that has not expired", n, err)
	}
	if err := d.Sweep(2); err != nil {
		t.Errorf("a slot without a phone: %v", err)
	}
	if err := d.Sweep(1024); !errdefs.IsInvalidArgument(err) {
		t.Errorf("slot 1024: %v; want errdefs.ErrInvalidArgument", err)
	}
}

func TestReserve(t *testing.T) {
	d := denied(t)
	if err := errors.Join(d.Reserve(1), d.Reserve(2), d.Reserve(2)); err != nil { // 1 is a phone's and stays
		t.Fatal(err)
	}
	if list, err := d.Denials(1); err != nil || len(list) != 2 {
		t.Errorf("the denials of a phone whose slot was reserved are %v, %v", list, err)
	}
	elements(t, d, map[string]int{"phones": 1, "clients": 2, "flows": 2, "denials": 2})
	if err := d.SetPhone(device(t, "ph-2").Index, phoneIn(2)); err != nil {
		t.Fatal(err)
	}
	elements(t, d, map[string]int{"phones": 2, "clients": 4, "flows": 2, "denials": 2})
	if err := d.Reserve(3); err != nil {
		t.Fatal(err)
	}
	d.Close()
	elements(t, reopen(t, datapath.Config{}), map[string]int{"phones": 2, "clients": 4, "flows": 2, "denials": 2})
	if err := d.Reserve(1024); !errdefs.IsInvalidArgument(err) {
		t.Errorf("slot 1024: %v; want errdefs.ErrInvalidArgument", err)
	}
}
