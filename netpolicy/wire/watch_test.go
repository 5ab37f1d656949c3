package wire

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// next waits for a signal of Watch.
func next(t testing.TB, changed <-chan struct{}, after string) {
	t.Helper()
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Errorf("Watch says nothing of %s", after)
	}
}

func TestWatchTellsOfChanges(t *testing.T) {
	l := newLab(t)
	p := phone("p1", 0)
	l.ensure(t, p)
	leaks := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(t.Context())
	changed := l.Watch(ctx)
	for _, script := range []string{
		"ip link set up-server mtu 1400",
		"ip link set up-server mtu 1500",
		"ip addr add 198.51.100.1/24 dev up-server",
		"ip addr del 198.51.100.1/24 dev up-server",
		"ip route add 10.77.0.0/16 via 9.9.9.9 table 77",
		"ip route flush table 77",
		"ip -6 addr add 2001:db8:7::1/64 dev up-server",
		"ip route change default via 9.9.9.9 mtu 1300",
		"sysctl -qw net.ipv4.conf.up-server.forwarding=0",
		"ip link add other type bridge && ip addr add 198.51.100.9/32 dev other && ip link set other up",
		"ip link del other",
		"ip route del default",
	} {
		run(t, "sh", "-ec", script)
		next(t, changed, script)
	}
	cancel()
	for range changed { // until it is closed
	}
	goleak.VerifyNone(t, leaks)
}

func TestWatchDoesNotTellOfPhones(t *testing.T) {
	l := newLab(t)
	p := phone("p1", 0)
	l.ensure(t, p)
	before := l.state()
	if before.err != "" || len(before.found) == 0 || len(before.uplinks) != 1 {
		t.Fatalf("the state is %+v", before)
	}
	s, err := l.subscribe(watched...)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ours, err := l.ourLinks()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.ensure(t, p)
		l.ensure(t, phone("p2", 1))
		if now := l.state(); !now.equal(before) {
			t.Errorf("a phone changes what Watch compares:\n%+v\n%+v", before, now)
		}
		if err := l.Remove(t.Context(), "p2"); err != nil {
			t.Fatal(err)
		}
	}
	// What the kernel announces once a link has its alias is known to be of a phone, up to a mark.
	l.ensure(t, phone("p3", 2))
	run(t, "ip", "link", "add", "mark", "type", "bridge")
	defer tidy("ip", "link", "del", "mark")
	known, all := 0, 0
	for marked := false; !marked; {
		timeout := unix.NsecToTimeval(int64(10 * time.Second))
		if err := s.SetReceiveTimeout(&timeout); err != nil {
			t.Fatal(err)
		}
		messages, _, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			marked = marked || m.Header.Type == unix.RTM_NEWLINK && strings.Contains(string(m.Data), "mark\x00")
			if all++; !matters(m.Header.Type, m.Data, ours) {
				known++
			}
		}
	}
	if known < all/2 {
		t.Errorf("of %d announcements about phones %d make Watch look", all, all-known)
	}
}

// TestWatchHearsAgainAfterLosses gives Watch a buffer in which two announcements have no room.
func TestWatchHearsAgainAfterLosses(t *testing.T) {
	l := newLab(t)
	l.receive = 1
	ctx, cancel := context.WithCancel(t.Context())
	changed := l.Watch(ctx)
	batch := strings.Repeat("ip route add 10.77.0.0/16 dev up-server table 78; ip route del 10.77.0.0/16 dev up-server table 78\n", 20)
	for _, mtu := range []string{"1400", "1390", "1380", "1370"} {
		run(t, "sh", "-ec", batch+"ip link add a0 type veth peer name a1; ip link del a0; ip link set up-server mtu "+mtu)
		next(t, changed, "an MTU of "+mtu)
	}
	cancel()
	for range changed {
	}
}

// TestRouterAdvertisementsAreStillTaken has the server announce itself as a router after the host has begun to forward.
func TestRouterAdvertisementsAreStillTaken(t *testing.T) {
	for _, global := range []bool{false, true} {
		t.Run(fmt.Sprintf("forwarding on all links %t", global), func(t *testing.T) {
			l := newLab(t)
			l.global = global
			t.Cleanup(func() { resetForwarding(t) })
			l.ensure(t, phone("p1", 0))
			changed := l.Watch(t.Context())
			l.advertise(t)
			next(t, changed, "a router advertisement")
			if text := run(t, "ip", "-6", "addr", "show", "dev", uplinkName, "dynamic"); !strings.Contains(text, "2620:77:") {
				t.Errorf("the advertised prefix gives no address:\n%s", text)
			}
			if text := run(t, "ip", "-6", "route", "show", "default", "proto", "ra"); !strings.Contains(text, uplinkName) {
				t.Errorf("there is no default route by the router:\n%s", text)
			}
		})
	}
}

// advertise sends a router advertisement (RFC 4861, section 4.2) with a prefix from the server.
func (l lab) advertise(t testing.TB) {
	t.Helper()
	err := l.server.Do(func() error {
		conn, err := net.ListenPacket("ip6:ipv6-icmp", "::")
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.(*net.IPConn).SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
		}); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		message := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0} // lifetime 1800 s; the kernel fills in the checksum
		prefix := []byte{3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0, 0x26, 0x20, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		_, err = conn.WriteTo(append(message, prefix...), &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: "eth0"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
