package datapath_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/datapath"
)

// dhcpRequest is a REQUEST of DHCP by which a phone says that it wants to keep its address.
func dhcpRequest(mac net.HardwareAddr, address net.IP) []byte {
	b := make([]byte, 240)
	copy(b, []byte{1, 1, 6, 0, 1, 2, 3, 4})
	copy(b[12:], address.To4())
	copy(b[28:], mac)
	copy(b[236:], []byte{0x63, 0x82, 0x53, 0x63})
	return append(b, 53, 1, 3, 255)
}

// A phone that asks for its own address by a socket of the kernel's, which leaves the checksum to the link, gets it back over the link; the
// host's own server hears nothing.
func TestDHCPOverTheLink(t *testing.T) {
	mechanisms(t, func(t *testing.T, c datapath.Config) {
		s := newScene(t, c)
		s.set.DHCP = true
		s.admit(t)
		server, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 67})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		conn := udp(t, s.phone, 68)
		request := dhcpRequest(s.set.MAC, net.ParseIP(phoneAddress))
		if _, err := conn.WriteToUDP(request, &net.UDPAddr{IP: net.IPv4(10, 213, 0, 1), Port: 67}); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 1500)
		n, from, err := conn.ReadFromUDP(answer)
		if err != nil {
			t.Fatalf("nobody answers: %v", err)
		}
		ack := []byte{0x63, 0x82, 0x53, 0x63, 53, 1, 5}
		if n != 300 || from.String() != "10.213.0.1:67" || !bytes.Equal(answer[4:8], request[4:8]) || !bytes.Equal(answer[16:20], request[12:16]) || !bytes.Equal(answer[236:243], ack) {
			t.Errorf("from %s come %x", from, answer[:n])
		}
		counters, err := s.Counters(1)
		if err != nil || counters.Packets[0] == 0 || counters.Packets[1] == 0 { // and what IPv6 has to say
			t.Errorf("counted are %v, %v; want the question and its answer", counters.Packets, err)
		}
		if err := server.SetReadDeadline(time.Now()); err != nil {
			t.Fatal(err)
		}
		if n, from, err := server.ReadFromUDP(answer); err == nil {
			t.Errorf("the host hears %d bytes from %v", n, from)
		}
	})
}
