package shape_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/shape"
	"github.com/phonehost/phonehost/scripts/testenv"
)

const mbit = 1_000_000

// state is what the kernel has on the links of the phone's limits.
func (l lab) state(t *testing.T) []string {
	t.Helper()
	all := qdiscs(t, l.link)
	filters, err := netlink.FilterList(l.link, netlink.HANDLE_MIN_INGRESS)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	for _, f := range filters {
		u, ok := f.(*netlink.U32)
		if !ok || len(u.Actions) == 0 {
			continue
		}
		to := "nowhere"
		if link, err := netlink.LinkByIndex(u.Actions[0].(*netlink.MirredAction).Ifindex); err == nil {
			to = link.Attrs().Name
		}
		all = append(all, fmt.Sprintf("%s: all packets to %s", l.link.Attrs().Name, to))
	}
	ifb, err := netlink.LinkByName(shape.UploadName(l.id))
	if err != nil {
		return all
	}
	addresses, err := netlink.AddrList(ifb, netlink.FAMILY_ALL)
	must(t, err)
	up := ifb.Attrs().RawFlags&unix.IFF_UP != 0
	all = append(all, fmt.Sprintf("%s: %s of %q, up %v, MTU %d, %d addresses", ifb.Attrs().Name, ifb.Type(), ifb.Attrs().Alias, up, ifb.Attrs().MTU, len(addresses)))
	return append(all, qdiscs(t, ifb)...)
}

// qdiscs are those at the root of a link that somebody put there.
func qdiscs(t *testing.T, link netlink.Link) []string {
	t.Helper()
	list, err := netlink.QdiscList(link)
	must(t, err)
	var all []string
	for _, q := range list {
		if q.Attrs().Handle == 0 || q.Attrs().Parent != netlink.HANDLE_ROOT {
			continue
		}
		text := link.Attrs().Name + ": " + q.Type()
		if tbf, ok := q.(*netlink.Tbf); ok {
			text += fmt.Sprintf(" %d Mbit/s", tbf.Rate*8/mbit)
			if wait := float64(tbf.Limit) / float64(tbf.Rate); wait > 0.1 {
				t.Errorf("%s: a packet may wait for %.3f s", link.Attrs().Name, wait)
			}
		}
		all = append(all, text)
	}
	return all
}

// want is the state that limits of so many Mbit/s are.
func (l lab) want(up, down uint64) []string {
	var all []string
	name, ifb := l.link.Attrs().Name, shape.UploadName(l.id)
	if down > 0 {
		all = append(all, fmt.Sprintf("%s: tbf %d Mbit/s", name, down))
	}
	if up > 0 {
		all = append(all, fmt.Sprintf("%s: all packets to %s", name, ifb),
			fmt.Sprintf("%s: ifb of %q, up true, MTU 1500, 0 addresses", ifb, "phonehost:"+l.id),
			fmt.Sprintf("%s: tbf %d Mbit/s", ifb, up))
	}
	return all
}

func TestSetMakesTheKernelWhatTheLimitsAre(t *testing.T) {
	l := newLab(t, 0)
	for _, limits := range [][2]uint64{{0, 0}, {5, 20}, {5, 20}, {6, 20}, {6, 0}, {0, 20}, {100, 1000}, {1, 1}, {0, 0}, {0, 0}} {
		up, down := limits[0], limits[1]
		l.limit(t, up*mbit, down*mbit)
		if diff := cmp.Diff(l.want(up, down), l.state(t)); diff != "" {
			t.Errorf("up %d and down %d Mbit/s (-want +got):\n%s", up, down, diff)
		}
		var listed []string
		if up > 0 {
			listed = []string{l.id}
		}
		if ids, err := shape.List(); err != nil || !slices.Equal(ids, listed) {
			t.Errorf("List with up %d = %q, %v; want %q", up, ids, err, listed)
		}
		l.reachable(t)
	}
}

