package nat_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// startUfw enables ufw as it is delivered, with a copy of its configuration. It is no package of scripts/deps, like the others.
func startUfw(t testing.TB) {
	t.Helper()
	installed(t, "ufw")
	config := filepath.Join(t.TempDir(), "ufw")
	if err := os.CopyFS(config, os.DirFS("/etc/ufw")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(config, "/etc/ufw", "", unix.MS_BIND, ""); err != nil { // in the mount namespace of the test
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/etc/ufw", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	finally(t, "ufw", "--force", "disable")
	run(t, "ufw", "--force", "enable")
}

// ufw itself: it lets nothing of phones through, in either family, neither to the world nor to the name server.
func TestUfw(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	serveTCP(t, l.server, addrPort(server4, 80))
	serveTCP(t, l.server, addrPort(server6, 80))
	serveTCP(t, p, addrPort(p.IPv4, 5555))
	serveUDP(t, onHost{}, addrPort(gateway4, 53))
	n := newNAT(t, nil)
	forwards := []nat.Forward{adb(p, 6001), {Listen: addrPort(host4, 6002), Protocol: policy.TCP, Phone: p.IPv4, Port: 5555}}
	apply(t, n, forwards...)
	startUfw(t)
	before := others(t)
	found := conflicts(t, n)
	wantOthers(t, "a trial", before)
	if len(found) != 4 {
		t.Errorf("%d conflicts; want the world and names, of each family", len(found))
	}
	for _, c := range found {
		t.Log(c)
		if c.Owner != "ufw" {
			t.Errorf("%+v; want ufw to be named", c)
		}
	}
	wantNothing(t, p, "tcp", addrPort(server4, 80))
	for _, c := range found {
		for _, command := range c.Mend {
			run(t, "sh", "-c", command)
		}
	}
	if left := conflicts(t, n); len(left) != 0 {
		t.Errorf("after the commands: %v", left)
	}
	wantSeenAs(t, p, "tcp", addrPort(server4, 80), host4)
	wantSeenAs(t, p, "tcp", addrPort(server6, 80), host6)
	wantSeenAs(t, p, "udp", addrPort(gateway4, 53), p.IPv4)
	wantSeenAs(t, l.server, "tcp", addrPort(host4, 6002), server4)
	wantSeenAs(t, onHost{}, "tcp", addrPort(loopback4, 6001), gateway4)
	wantKept(t, n, p, forwards...)
}
