package nettest

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// Kinds of large packets, and a flag (include/uapi/linux/virtio_net.h).
const (
	largeTCP4, largeUDP, largeTCP6, largeSegments = 1, 3, 4, 5
	needsChecksum                                 = 1
)

// large is a frame of 8000 bytes of a flow, behind the header that says how it is to be cut.
func (e end) large(f flow, kind byte, protocol byte) []byte {
	content := bytes.Repeat(append([]byte{}, mark...), 8000/len(mark))
	segment, at := f.udp(content), uint16(6)
	headers := 14 + 20
	if f.From.Is6() {
		headers = 14 + 40
	}
	transport := 8
	if protocol == unix.IPPROTO_TCP {
		segment, at, transport = f.tcp(ack|psh, content), 16, 20
	}
	// The checksum so far is that of the pseudo header; the rest is summed up when the packet is cut.
	binary.BigEndian.PutUint16(segment[at:], ^checksum(pseudo(f.From, f.To, protocol, len(segment)), nil))
	h := []byte{needsChecksum, kind}
	for _, v := range []int{headers + transport, 1000, headers, int(at)} { // header length, size of the pieces, where sums begin and go
		h = binary.NativeEndian.AppendUint16(h, uint16(v))
	}
	return append(h, e.frame(f.packet(protocol, segment))...)
}

// TestLargePackets has the kernel take large packets from the phone that are cut later: they are judged as their pieces would be.
func TestLargePackets(t *testing.T) {
	s := newScene(t)
	me, neighbour := endOf(s.me), endOf(s.neighbour)
	for _, tt := range []struct {
		name, reason string
		frame        []byte
	}{
		{"TCP to its neighbour", "PROTECTED", me.large(me.to(neighbour.four, 7500, 80), largeTCP4, unix.IPPROTO_TCP)},
		{"TCP to its neighbour by IPv6", "PROTECTED", me.large(me.to(neighbour.six, 7500, 80), largeTCP6, unix.IPPROTO_TCP)},
		{"TCP to a port that is denied", "RULE", me.large(me.to(server4, 7500, 6666), largeTCP4, unix.IPPROTO_TCP)},
		{"UDP to a port that is denied", "RULE", me.large(me.to(server4, 7500, 6666), largeSegments, unix.IPPROTO_UDP)},
		{"UDP that becomes fragments", "RULE", me.large(me.to(server4, 7500, 6666), largeUDP, unix.IPPROTO_UDP)},
		{"from its neighbour", "SPOOFED_IP", me.large(flow{neighbour.four, server4, 7500, 80}, largeTCP4, unix.IPPROTO_TCP)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := s.dropped(s.me.ID)[tt.reason]
			if r := s.guest.do(order{Frames: [][]byte{tt.frame}, Large: true}); r.Err != "" {
				t.Fatal(r.Err)
			}
			s.send(nil)
			s.unseen(t, nil)
			if n := s.dropped(s.me.ID)[tt.reason] - before; n == 0 {
				t.Errorf("nothing was dropped as %s: %v", tt.reason, s.dropped(s.me.ID))
			}
		})
	}
}

// TestProgramsOfThePhone has root of a phone send what it receives back by programs of its own, past its own network stack.
func TestProgramsOfThePhone(t *testing.T) {
	for name := range own {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.answer(netip.AddrPortFrom(server4, 80), mark)
			me := endOf(s.me)
			f := me.to(server4, 7600, 80)
			ask := me.frame(f.packet(unix.IPPROTO_UDP, f.udp([]byte("ask"))))
			atPhone := watchLink(t, s.namespace(s.me.ID), "eth0")
			s.guest.send(ask)
			atPhone.await(t, "the answer", func(frame []byte) bool { return bytes.Contains(frame, mark) })
			if r := s.guest.do(order{Call: name}); r.Err != "" {
				t.Fatal(r.Err)
			}
			s.send(nil) // what the phone's own kernel says of the answer, which nobody awaits, has passed before
			for _, w := range []*watch{s.passed, s.atServer, s.atNeighbour} {
				w.forget()
			}
			before := s.dropped(s.me.ID)["SPOOFED_MAC"]
			for range 20 {
				s.send([][]byte{ask})
			}
			s.unseen(t, nil)
			t.Logf("%d frames came back", s.dropped(s.me.ID)["SPOOFED_MAC"]-before)
			if name == "bounce" && s.dropped(s.me.ID)["SPOOFED_MAC"] == before {
				t.Error("nothing came back: the program does nothing")
			}
		})
	}
}

// answer answers datagrams to an address of the server with a text.
func (s *scene) answer(at netip.AddrPort, text []byte) {
	s.t.Helper()
	var c net.PacketConn
	if err := s.server.Do(func() (err error) { c, err = net.ListenPacket("udp", at.String()); return err }); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	go func() {
		for {
			_, from, err := c.ReadFrom(make([]byte, 2048))
			if err != nil {
				return
			}
			_, _ = c.WriteTo(text, from)
		}
	}()
}