// Whoever is killed in Set or Clear leaves one of these states, which the next call has to deal with.
func TestTheNextCallFinishesWhatACrashLeft(t *testing.T) {
	l := newLab(t, 0)
	name := shape.UploadName(l.id)
	ifb := func(t *testing.T) netlink.Link {
		link, err := netlink.LinkByName(name)
		must(t, err)
		return link
	}
	tests := []struct {
		name string
		do   func(t *testing.T)
	}{
		{"an ifb without a name for its phone", func(t *testing.T) { must(t, netlink.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: name}})) }},
		{"no qdisc on the ifb", func(t *testing.T) {
			l.limit(t, 7*mbit, 0)
			must(t, netlink.QdiscDel(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifb(t).Attrs().Index, Parent: netlink.HANDLE_ROOT}}))
		}},
		{"the ifb down", func(t *testing.T) { l.limit(t, 7*mbit, 0); must(t, netlink.LinkSetDown(ifb(t))) }},
		{"no filter", func(t *testing.T) {
			l.limit(t, 7*mbit, 0)
			filters, err := netlink.FilterList(l.link, netlink.HANDLE_MIN_INGRESS)
			must(t, err)
			for _, f := range filters {
				if u, ok := f.(*netlink.U32); ok && len(u.Actions) > 0 {
					must(t, netlink.FilterDel(u))
				}
			}
		}},
		{"the ifb gone, but not the filter", func(t *testing.T) { l.limit(t, 7*mbit, 0); must(t, netlink.LinkDel(ifb(t))) }},
		{"another MTU", func(t *testing.T) { l.limit(t, 7*mbit, 0); must(t, netlink.LinkSetMTU(ifb(t), 1400)) }},
		{"the download's limit alone", func(t *testing.T) { l.limit(t, 0, 20*mbit) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			must(t, shape.Clear(t.Context(), l.id))
			test.do(t)
			l.limit(t, 5*mbit, 20*mbit)
			if diff := cmp.Diff(l.want(5, 20), l.state(t)); diff != "" {
				t.Errorf("after Set (-want +got):\n%s", diff)
			}
			l.reachable(t)
			must(t, shape.Clear(t.Context(), l.id))
			test.do(t)
			must(t, shape.Clear(t.Context(), l.id))
			if state := l.state(t); state != nil {
				t.Errorf("after Clear there are %q", state)
			}
			l.reachable(t)
		})
	}
}

func TestClearWithoutALink(t *testing.T) {
	l := newLab(t, 0)
	l.limit(t, 5*mbit, 20*mbit)
	must(t, netlink.LinkDel(l.link))
	if ids, err := shape.List(); err != nil || !slices.Equal(ids, []string{l.id}) {
		t.Errorf("List = %q, %v; want the phone", ids, err)
	}
	for range 2 {
		must(t, shape.Clear(t.Context(), l.id))
		if _, err := netlink.LinkByName(shape.UploadName(l.id)); err == nil {
			t.Error("the ifb is still there")
		}
	}
}

func TestPruneRemovesWhatNoPhoneOwns(t *testing.T) {
	l := newLab(t, 0)
	l.limit(t, 5*mbit, 0)
	unnamed, others := shape.UploadName("gone"), "phu-others"
	for _, name := range []string{unnamed, others} {
		must(t, netlink.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	}
	must(t, shape.Prune(t.Context(), []string{l.id, "without limits"}))
	for name, want := range map[string]bool{shape.UploadName(l.id): true, unnamed: false, others: true} {
		if _, err := netlink.LinkByName(name); (err == nil) != want {
			t.Errorf("after Prune: %s is there: %v, want %v", name, err == nil, want)
		}
	}
}

func TestProbeLeavesNothing(t *testing.T) {
	testenv.Root(t)
	before, err := netlink.LinkList()
	must(t, err)
	must(t, shape.Probe(t.Context()))
	after, err := netlink.LinkList()
	must(t, err)
	if len(after) != len(before) {
		t.Errorf("%d links before, %d after", len(before), len(after))
	}
}

func TestOthersThingsAreLeftAlone(t *testing.T) {
	l := newLab(t, 0)
	index := l.link.Attrs().Index
	theirs := &netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(9, 0), Parent: netlink.HANDLE_ROOT}, Rate: 1e6, Limit: 50000, Buffer: 50000}
	must(t, netlink.QdiscAdd(theirs))
	must(t, netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}))
	must(t, netlink.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 77, Protocol: unix.ETH_P_IPV6},
		Actions:     []netlink.Action{netlink.NewMirredAction(index)},
	}))
	before := l.state(t)
	err := shape.Set(t.Context(), index, l.id, 0, 20*mbit)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "tbf 9:0") {
		t.Errorf("Set with another's qdisc at the root = %v, want errdefs.ErrFailedPrecondition and its name", err)
	}
	l.limit(t, 5*mbit, 0) // has room beside them
	l.limit(t, 0, 0)
	must(t, shape.Clear(t.Context(), l.id))
	if diff := cmp.Diff(before, l.state(t)); diff != "" {
		t.Errorf("what others have has changed (-before +after):\n%s", diff)
	}
}

func TestSetRefuses(t *testing.T) {
	l := newLab(t, 0)
	index := l.link.Attrs().Index
	tests := []struct {
		name     string
		index    int
		up, down uint64
		class    func(error) bool
		says     string
	}{
		{"too slow", index, 63_999, 0, errdefs.IsInvalidArgument, "upload limit of 63999 bit/s"},
		{"too fast", index, 0, 100_000_000_001, errdefs.IsInvalidArgument, "download limit of 100000000001 bit/s"},
		{"no link", 1 << 20, 5 * mbit, 0, errdefs.IsNotFound, "1048576"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := shape.Set(t.Context(), test.index, l.id, test.up, test.down)
			if !test.class(err) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Set = %v, want one that says %q", err, test.says)
			}
		})
	}
	if state := l.state(t); state != nil {
		t.Errorf("refused limits have left %q", state)
	}
}
