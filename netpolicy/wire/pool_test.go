package wire

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPoolsHandOutAddresses(t *testing.T) {
	for _, c := range []struct {
		pool, gateway, first, lastOne string
		size                          uint64
	}{
		{"10.213.0.0/16", "10.213.0.1", "10.213.0.2", "10.213.255.254", 65533},
		{"10.0.0.0/8", "10.0.0.1", "10.0.0.2", "10.255.255.254", 1<<24 - 3},
		{"192.168.7.8/29", "192.168.7.9", "192.168.7.10", "192.168.7.14", 5},
		{"fd70:686f:6e65::/64", "fd70:686f:6e65::1", "fd70:686f:6e65::2", "fd70:686f:6e65:0:ffff:ffff:ffff:ffff", math.MaxUint64 - 1},
		{"fd70::/126", "fd70::1", "fd70::2", "fd70::3", 2},
		{"fd70::/48", "fd70::1", "fd70::2", "fd70:0:0:1::", math.MaxUint64},
	} {
		pool := netip.MustParsePrefix(c.pool)
		if got := Gateway(pool).String(); got != c.gateway {
			t.Errorf("Gateway(%s) = %s, want %s", pool, got, c.gateway)
		}
		if got := Size(pool); got != c.size {
			t.Errorf("Size(%s) = %d, want %d", pool, got, c.size)
		}
		if got := Nth(pool, 0).String(); got != c.first {
			t.Errorf("Nth(%s, 0) = %s, want %s", pool, got, c.first)
		}
		if got := Nth(pool, c.size-1).String(); got != c.lastOne {
			t.Errorf("Nth(%s, %d) = %s, want %s", pool, c.size-1, got, c.lastOne)
		}
		if got := Nth(pool, c.size); got.IsValid() {
			t.Errorf("Nth(%s, %d) = %s, want none", pool, c.size, got)
		}
		for _, n := range []uint64{0, 1, c.size / 2, c.size - 1} {
			if err := Usable(pool, Nth(pool, n)); n < c.size && err != nil {
				t.Errorf("Usable(%s, Nth %d): %v", pool, n, err)
			}
		}
	}
}

func TestAddressesThatNoPhoneMayHave(t *testing.T) {
	for _, c := range []struct{ pool, address, says string }{
		{"10.213.0.0/16", "10.213.0.0", "the network's own"},
		{"10.213.0.0/16", "10.213.0.1", "the gateway's: choose one from 10.213.0.2 to 10.213.255.254"},
		{"10.213.0.0/16", "10.213.255.255", "broadcast"},
		{"10.213.0.0/16", "10.214.0.5", "not in the pool"},
		{"10.213.0.0/16", "fd70::5", "not in the pool"},
		{"10.213.0.0/16", "::ffff:10.213.0.5", "not in the pool"},
		{"fd70::/64", "fd70::", "the network's own"},
		{"fd70::/64", "fd70::1", "the gateway's"},
		{"fd70::/64", "fd70::5%eth0", "not in the pool"},
		{"fd70::/64", "", "missing"},
	} {
		address, _ := netip.ParseAddr(c.address)
		err := Usable(netip.MustParsePrefix(c.pool), address)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Usable(%s, %s) = %v, want an invalid argument that says %q", c.pool, c.address, err, c.says)
		}
	}
	if err := Usable(netip.MustParsePrefix("fd70::/64"), netip.MustParseAddr("fd70::ffff:ffff:ffff:ffff")); err != nil {
		t.Errorf("IPv6 has no broadcast: %v", err)
	}
}

func TestPoolsThatAreNone(t *testing.T) {
	for _, c := range []struct{ pool, says string }{
		{"", "no prefix"},
		{"10.213.0.1/16", "did you mean 10.213.0.0/16?"},
		{"10.0.0.0/7", "must be 8 to 29"},
		{"10.213.0.0/30", "must be 8 to 29"},
		{"fd00::/31", "must be 32 to 126"},
		{"fd00::/127", "must be 32 to 126"},
		{"127.0.0.0/16", "unicast"},
		{"169.254.0.0/16", "unicast"},
		{"224.0.0.0/16", "unicast"},
		{"240.0.0.0/16", "unicast"},
		{"0.0.0.0/16", "unicast"},
		{"fe80::/64", "unicast"},
		{"ff02::/64", "unicast"},
		{"::ffff:10.213.0.0/112", "write it as IPv4"},
	} {
		pool, _ := netip.ParsePrefix(c.pool)
		err := CheckPool(pool)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("CheckPool(%s) = %v, want an invalid argument that says %q", c.pool, err, c.says)
		}
		if Gateway(pool).IsValid() || Nth(pool, 0).IsValid() || Size(pool) != 0 {
			t.Errorf("pool %s hands out addresses", c.pool)
		}
	}
	for _, c := range []Config{
		{Pool4: pool6}, {Pool4: pool4, Pool6: netip.MustParsePrefix("10.1.0.0/16")}, {}, {Pool4: pool4, Pool6: netip.MustParsePrefix("fe80::/64")},
	} {
		if _, err := New(c); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "network.ipv") {
			t.Errorf("New(%v) = %v, want an invalid argument with the key to change", c, err)
		}
	}
}

func TestNamesAndMACsComeFromTheIDAlone(t *testing.T) {
	if got, want := LinkName("p1"), "ph-5321c4f3e0"; len(got) != 13 || !hostName.MatchString(got) {
		t.Errorf("LinkName = %s, want like %s", got, want)
	}
	seen := map[string]bool{}
	for _, id := range []string{"p1", "p2", "guest:p1", "host:p1"} {
		guest, host := MACs(id)
		for _, m := range []string{guest.String(), host.String()} {
			if seen[m] {
				t.Errorf("MAC %s is given out twice", m)
			}
			seen[m] = true
		}
		if guest[0]&3 != 2 || host[0]&3 != 2 {
			t.Errorf("MACs of %s are %s and %s: want unicast, locally administered", id, guest, host)
		}
	}
	if got := linkLocal([]byte{0x02, 0, 0, 0, 0, 1}).String(); got != "fe80::ff:fe00:1" {
		t.Errorf("linkLocal = %s", got)
	}
	if _, ok := owner("ph-0000000000", "phonehost:p1"); ok {
		t.Error("an alias of a link with another name counts")
	}
}
