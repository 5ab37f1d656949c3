package nat_test

import (
	"net/netip"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

func TestMasquerade(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	for _, network := range []string{"tcp", "udp"} {
		serve := map[string]func(testing.TB, place, netip.AddrPort){"tcp": serveTCP, "udp": serveUDP}[network]
		serve(t, l.server, addrPort(server4, 80))
		serve(t, l.server, addrPort(server6, 80))
	}
	for _, test := range []struct {
		name              string
		four, six         bool
		wantFour, wantSix netip.Addr
	}{
		{"both families", true, true, host4, host6},
		{"IPv6 routed", true, false, host4, p.IPv6},
		{"IPv4 routed", false, true, p.IPv4, host6},
		{"both routed", false, false, p.IPv4, p.IPv6},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNAT(t, func(c *nat.Config) { c.Masquerade4, c.Masquerade6 = test.four, test.six })
			apply(t, n)
			for _, network := range []string{"tcp", "udp"} {
				wantSeenAs(t, p, network, addrPort(server4, 80), test.wantFour)
				wantSeenAs(t, p, network, addrPort(server6, 80), test.wantSix)
			}
		})
	}
}

// A phone is seen by its own address by another, where a policy lets them meet.
func TestPhonesAreNotTranslatedForOneAnother(t *testing.T) {
	l := newLab(t)
	a, b := l.phone(t, 2), l.phone(t, 3)
	sysctl(t, "net/ipv4/conf/"+a.link+"/proxy_arp", "1")
	a.Run(t, "ip", "route", "add", b.IPv4.String(), "via", gateway4.String())
	b.Run(t, "ip", "route", "add", a.IPv4.String(), "via", gateway4.String())
	a.Run(t, "ip", "-6", "route", "add", b.IPv6.String(), "via", gateway6.String())
	b.Run(t, "ip", "-6", "route", "add", a.IPv6.String(), "via", gateway6.String())
	serveTCP(t, b, addrPort(b.IPv4, 80))
	serveTCP(t, b, addrPort(b.IPv6, 80))
	apply(t, newNAT(t, nil))
	wantSeenAs(t, a, "tcp", addrPort(b.IPv4, 80), a.IPv4)
	wantSeenAs(t, a, "tcp", addrPort(b.IPv6, 80), a.IPv6)
}

func TestForwards(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	loopback := netip.MustParseAddr("127.0.0.1")
	servers := map[string]func(testing.TB, place, netip.AddrPort){"tcp": serveTCP, "udp": serveUDP}
	for _, serve := range servers {
		serve(t, p, addrPort(p.IPv4, 5555))
		serve(t, p, addrPort(p.IPv6, 5555))
	}
	var forwards []nat.Forward
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		forwards = append(forwards,
			nat.Forward{Listen: addrPort(loopback, 6001), Protocol: protocol, Phone: p.IPv4, Port: 5555},
			nat.Forward{Listen: addrPort(host4, 6002), Protocol: protocol, Phone: p.IPv4, Port: 5555},
			nat.Forward{Listen: addrPort(netip.IPv4Unspecified(), 6003), Protocol: protocol, Phone: p.IPv4, Port: 5555},
			nat.Forward{Listen: addrPort(host6, 6002), Protocol: protocol, Phone: p.IPv6, Port: 5555},
			nat.Forward{Listen: addrPort(netip.IPv6Unspecified(), 6003), Protocol: protocol, Phone: p.IPv6, Port: 5555},
		)
	}
	apply(t, newNAT(t, nil), forwards...)
	for network := range servers {
		for _, test := range []struct {
			name string
			from place
			to   netip.AddrPort
			want netip.Addr // the zero value: nothing may answer
		}{
			{"loopback from the host", onHost{}, addrPort(loopback, 6001), gateway4},
			{"loopback from outside", l.server, addrPort(host4, 6001), netip.Addr{}},
			{"loopback from the phone", p, addrPort(gateway4, 6001), netip.Addr{}},
			{"other loopback address", onHost{}, netip.MustParseAddrPort("127.0.0.2:6001"), netip.Addr{}},
			{"address from outside", l.server, addrPort(host4, 6002), server4},
			{"address from the host", onHost{}, addrPort(host4, 6002), host4},
			{"address from its own phone", p, addrPort(host4, 6002), gateway4},
			{"another address", onHost{}, addrPort(loopback, 6002), netip.Addr{}},
			{"all from outside", l.server, addrPort(host4, 6003), server4},
			{"all from the host", onHost{}, addrPort(host4, 6003), host4},
			{"all from the host's loopback", onHost{}, addrPort(loopback, 6003), gateway4},
			{"all from its own phone", p, addrPort(host4, 6003), gateway4},
			{"IPv6 address from outside", l.server, addrPort(host6, 6002), server6},
			{"IPv6 address from the host", onHost{}, addrPort(host6, 6002), host6},
			{"IPv6 address from its own phone", p, addrPort(host6, 6002), gateway6},
			{"IPv6 all from outside", l.server, addrPort(host6, 6003), server6},
			{"IPv6 all from the host's loopback", onHost{}, addrPort(netip.IPv6Loopback(), 6003), netip.Addr{}},
		} {
			t.Run(network+" "+test.name, func(t *testing.T) {
				if test.want.IsValid() {
					wantSeenAs(t, test.from, network, test.to, test.want)
				} else {
					wantNothing(t, test.from, network, test.to)
				}
			})
		}
	}
}
