package nettest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// connections is how many the neighbour of a flooding phone makes.
const connections = 1000

// flood is frames that each begin a flow of their own: SYNs, datagrams and echo requests, to many ports, addresses and identifiers.
func flood(me end) [][]byte {
	var frames [][]byte
	for i := range 8000 {
		peer, port := netip.AddrFrom4([4]byte{203, 0, 114, byte(2 + i%8)}), uint16(1024+i)
		if i%5 == 0 {
			peer = server6
		}
		f := me.to(peer, uint16(10000+i), port)
		request := byte(8)
		if peer.Is6() {
			request = 128
		}
		id := binary.BigEndian.AppendUint16(nil, uint16(i))
		frames = append(frames, me.frame(f.packet(unix.IPPROTO_TCP, f.tcp(syn, nil))), me.frame(f.packet(unix.IPPROTO_UDP, f.udp([]byte("flood")))),
			me.frame(f.packet(icmpOf(peer), f.icmp(request, 0, append(id, 0, 1)))))
	}
	return frames
}

// tracked is how many connections the host's kernel remembers.
func tracked(t *testing.T) (n int) {
	t.Helper()
	err := netlab.Host().Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err != nil {
			return err
		}
		n, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAFloodMeetsItsOwnLimit floods from one phone, while its neighbour makes connections that must all succeed.
func TestAFloodMeetsItsOwnLimit(t *testing.T) {
	w := newWorld(t)
	me, neighbour := phone(1), phone(2)
	w.ensure(me)
	beside := w.ensure(neighbour)
	guest := w.newGuest(me.ID)
	w.serve(w.server, ":80")
	frames := flood(endOf(me))
	guest.send(frames...) // its table is full from here on
	stop := guest.keepSending(frames[:6000], 10)
	most := 0
	for i := range connections {
		conn, err := connect(beside, "tcp", net.JoinHostPort(server4.String(), "80"), patience)
		if err != nil {
			t.Errorf("connection %d of the neighbour: %v", i, err)
			break
		}
		if i%50 == 0 {
			if !echoes(conn, patience) {
				t.Errorf("connection %d of the neighbour carries nothing", i)
			}
			most = max(most, tracked(t))
		}
		conn.Close()
	}
	sent := stop()
	status, err := w.engine.Status(t.Context(), me.ID)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d frames were sent; flows: %d of %d; dropped: %v; the kernel tracked %d at most", sent, status.Flows, status.MaxFlows, status.Counters.Dropped, most)
	if status.Flows > status.MaxFlows || status.Counters.Dropped["FLOW_LIMIT"] == 0 {
		t.Errorf("the phone has %d flows of %d, and %d were refused", status.Flows, status.MaxFlows, status.Counters.Dropped["FLOW_LIMIT"])
	}
	if limit := status.MaxFlows + connections + 100; most > limit {
		t.Errorf("the host's kernel tracks %d connections; %d are the bound of one phone and what its neighbour made", most, limit)
	}
	if dropped := w.dropped(neighbour.ID); dropped["FLOW_LIMIT"] > 0 {
		t.Errorf("of the neighbour %v were dropped", dropped)
	}
}

// TestDenialsStayExact has more kinds of denials than there is room for: each packet is in one of the reports, and the neighbour's are told
// as before.
func TestDenialsStayExact(t *testing.T) {
	w := newWorld(t)
	me, neighbour := phone(1), phone(2)
	w.ensure(me)
	beside := w.ensure(neighbour)
	guest := w.newGuest(me.ID)
	reports := w.engine.Denials(t.Context())
	var frames [][]byte
	from := endOf(me)
	for port := range uint16(3000) {
		frames = append(frames, from.datagram(from.to(neighbour.IPv4, 7000, port+1)))
	}
	const times = 3
	for range times {
		guest.send(frames...)
	}
	if conn, err := connect(beside, "tcp", "[fd70:686f:6e65::1:1]:80", silence); err == nil {
		conn.Close()
		t.Error("the neighbour reaches the phone")
	}
	counted, others, besides := uint64(0), uint64(0), uint64(0)
	overdue := time.After(patience)
	for counted != uint64(times*len(frames)) || besides == 0 {
		select {
		case list := <-reports:
			for _, d := range list {
				switch {
				case d.Phone == neighbour.ID:
					besides += d.Count
				case d.Reason == "OTHER":
					others += d.Count
					counted += d.Count
				case d.Reason == "PROTECTED":
					counted += d.Count
				}
			}
		case <-overdue:
			t.Fatalf("%d denials were reported, %d of them without their kind, of %d; and %d of the neighbour", counted, others, times*len(frames), besides)
		}
	}
	if dropped := w.dropped(me.ID); dropped["PROTECTED"] != uint64(times*len(frames)) {
		t.Errorf("counted were %v", dropped)
	}
	if others == 0 {
		t.Error("there was room for all kinds: nothing was exhausted")
	}
}
