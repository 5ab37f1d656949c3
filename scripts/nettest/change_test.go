package nettest

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// TestConnectionsEndWithTheirPolicy holds connections of all kinds over changes that forbid them, and counts what still crosses the link.
func TestConnectionsEndWithTheirPolicy(t *testing.T) {
	const closed = "default deny-all\n"
	w := newWorld(t)
	p := phone(1)
	p.Policy = "held"
	p.Forwards = []netpolicy.Forward{
		{Listen: netip.AddrPortFrom(host4, 6002), Protocol: policy.TCP, Port: 5555}, {Listen: netip.AddrPortFrom(host4, 6003), Protocol: policy.UDP, Port: 5555},
	}
	w.policy("held", closed)
	one := w.ensure(p)
	w.server.Run(t, "ip", "route", "add", "10.213.0.0/16", "via", host4.String())
	w.server.Run(t, "ip", "route", "add", "fd70:686f:6e65::/64", "via", host6.String())
	for _, ns := range []netlab.Namespace{w.server, one} {
		w.serve(ns, ":80")
	}
	w.servePackets(w.server, "203.0.114.2:80") // or it would answer as the router
	w.servePackets(one, ":80")
	w.serve(one, ":5555")
	w.servePackets(one, ":5555")
	atServer, atPhone := watchLink(t, w.server, "eth0"), watchLink(t, one, "eth0")
	egress, ingress := closed+"allow egress any 203.0.114.2/32\nallow egress any 2001:4860::2/128\n", closed+"allow ingress any 192.168.77.2/32\nallow ingress any fd00:77::2/128\n"
	cut, unforwarded := p, p
	cut.Cut, unforwarded.Forwards = true, nil
	for _, tt := range []struct {
		name, network, address string
		from                   netlab.Namespace
		open                   string
		forbid                 func()
	}{
		{"TCP from the phone", "tcp", "203.0.114.2:80", one, egress, func() { w.policy("held", closed) }},
		{"UDP from the phone", "udp", "203.0.114.2:80", one, egress, func() { w.policy("held", closed) }},
		{"TCP from the phone by IPv6", "tcp", "[2001:4860::2]:80", one, egress, func() { w.policy("held", closed) }},
		{"TCP to the phone", "tcp", "10.213.1.1:80", w.server, ingress, func() { w.policy("held", closed) }},
		{"UDP to the phone by IPv6", "udp", "[fd70:686f:6e65::1:1]:80", w.server, ingress, func() { w.policy("held", closed) }},
		{"TCP through a forward", "tcp", "192.168.77.1:6002", w.server, closed, func() { w.ensure(unforwarded) }},
		{"UDP through a forward", "udp", "192.168.77.1:6003", w.server, closed, func() { w.ensure(unforwarded) }},
		{"TCP from a phone that is cut", "tcp", "203.0.114.2:80", one, egress, func() { w.ensure(cut) }},
		{"another rule for another port", "tcp", "203.0.114.2:80", one, egress, func() { w.policy("held", closed+"allow egress tcp 203.0.114.2/32 81\n") }},
		{"another policy", "tcp", "203.0.114.2:80", one, egress, func() {
			other := p
			other.Policy = "other"
			w.policy("other", closed)
			w.ensure(other)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.policy("held", tt.open)
			w.ensure(p)
			conn, err := connect(tt.from, tt.network, tt.address, patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if !echoes(conn, patience) {
				t.Fatal("what is allowed does not pass")
			}
			tt.forbid()
			beyond := atPhone
			if tt.from.Name == one.Name {
				beyond = atServer
			}
			held(t, conn, beyond)
		})
	}
}

// held sends by a connection that is forbidden now: nothing of it must come to the other side.
func held(t *testing.T, conn net.Conn, beyond *watch) {
	t.Helper()
	text := []byte("after the change of " + t.Name())
	if echo(conn, text, silence) {
		t.Error("the connection goes on")
	}
	if frame := beyond.find(func(frame []byte) bool { return bytes.Contains(frame, text) }); frame != nil {
		t.Errorf("on %s was seen % x", beyond.name, frame)
	}
}

// TestNobodyBeginsTowardsAPhone sends what begins connections from the server, the host and a neighbour to a phone.
func TestNobodyBeginsTowardsAPhone(t *testing.T) {
	w := newWorld(t)
	one, two := w.ensure(phone(1)), w.ensure(phone(2))
	w.server.Run(t, "ip", "route", "add", "10.213.0.0/16", "via", host4.String())
	w.server.Run(t, "ip", "route", "add", "fd70:686f:6e65::/64", "via", host6.String())
	for _, address := range []string{":80", ":5555"} {
		w.serve(one, address)
		w.servePackets(one, address)
	}
	for _, from := range []netlab.Namespace{w.server, netlab.Host(), two} {
		for _, address := range []string{"10.213.1.1:80", "[fd70:686f:6e65::1:1]:5555"} {
			if conn, err := connect(from, "tcp", address, silence); err == nil {
				conn.Close()
				t.Errorf("%s reaches the phone at %s", from.Name, address)
			}
			conn, err := connect(from, "udp", address, silence)
			if err != nil {
				t.Fatal(err)
			}
			if echoes(conn, silence) {
				t.Errorf("%s reaches the phone at %s by UDP", from.Name, address)
			}
			conn.Close()
		}
	}
	if dropped := w.dropped("p1"); dropped["DEFAULT"] < 8 {
		t.Errorf("dropped were %v", dropped)
	}
	// By IPv4 it asks for its neighbour by ARP and does not learn of it.
	if dropped := w.dropped("p2"); dropped["PROTECTED"] < 2 || dropped["NEIGHBOUR"] < 2 {
		t.Errorf("dropped of the neighbour were %v", dropped)
	}
}
