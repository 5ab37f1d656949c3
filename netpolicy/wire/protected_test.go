package wire

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

func TestProtectedAddresses(t *testing.T) {
	l := newLab(t)
	l.ensure(t, phone("p1", 0))
	run(t, "ip", "link", "add", "lan", "type", "bridge")
	t.Cleanup(func() { tidy("ip", "link", "del", "lan") })
	run(t, "sh", "-ec", `ip link set lan up
		ip addr add 192.168.7.1/24 dev lan
		ip addr add 8.8.4.1 peer 8.8.4.2/32 dev lan
		ip route add 10.50.0.0/16 via 192.168.7.9
		ip route add 11.0.0.0/8 via 192.168.7.9 table 77
		ip route add local 12.1.0.0/24 dev lo
		ip route add 0.0.0.0/1 via 192.168.7.9
		ip route add 169.254.169.254 dev lan
		ip -6 route add fd55::/48 dev lan`)
	t.Cleanup(func() { tidy("sh", "-c", "ip route flush table 77; ip route del local 12.1.0.0/24 dev lo table local") })
	all, err := l.Protected(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cells := policy.CompileAddresses(all)
	for _, c := range []struct {
		address string
		class   uint8
		prefix  string
	}{
		{"10.213.0.1", ClassHost, "10.213.0.1/32"}, // the gateway
		{"10.213.0.2", ClassPhone, "10.213.0.0/16"},
		{"10.213.77.77", ClassPhone, "10.213.0.0/16"},
		{"fd70:686f:6e65::1", ClassHost, "fd70:686f:6e65::1/128"},
		{"fd70:686f:6e65::2", ClassPhone, "fd70:686f:6e65::/64"},
		{"fe80::1", ClassHost, "fe80::1/128"},
		{"9.9.9.1", ClassHost, "9.9.9.1/32"},
		{"9.9.9.9", ClassNetwork, "9.9.9.0/24"},
		{"2620:fe::1", ClassHost, "2620:fe::1/128"},
		{"2620:fe::9", ClassNetwork, "2620:fe::/64"},
		{"192.168.7.1", ClassHost, "192.168.7.1/32"},
		{"192.168.7.200", ClassNetwork, "192.168.7.0/24"},
		{"192.168.8.1", ClassPrivate, "192.168.0.0/16"},
		{"8.8.4.1", ClassHost, "8.8.4.1/32"},
		{"8.8.4.2", ClassNetwork, "8.8.4.2/32"},
		{"10.50.1.1", ClassNetwork, "10.50.0.0/16"},
		{"11.2.3.4", ClassNetwork, "11.0.0.0/8"},
		{"12.1.0.9", ClassHost, "12.1.0.0/24"},
		{"10.1.1.1", ClassPrivate, "10.0.0.0/8"},
		{"172.31.0.1", ClassPrivate, "172.16.0.0/12"},
		{"100.64.0.1", ClassPrivate, "100.64.0.0/10"},
		{"fd55::7", ClassNetwork, "fd55::/48"},
		{"fdaa::7", ClassPrivate, "fc00::/7"},
		{"169.254.169.254", ClassMetadata, "169.254.169.254/32"}, // the route to it changes nothing
		{"169.254.1.1", ClassLinkLocal, "169.254.0.0/16"},
		{"fd00:ec2::254", ClassMetadata, "fd00:ec2::254/128"},
		{"168.63.129.16", ClassMetadata, "168.63.129.16/32"},
		{"fe80::abcd", ClassLinkLocal, "fe80::/64"}, // links' own
		{"fe80:1::1", ClassLinkLocal, "fe80::/10"},
		{"127.0.0.1", ClassHost, "127.0.0.1/32"},
		{"127.4.4.4", ClassHost, "127.0.0.0/8"},
		{"0.0.0.0", ClassReserved, "0.0.0.0/8"},
		{"192.0.2.5", ClassReserved, "192.0.2.0/24"},
		{"198.19.0.1", ClassReserved, "198.18.0.0/15"},
		{"255.255.255.255", ClassReserved, "255.255.255.255/32"},
		{"::1", ClassHost, "::1/128"},
		{"::7f00:1", ClassReserved, "::/96"},
		{"2001:db8::1", ClassReserved, "2001:db8::/32"},
		{"2002:7f00:1::", ClassReserved, "2002::/16"},
		{"64:ff9b::10.1.1.1", ClassPrivate, "64:ff9b::a00:0/104"},
		{"64:ff9b::169.254.169.254", ClassMetadata, "64:ff9b::a9fe:a9fe/128"},
		{"64:ff9b::9.9.9.1", ClassHost, "64:ff9b::909:901/128"},
		{"64:ff9b:1::1", ClassReserved, "64:ff9b:1::/48"},
	} {
		class, bits := policy.LookupAddress(cells, netip.MustParseAddr(c.address))
		prefix := netip.MustParsePrefix(c.prefix)
		want := prefix.Bits() + 128 - prefix.Addr().BitLen()
		if class != c.class || bits != want {
			t.Errorf("%s is of class %d with %d bits, want %d with %d: %s", c.address, class, bits, c.class, want, c.prefix)
		}
	}
	for _, a := range []string{"8.8.8.8", "1.1.1.1", "9.9.8.9", "192.31.196.1", "172.32.0.1", "100.128.0.1", "2620:fe:1::9", "2a00::1", "64:ff9b::8.8.8.8"} {
		if class, bits := policy.LookupAddress(cells, netip.MustParseAddr(a)); class != 0 {
			t.Errorf("%s is of class %d with %d bits, want it to be of the internet", a, class, bits)
		}
	}
	if !slices.IsSortedFunc(all, func(a, b policy.AddressClass) int { return compare(a.Prefix, b.Prefix) }) {
		t.Error("the list is not sorted")
	}
	seen := map[netip.Prefix]bool{}
	for _, a := range all {
		if seen[a.Prefix] || a.Prefix != a.Prefix.Masked() || a.Class == 0 {
			t.Errorf("%v is listed twice, unmasked or of no class", a)
		}
		seen[a.Prefix] = true
	}
}
