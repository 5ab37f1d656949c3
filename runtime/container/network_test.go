package container_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNetwork calls fn on a thread that is in a network namespace. The thread is not used again.
func inNetwork(path string, fn func() error) (err error) {
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		f, openErr := os.Open(path)
		if openErr != nil {
			err = openErr
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
			err = fn()
		}
	})
	done.Wait()
	return err
}

// TestNetworkIsThereBeforeInit gives a phone an interface at the place that there is for it, between its network namespace and its start:
// init finds it, with its address. It stays over a restart of the guest, and other phones do not see it.
func TestNetworkIsThereBeforeInit(t *testing.T) {
	h := newHost(t)
	p, other := h.phone("p1", 0), h.phone("p2", 1)
	h.prepare(p)
	h.prepare(other)
	err := inNetwork(h.networks.Path("p1"), func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: "eth0"})
		veth.PeerName = "uplink"
		address, err := netlink.ParseAddr("192.0.2.7/24")
		return errors.Join(err, netlink.LinkAdd(veth), netlink.AddrAdd(veth, address))
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		h.start(p)
		h.booted("p1")
		if text := h.shell("p1", "cat /proc/net/dev"); !strings.Contains(text, "eth0:") {
			t.Errorf("the guest's interfaces:\n%s", text)
		}
		if text := h.shell("p1", "cat /proc/net/fib_trie"); !strings.Contains(text, "192.0.2.7") {
			t.Errorf("the guest's addresses:\n%s", text)
		}
		if err := h.engine.RemoveGuest(t.Context(), "p1"); err != nil {
			t.Fatal(err)
		}
		p.BootGeneration++
	}
	h.start(other)
	if text := h.shell("p2", "cat /proc/net/dev"); strings.Contains(text, "eth0:") {
		t.Errorf("another guest's interfaces:\n%s", text)
	}
}
