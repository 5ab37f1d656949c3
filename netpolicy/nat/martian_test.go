package nat_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// datagram is a frame with a UDP datagram.
func datagram(to, by net.HardwareAddr, source, destination netip.AddrPort, payload string) []byte {
	frame := append(append(append([]byte{}, to...), by...), 0x08, 0x00)
	header := []byte{0x45, 0, 0, byte(28 + len(payload)), 0, 1, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0}
	header = append(append(header, source.Addr().AsSlice()...), destination.Addr().AsSlice()...)
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum+sum>>16))
	frame = append(frame, header...)
	frame = binary.BigEndian.AppendUint16(frame, source.Port())
	frame = binary.BigEndian.AppendUint16(frame, destination.Port())
	frame = binary.BigEndian.AppendUint16(frame, uint16(8+len(payload)))
	return append(append(frame, 0, 0), payload...) // without a checksum
}

// hardware is a link's address, looked at from a place.
func hardware(t testing.TB, at place, name string) (address net.HardwareAddr, index int) {
	t.Helper()
	err := at.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		address, index = link.Attrs().HardwareAddr, link.Attrs().Index
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return address, index
}

// put sends a frame by eth0 of a place.
func put(t testing.TB, at place, index int, frame []byte) {
	t.Helper()
	err := at.Do(func() error {
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: index})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// heard returns what arrives at a socket within a while, "" if nothing does.
func heard(t testing.TB, conn net.PacketConn, wait time.Duration) string {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(wait))
	buffer := make([]byte, 200)
	n, _, err := conn.ReadFrom(buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// A forward on loopback opens nothing else: neither a phone, whose link has route_localnet, nor the network reaches what listens on
// 127.0.0.1 with packets for it, nor gets one through with such a source, nor reaches the forward itself.
func TestLoopbackIsReachedByNobodyElse(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	n := newNAT(t, nil)
	loopback := netip.MustParseAddr("127.0.0.1")
	apply(t, n, adb(p, 6001), forwardUDP(p, 6001))
	secret, err := net.ListenPacket("udp4", "127.0.0.1:7777")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	public, err := net.ListenPacket("udp4", "0.0.0.0:7778")
	if err != nil {
		t.Fatal(err)
	}
	defer public.Close()
	var inPhone net.PacketConn
	if err := p.Do(func() (err error) { inPhone, err = net.ListenPacket("udp4", "0.0.0.0:5555"); return err }); err != nil {
		t.Fatal(err)
	}
	defer inPhone.Close()
	for _, from := range []struct {
		name    string
		at      place
		near    string // the host's end
		address netip.Addr
	}{
		{"phone", p, p.link, p.IPv4},
		{"network", l.server, "up-server", server4},
	} {
		to, _ := hardware(t, onHost{}, from.near)
		by, index := hardware(t, from.at, "eth0")
		for _, test := range []struct {
			name                string
			source, destination netip.AddrPort
			where               net.PacketConn
		}{
			{"to a process on loopback", addrPort(from.address, 40000), addrPort(loopback, 7777), secret},
			{"with a source of loopback", addrPort(loopback, 40000), addrPort(gateway4, 7778), public},
			{"both", addrPort(loopback, 40000), addrPort(loopback, 7777), secret},
			{"to the forward", addrPort(netip.MustParseAddr("198.51.100.7"), 40000), addrPort(loopback, 6001), inPhone},
		} {
			t.Run(from.name+" "+test.name, func(t *testing.T) {
				put(t, from.at, index, datagram(to, by, test.source, test.destination, "let me in"))
				if got := heard(t, test.where, impatience/2); got != "" {
					t.Errorf("%q arrived", got)
				}
			})
		}
	}
	// It is the guard that keeps the phone out; without it the same packet arrives. So the ones above were well made.
	nft(t, "flush chain inet phonehost guard")
	to, _ := hardware(t, onHost{}, p.link)
	by, index := hardware(t, p, "eth0")
	put(t, p, index, datagram(to, by, addrPort(p.IPv4, 40000), addrPort(loopback, 7777), "let me in"))
	if got := heard(t, secret, patience); got != "let me in" {
		t.Errorf("without the guard %q arrived", got)
	}
}
