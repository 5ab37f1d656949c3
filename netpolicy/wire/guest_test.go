package wire

import (
	"bufio"
	"testing"
)

// TestWhatAGuestDoesToItsEndIsMended lets a guest with CAP_NET_ADMIN break its link in each way that the package's comment names.
func TestWhatAGuestDoesToItsEndIsMended(t *testing.T) {
	l := newLab(t)
	p := phone("p1", 0)
	l.ensure(t, p)
	want := l.settled(t, p)
	for _, c := range []struct{ name, script string }{
		{"down", "ip link set eth0 down"},
		{"renamed", "ip link set eth0 down; ip link set eth0 name wlan0"},
		{"renamed and up again", "ip link set eth0 down; ip link set eth0 name wlan0 up"},
		{"a second name", "ip link set eth0 down; ip link set eth0 name wlan0; ip link property add dev wlan0 altname eth0"},
		{"another's addresses", "ip addr flush dev eth0 scope global; ip addr add 10.213.9.9/16 dev eth0; ip addr add fd70:686f:6e65::99/64 dev eth0 nodad"},
		{"no addresses", "ip addr flush dev eth0"},
		{"another MAC", "ip link set eth0 address 02:00:00:00:00:99"},
		{"a small MTU, which takes IPv6 away", "ip link set eth0 mtu 600"},
		{"another default route", "ip route replace default via 10.213.0.77; ip -6 route replace default via fe80::77 dev eth0"},
		{"two default routes", "ip route add default via 10.213.0.77 metric 5; ip -6 route add default via fe80::77 dev eth0 metric 5"},
		{"no routes", "ip route flush dev eth0; ip -6 route del default"},
		{"no neighbours", "ip neigh flush dev eth0 nud permanent; ip -6 neigh flush dev eth0 nud permanent"},
		{"another's neighbours", "ip neigh replace 10.213.0.1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent; ip neigh add 10.213.0.88 lladdr 02:00:00:00:00:99 dev eth0 nud permanent"},
		{"IPv6 off", "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1"},
		{"deleted", "ip link del eth0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.guest(p.ID).Run(t, "sh", "-ec", c.script)
			l.ensure(t, p)
			l.same(t, p, want, c.name)
			l.reaches(t, p.ID)
		})
	}
	t.Run("a bridge over it", func(t *testing.T) {
		l.guest(p.ID).Run(t, "sh", "-ec", "ip link add br0 type bridge; ip link set eth0 master br0")
		l.ensure(t, p)
		l.guest(p.ID).Run(t, "ip", "link", "del", "br0")
		l.same(t, p, want, "a bridge")
	})
	t.Run("its name taken", func(t *testing.T) {
		l.guest(p.ID).Run(t, "sh", "-ec", "ip link set eth0 down; ip link set eth0 name wlan0; ip link add eth0 type bridge; ip link set eth0 up")
		l.ensure(t, p)
		l.guest(p.ID).Run(t, "ip", "link", "del", "guest0")
		l.same(t, p, want, "its name taken")
	})
	t.Run("deleted and its name taken", func(t *testing.T) {
		l.guest(p.ID).Run(t, "sh", "-ec", "ip link del eth0; ip link add eth0 type bridge; ip link set eth0 up")
		l.ensure(t, p)
		l.guest(p.ID).Run(t, "ip", "link", "del", "guest0")
		l.same(t, p, want, "deleted and its name taken")
	})
}

// TestALinkThatIsNotWhereItBelongsIsMadeAnew moves the phone's end away, and the namespace.
func TestALinkThatIsNotWhereItBelongsIsMadeAnew(t *testing.T) {
	l := newLab(t)
	p := phone("p1", 0)
	before := l.ensure(t, p)
	want := l.settled(t, p)

	// A process with a namespace below the guest's, which lives until its input ends.
	cmd := l.guest(p.ID).Command(t, "unshare", "-n", "sh", "-c", "echo $$; exec cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	line := bufio.NewScanner(out)
	if !line.Scan() {
		t.Fatal("no process in a namespace below the guest's")
	}
	l.guest(p.ID).Run(t, "ip", "link", "set", "eth0", "netns", line.Text())
	link, err := l.Ensure(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if link.Up || link.Index == before.Index {
		t.Errorf("the pair made anew is %+v: want another index than %d, and down", link, before.Index)
	}
	l.ensure(t, p)
	l.same(t, p, want, "moved away")
	l.reaches(t, p.ID)

	if err := l.names.Delete(p.ID); err != nil {
		t.Fatal(err)
	}
	l.ensure(t, p)
	l.same(t, p, want, "its namespace gone")
	l.reaches(t, p.ID)
}
