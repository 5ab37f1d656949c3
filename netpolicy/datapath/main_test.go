package datapath_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// dir is where the tests' pins are, in netlab's own BPF file system.
const dir = "/sys/fs/bpf/phonehost/net"

// childEnv names what a test has its own program do in another process, in the same namespaces.
const childEnv = "PHONEHOST_DATAPATH_TEST_CHILD"

var children = map[string]func() error{"loop": loopChild, "replace": replaceChild, "leases": leasesChild}

func TestMain(m *testing.M) {
	child, found := children[os.Getenv(childEnv)]
	if !found {
		os.Exit(netlab.Run(m))
	}
	if err := child(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// few tells to repeat things less often: in a machine that is emulated, and for those in a hurry.
func few() bool {
	_, guest := vm.Guest()
	return guest || testing.Short()
}

// open opens a datapath without phones. The test's end takes away what the test has left, but for the pins of maps and programs, which the
// next test adopts.
func open(t testing.TB, c datapath.Config) *datapath.Datapath {
	t.Helper()
	testenv.Root(t)
	t.Cleanup(func() {
		c := c
		c.Dir = dir
		d, err := datapath.Open(c)
		if err != nil {
			t.Error(err)
			return
		}
		defer d.Close()
		if err := d.Clear(); err != nil {
			t.Error(err)
		}
		nothing(t, d)
	})
	return reopen(t, c)
}

// cold opens a datapath where there are no pins; the test's end removes them.
func cold(t testing.TB, c datapath.Config) *datapath.Datapath {
	t.Helper()
	testenv.Root(t)
	remove := func() {
		if err := datapath.Remove("/sys/fs/bpf/phonehost"); err != nil {
			t.Error(err)
		}
	}
	remove()
	t.Cleanup(remove)
	return reopen(t, c)
}

// reopen opens a datapath once more; the test's end closes it.
func reopen(t testing.TB, c datapath.Config) *datapath.Datapath {
	t.Helper()
	c.Dir = dir
	d, err := datapath.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() }) // closed already by some tests, which want its error
	return d
}

// mechanisms are the ways to attach; each test that attaches runs with both.
func mechanisms(t *testing.T, test func(t *testing.T, c datapath.Config)) {
	for _, filters := range []bool{false, true} {
		name := map[bool]string{false: "TCX", true: "clsact"}[filters]
		t.Run(name, func(t *testing.T) {
			c := datapath.Config{Filters: filters}
			if !filters && !haveTCX(t) {
				t.Skip("this kernel has no TCX: " + name)
			}
			test(t, c)
		})
	}
}

// haveTCX tells whether the kernel has TCX, by its release: what the datapath finds by trying.
func haveTCX(t testing.TB) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(text), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 6
}

// device makes a veth pair with both ends on the host, down, and returns the first.
func device(t testing.TB, name string) *netlink.Veth {
	t.Helper()
	testenv.Root(t)
	pair := netlink.NewVeth(netlink.LinkAttrs{Name: name})
	pair.PeerName = "peer-" + name
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) }) // gone already in some tests
	return link.(*netlink.Veth)
}

func mac(text string) net.HardwareAddr {
	m, err := net.ParseMAC(text)
	if err != nil {
		panic(err)
	}
	return m
}

// phoneIn is a phone in a slot, with addresses of its own.
func phoneIn(slot uint32) datapath.Phone {
	return datapath.Phone{
		Slot: slot, Policy: 0, IPv4: netip.AddrFrom4([4]byte{10, 213, byte(slot >> 8), byte(slot)}).Next().Next(), Gateway4: netip.MustParseAddr("10.213.0.1"), Prefix4: 16,
		IPv6: netip.MustParseAddr(fmt.Sprintf("fd70:686f:6e65::%x", slot+2)), Gateway6: netip.MustParseAddr("fd70:686f:6e65::1"),
		MAC: mac("02:00:00:00:01:02"), GatewayMAC: mac("02:00:00:00:01:01"),
	}
}

// nothing fails the test if maps hold anything of phones, or anything is attached.
func nothing(t testing.TB, d *datapath.Datapath) {
	t.Helper()
	have, err := d.Elements()
	if err != nil {
		t.Fatal(err)
	}
	if len(have) > 0 {
		t.Errorf("the maps still hold %v elements", have)
	}
	attached, err := d.Attached()
	if err != nil || len(attached) > 0 {
		t.Errorf("attached are still %v, %v", attached, err)
	}
	entries, err := os.ReadDir(dir + "/v1/draining")
	if err != nil || len(entries) > 0 {
		t.Errorf("%v are still being drained, %v", entries, err)
	}
}

// contains fails the test unless an error is there and says something.
func contains(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want one with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error is %q; it should say %q", err, part)
		}
	}
}
