package datapath_test

import (
	"maps"
	"net"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/datapath"
)

// attachedAre fails the test unless exactly these phones are attached.
func attachedAre(t *testing.T, d *datapath.Datapath, want map[string]int) {
	t.Helper()
	have, err := d.Attached()
	if err != nil || !maps.Equal(have, want) {
		t.Errorf("attached are %v, %v; want %v", have, err, want)
	}
}

func TestAttach(t *testing.T) {
	mechanisms(t, func(t *testing.T, c datapath.Config) {
		d := open(t, c)
		link := device(t, "ph-1")
		for range 2 {
			if err := d.Attach("p-1", link.Index); err != nil {
				t.Fatal(err)
			}
		}
		if want := map[bool]string{false: "TCX", true: "clsact"}[c.Filters]; d.Mechanism() != want {
			t.Errorf("attached by %s; want %s", d.Mechanism(), want)
		}
		attachedAre(t, d, map[string]int{"p-1": link.Index})
		d.Close()
		again := reopen(t, c)
		attachedAre(t, again, map[string]int{"p-1": link.Index})
		if err := again.Attach("p-1", link.Index); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(link); err != nil {
			t.Fatal(err)
		}
		if c.Filters { // they went with the link
			attachedAre(t, again, map[string]int{})
		} else {
			attachedAre(t, again, map[string]int{"p-1": 0})
		}
		anew := device(t, "ph-1")
		if err := again.Attach("p-1", anew.Index); err != nil {
			t.Fatal(err)
		}
		attachedAre(t, again, map[string]int{"p-1": anew.Index})
		if err := netlink.LinkSetUp(anew); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := again.Detach("p-1"); err != nil {
				t.Fatal(err)
			}
		}
		if now, err := netlink.LinkByIndex(anew.Index); err != nil || now.Attrs().Flags&net.FlagUp != 0 {
			t.Errorf("a link that was detached is %v, %v; want it down", now, err)
		}
		nothing(t, again)
	})
}

func TestAttachRefuses(t *testing.T) {
	mechanisms(t, func(t *testing.T, c datapath.Config) {
		d := open(t, c)
		link := device(t, "ph-1")
		for _, id := range []string{"", "a.b", "a/b", "a_b", ".."} {
			if err := d.Attach(id, link.Index); !errdefs.IsInvalidArgument(err) {
				t.Errorf("id %q: %v; want errdefs.ErrInvalidArgument", id, err)
			}
		}
		if err := d.Attach("p1", 0); !errdefs.IsInvalidArgument(err) {
			t.Errorf("link 0: %v; want errdefs.ErrInvalidArgument", err)
		}
		if err := d.Attach("p1", 1<<20); !errdefs.IsNotFound(err) {
			t.Errorf("a link that is not there: %v; want errdefs.ErrNotFound", err)
		}
		nothing(t, d)
	})
}

func TestAttachToAnotherLink(t *testing.T) {
	mechanisms(t, func(t *testing.T, c datapath.Config) {
		d := open(t, c)
		first, second := device(t, "ph-1"), device(t, "ph-2")
		if err := d.Attach("p1", first.Index); err != nil {
			t.Fatal(err)
		}
		if err := d.Attach("p1", second.Index); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("another link beside the first: %v; want errdefs.ErrFailedPrecondition", err)
		}
		attachedAre(t, d, map[string]int{"p1": first.Index})
	})
}

func TestAttachLeavesOthersFilters(t *testing.T) {
	d := open(t, datapath.Config{Filters: true})
	link := device(t, "ph-1")
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := netlink.QdiscAdd(clsact); err != nil {
		t.Fatal(err)
	}
	foreign := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:          d.ProgramFD("to_phone"), Name: "another's", DirectAction: true,
	}
	if err := netlink.FilterAdd(foreign); err != nil {
		t.Fatal(err)
	}
	err := d.Attach("p1", link.Index)
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%v; want errdefs.ErrFailedPrecondition", err)
	}
	contains(t, err, "another's filter")
}

// TestMechanismChanges: what one mechanism attached the other takes over, on the same link.
func TestMechanismChanges(t *testing.T) {
	if !haveTCX(t) {
		t.Skip("this kernel has clsact alone")
	}
	d := open(t, datapath.Config{})
	link := device(t, "ph-1")
	for _, filters := range []bool{false, true, false} {
		d.Close()
		d = reopen(t, datapath.Config{Filters: filters})
		if err := d.Attach("p1", link.Index); err != nil {
			t.Fatal(err)
		}
		attachedAre(t, d, map[string]int{"p1": link.Index})
		pins, err := os.ReadDir(dir + "/v1/links")
		if want := map[bool]int{false: 2, true: 0}[filters]; err != nil || len(pins) != want {
			t.Errorf("filters %v: the pinned links are %v, %v; want %d", filters, pins, err, want)
		}
		if n := filtersOn(t, link); n != 2-len(pins) {
			t.Errorf("filters %v: there are %d filters", filters, n)
		}
	}
}

func filtersOn(t *testing.T, link netlink.Link) (n int) {
	t.Helper()
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		list, _ := netlink.FilterList(link, parent) // an error where there is no clsact
		n += len(list)
	}
	return n
}

// TestAnotherLayout: links of another layout hold until Attach moves them; the last one takes the other directory with it.
func TestAnotherLayout(t *testing.T) {
	if !haveTCX(t) {
		t.Skip("nothing of clsact filters is pinned")
	}
	d := cold(t, datapath.Config{})
	first, second, removed := device(t, "ph-1"), device(t, "ph-2"), device(t, "ph-3")
	all := map[string]int{"p1": first.Index, "p2": second.Index, "p3": removed.Index}
	for id, link := range all {
		if err := d.Attach(id, link); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	if err := os.Rename(dir+"/v1", dir+"/v0"); err != nil {
		t.Fatal(err)
	}
	again := reopen(t, datapath.Config{})
	attachedAre(t, again, all)
	there := func(want bool) {
		t.Helper()
		if _, err := os.Stat(dir + "/v0"); (err == nil) != want {
			t.Errorf("the other layout's directory: %v; want it there: %v", err, want)
		}
	}
	for _, id := range []string{"p1", "p2"} {
		if err := again.Attach(id, all[id]); err != nil {
			t.Fatal(err)
		}
		attachedAre(t, again, all)
		there(true)
	}
	if err := again.Detach("p3"); err != nil {
		t.Fatal(err)
	}
	there(false)
	again.Close()
	attachedAre(t, reopen(t, datapath.Config{}), map[string]int{"p1": first.Index, "p2": second.Index})
}
