package wire

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPoolsThatTheHostUsesAreRefused(t *testing.T) {
	l := newLab(t)
	l.ensure(t, phone("p1", 0)) // what is ours is no overlap
	if err := l.CheckPools(); err != nil {
		t.Fatalf("a pool that is free: %v", err)
	}
	for _, c := range []struct {
		name, add, remove string
		says              []string
	}{
		{"an address", "ip addr add 10.213.4.1/32 dev side", "ip addr del 10.213.4.1/32 dev side",
			[]string{"pool 10.213.0.0/16", "10.213.4.1/32", "an address on interface side", "set network.ipv4_pool", "such as 10.214.0.0/16"}},
		{"a connected network", "ip addr add 10.213.4.1/24 dev side", "ip addr del 10.213.4.1/24 dev side",
			[]string{"10.213.4.0/24", "interface side", "network.ipv4_pool"}},
		{"a network around it", "ip addr add 10.9.9.9/8 dev side", "ip addr del 10.9.9.9/8 dev side",
			[]string{"overlaps with 10.0.0.0/8", "interface side"}},
		{"a static route", "ip route add 10.213.128.0/17 via 9.9.9.9", "ip route del 10.213.128.0/17",
			[]string{"10.213.128.0/17", "a route on interface up-server", "network.ipv4_pool"}},
		{"a route of another table", "ip route add 10.213.5.0/24 dev up-server table 77", "ip route flush table 77",
			[]string{"10.213.5.0/24", "a route of table 77 on interface up-server"}},
		{"a route to nowhere", "ip route add blackhole 10.213.64.0/18", "ip route del blackhole 10.213.64.0/18",
			[]string{"10.213.64.0/18", "(a route)"}},
		{"a route by several links", "ip route add 10.213.5.0/24 nexthop via 9.9.9.9 nexthop dev side", "ip route del 10.213.5.0/24",
			[]string{"10.213.5.0/24", "a route on interface up-server"}},
		{"a local network", "ip route add local 10.213.6.0/24 dev lo", "ip route del local 10.213.6.0/24 dev lo table local",
			[]string{"10.213.6.0/24", "a route of table local on interface lo"}},
		{"an IPv6 address", "ip addr add fd70:686f:6e65::5/128 dev side nodad", "ip addr del fd70:686f:6e65::5/128 dev side",
			[]string{"pool fd70:686f:6e65::/64", "fd70:686f:6e65::5/128", "interface side", "network.ipv6_pool", "such as fd70:686f:6e65:1::/64"}},
		{"an IPv6 route of another table", "ip -6 route add fd70:686f::/32 dev up-server table 77", "ip -6 route flush table 77",
			[]string{"fd70:686f::/32", "a route of table 77 on interface up-server", "network.ipv6_pool"}},
		{"a default route in pieces", "ip route add 0.0.0.0/1 via 9.9.9.9", "ip route del 0.0.0.0/1", nil},
		{"a default route of another table", "ip route add default via 9.9.9.9 table 77", "ip route flush table 77", nil},
		{"a network beside it", "ip addr add 10.212.4.1/16 dev side", "ip addr del 10.212.4.1/16 dev side", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, "ip", "link", "add", "side", "type", "bridge")
			t.Cleanup(func() { tidy("ip", "link", "del", "side") })
			run(t, "ip", "link", "set", "side", "up")
			run(t, "sh", "-ec", c.add)
			err := l.CheckPools()
			run(t, "sh", "-ec", c.remove)
			if len(c.says) == 0 {
				if err != nil {
					t.Errorf("CheckPools: %v", err)
				}
				return
			}
			if !errdefs.IsFailedPrecondition(err) {
				t.Fatalf("CheckPools = %v, want a failed precondition", err)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("CheckPools = %v, want it to say %q", err, want)
				}
			}
			if err := l.CheckPools(); err != nil {
				t.Errorf("once it is gone: %v", err)
			}
		})
	}
}
