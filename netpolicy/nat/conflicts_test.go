package nat_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/nat"
)

// dockerRules are what dockerd leaves in the tables of iptables when it has switched forwarding on itself, as Docker 28 writes them.
const dockerRules = `
-P FORWARD DROP
-N DOCKER
-N DOCKER-FORWARD
-N DOCKER-CT
-N DOCKER-BRIDGE
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
`

// dockerNAT is Docker's translation, with a published port.
const dockerNAT = `
-N DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
`

// firewalldRules are the shape of what firewalld loads for a host whose links are all in the zone public.
const firewalldRules = `
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		jump filter_FORWARD_ZONES
		ct state invalid drop
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD_ZONES {
		goto filter_FWD_public
	}
	chain filter_FWD_public {
		reject with icmpx admin-prohibited
	}
	chain nat_POSTROUTING {
		type nat hook postrouting priority srcnat + 10; policy accept;
	}
}
`

// iptablesRules runs each line as arguments of a program of iptables and undoes them with the test.
func iptablesRules(t testing.TB, program, table, rules string) {
	t.Helper()
	if table == "filter" {
		finally(t, program, "-w", "-P", "FORWARD", "ACCEPT")
	}
	finally(t, program, "-w", "-t", table, "-X")
	finally(t, program, "-w", "-t", table, "-F")
	for line := range strings.Lines(strings.TrimSpace(rules)) {
		run(t, program, append([]string{"-w", "-t", table}, strings.Fields(line)...)...)
	}
}

// deleteTable deletes a table of nftables at the test's end.
func deleteTable(t testing.TB, name string) {
	t.Helper()
	finally(t, "nft", append([]string{"delete", "table"}, strings.Fields(name)...)...)
}

func conflicts(t testing.TB, n *nat.NAT) []nat.Conflict {
	t.Helper()
	found, err := n.Conflicts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Others' rules that drop phones' packets are found by trying, named, and mended by the commands that come with them: real traffic
// confirms both.
func TestConflicts(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	serveTCP(t, l.server, addrPort(server4, 80))
	serveTCP(t, l.server, addrPort(server6, 80))
	serveTCP(t, p, addrPort(p.IPv4, 5555))
	n := newNAT(t, nil)
	apply(t, n, nat.Forward{Listen: addrPort(host4, 6002), Protocol: 1, Phone: p.IPv4, Port: 5555})
	if found := conflicts(t, n); len(found) != 0 {
		t.Fatalf("on a host without rules: %v", found)
	}
	serveUDP(t, onHost{}, addrPort(gateway4, 53))
	serveUDP(t, onHost{}, addrPort(gateway6, 53))
	type blame struct {
		names, six          bool
		owner, table, chain string
	}
	for _, test := range []struct {
		name string
		set  func(t testing.TB)
		want []blame
	}{
		{"Docker", func(t testing.TB) {
			iptablesRules(t, "iptables", "filter", dockerRules)
			iptablesRules(t, "ip6tables", "filter", dockerRules)
			iptablesRules(t, "iptables", "nat", dockerNAT)
		}, []blame{{false, false, "Docker", "ip filter", "FORWARD"}, {false, true, "Docker", "ip6 filter", "FORWARD"}}},
		{"iptables", func(t testing.TB) {
			iptablesRules(t, "iptables", "filter", "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -j REJECT")
		}, []blame{{false, false, "iptables", "ip filter", "FORWARD"}}},
		{"legacy", func(t testing.TB) {
			iptablesRules(t, "iptables-legacy", "filter", "-P FORWARD DROP")
		}, []blame{{false, false, "iptables-legacy", "", ""}}},
		{"firewalld", func(t testing.TB) {
			nft(t, firewalldRules)
			deleteTable(t, "inet firewalld")
		}, []blame{{false, false, "firewalld", "inet firewalld", "filter_FWD_public"}, {false, true, "firewalld", "inet firewalld", "filter_FWD_public"}}},
		{"names by iptables", func(t testing.TB) {
			iptablesRules(t, "ip6tables", "filter", "-A INPUT -p udp -j DROP")
		}, []blame{{true, true, "iptables", "ip6 filter", "INPUT"}}},
		{"names by nftables", func(t testing.TB) {
			nft(t, `table ip fence { chain in { type filter hook input priority filter; policy drop; tcp dport 22 accept; ct state established,related accept; }; }`)
			deleteTable(t, "ip fence")
		}, []blame{{true, false, "nftables", "ip fence", "in"}}},
		{"nftables", func(t testing.TB) {
			nft(t, `table inet filter { chain forward { type filter hook forward priority filter; policy drop; tcp dport 22 accept; }; }`)
			deleteTable(t, "inet filter")
		}, []blame{{false, false, "nftables", "inet filter", "forward"}, {false, true, "nftables", "inet filter", "forward"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.set(t)
			var got []blame
			found := conflicts(t, n)
			for _, c := range found {
				t.Log(c)
				got = append(got, blame{c.Names, c.IPv6, c.Owner, c.Table, c.Chain})
			}
			if len(got) != len(test.want) {
				t.Fatalf("found %+v, want %+v", got, test.want)
			}
			for i, c := range found {
				if got[i] != test.want[i] {
					t.Errorf("found %+v, want %+v", got[i], test.want[i])
				}
				network, to := "tcp", map[bool]netip.Addr{false: server4, true: server6}
				port := uint16(80)
				if c.Names {
					network, to, port = "udp", map[bool]netip.Addr{false: gateway4, true: gateway6}, 53
				}
				wantNothing(t, p, network, addrPort(to[c.IPv6], port))
			}
			if test.name == "firewalld" {
				return // its commands are for the daemon: TestFirewalld
			}
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
			wantSeenAs(t, l.server, "tcp", addrPort(host4, 6002), server4)
			wantSeenAs(t, p, "udp", addrPort(gateway4, 53), p.IPv4)
			wantSeenAs(t, p, "udp", addrPort(gateway6, 53), p.IPv6)
		})
	}
	if out := run(t, "ip", "-o", "link"); strings.Contains(out, "trial") {
		t.Errorf("a trial left a link:\n%s", out)
	}
	if out := run(t, "nft", "list", "tables"); strings.Contains(out, "trial") {
		t.Errorf("a trial left a table:\n%s", out)
	}
}
