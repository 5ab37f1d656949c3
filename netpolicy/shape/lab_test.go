package shape_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phonehost/phonehost/netpolicy/shape"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

func TestMain(m *testing.M) { os.Exit(netlab.Run(m)) }

const (
	phoneAddress  = "10.213.0.2"
	serverAddress = "192.0.2.2"
)

// lab is a phone, the host that the test is in, and a server behind it.
type lab struct {
	id            string
	phone, server netlab.Namespace
	link          netlink.Link // the host's end of the phone's link
}

// newLab makes one with a server that is delay away, each way. The phone's link is called as netpolicy/wire calls it.
func newLab(t testing.TB, delay time.Duration) lab {
	t.Helper()
	testenv.Root(t)
	l := lab{id: "shaped", phone: netlab.Make(t, "phone"), server: netlab.Make(t, "server")}
	l.link = l.phone.Wire(t, []string{"10.213.0.1/24"}, []string{phoneAddress + "/24"})
	if delay == 0 {
		l.server.Wire(t, []string{"192.0.2.1/24"}, []string{serverAddress + "/24"})
	} else {
		farAway(t, l.server, delay)
	}
	name := "ph-" + shape.UploadName(l.id)[len("phu-"):]
	for _, step := range []func() error{
		func() error { return netlink.LinkSetDown(l.link) },
		func() error { return netlink.LinkSetName(l.link, name) },
		func() error { return netlink.LinkSetUp(l.link) },
		func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	l.link.Attrs().Name = name
	t.Cleanup(func() {
		if err := shape.Clear(context.WithoutCancel(t.Context()), l.id); err != nil {
			t.Error(err)
		}
	})
	return l
}

// limit sets the phone's limits in bit/s.
func (l lab) limit(t testing.TB, up, down uint64) {
	t.Helper()
	if err := shape.Set(t.Context(), l.link.Attrs().Index, l.id, up, down); err != nil {
		t.Fatal(err)
	}
}

// answers sends datagrams from the phone to the server, and returns how many of them came back within patience.
func (l lab) answers(t *testing.T, count int, patience time.Duration) (n int) {
	t.Helper()
	phone, server := bind(t, l.phone, phoneAddress), bind(t, l.server, serverAddress)
	defer phone.Close()
	defer server.Close()
	buf := make([]byte, 64)
	for range count {
		if _, err := phone.WriteTo(buf[:8], server.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	must(t, server.SetReadDeadline(time.Now().Add(patience)))
	for range count {
		m, from, err := server.ReadFrom(buf)
		if err != nil {
			return n
		}
		if _, err := server.WriteTo(buf[:m], from); err != nil {
			t.Fatal(err)
		}
		must(t, phone.SetReadDeadline(time.Now().Add(patience)))
		if _, _, err := phone.ReadFrom(buf); err != nil {
			return n
		}
		n++
	}
	return n
}

// reachable checks that packets go round between the phone and the server.
func (l lab) reachable(t *testing.T) {
	t.Helper()
	if n := l.answers(t, 1, 5*time.Second); n != 1 {
		t.Error("the server does not answer the phone")
	}
}
