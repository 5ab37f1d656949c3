package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// readEvents reads all events that are there.
func (l *lab) readEvents() (all []bpfEvent) {
	l.t.Helper()
	r, err := ringbuf.NewReader(l.Events)
	if err != nil {
		l.t.Fatal(err)
	}
	defer r.Close()
	r.SetDeadline(time.Unix(1, 0))
	for {
		record, err := r.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			l.t.Fatal(err)
		}
		var e bpfEvent
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.LittleEndian, &e); err != nil {
			l.t.Fatal(err)
		}
		all = append(all, e)
	}
}

func TestDenials(t *testing.T) {
	l := newLab(t, "deny egress tcp any 25\n")
	mail := out(peer4, tcp(1000, 25, syn))
	for range 3 {
		l.run([]step{{"mail", policy.Egress, mail, "RULE"}})
	}
	l.run([]step{
		{"mail from another port", policy.Egress, out(peer4, tcp(1001, 25, syn)), "RULE"},
		{"a neighbour", policy.Egress, out(neighbour6, udp(1000, 9, nil)), "PROTECTED"},
		{"from a peer", policy.Ingress, in(peer4, tcp(1000, 8080, syn)), "DEFAULT"},
		{"from a peer's other port", policy.Ingress, in(peer4, tcp(1001, 8080, syn)), "DEFAULT"},
		{"spoofed", policy.Egress, up(ip(neighbour4, peer4, tcp(1000, 80, syn))), "SPOOFED_IP"},
		{"echo reply", policy.Egress, out(peer4, pong4(7)), "NO_FLOW"},
		{"echo reply of another number", policy.Egress, out(peer4, pong4(8)), "NO_FLOW"},
		{"quiet", policy.Egress, out("224.0.0.251", udp(5353, 5353, nil)), "MULTICAST"},
		{"quiet", policy.Egress, toHost(phone6, "ff02::1:ff00:9", discovery(135, neighbour6)), "NEIGHBOUR"},
		{"quiet", policy.Egress, toHost("fe80::99", "ff02::2", discovery(133, "")), "NEIGHBOUR"},
		{"quiet", policy.Ingress, ethernet(gatewayMAC, phoneMAC, 0x806, arp(1, gatewayMAC, gateway4, neighbour4)), "NEIGHBOUR"},
		{"looks for a neighbour", policy.Egress, up2(arp(1, phoneMAC, phone4, neighbour4)), "NEIGHBOUR"},
		{"looks for it once more", policy.Egress, up2(arp(1, phoneMAC, phone4, neighbour4)), "NEIGHBOUR"},
		{"probes for it", policy.Egress, up2(arp(1, phoneMAC, "0.0.0.0", "10.213.0.8")), "NEIGHBOUR"},
		{"looks for a peer on the internet", policy.Egress, up2(arp(1, phoneMAC, phone4, peer4)), "NEIGHBOUR"},
		{"inverse ARP", policy.Egress, up2(arp(8, phoneMAC, phone4, "10.213.0.7")), "NEIGHBOUR"},
	})
	const byDefault, none = 0xffffffff, 0xfffffffc
	want := map[bpfDenialKey]uint64{
		{Peer: key16(peer4), Rule: 0, Port: 25, Protocol: 6, Reason: 16}:                         4,
		{Peer: key16(neighbour6), Rule: byDefault, Port: 9, Protocol: 17, Reason: 15, Class: 1}:  1,
		{Peer: key16(peer4), Rule: byDefault, Port: 8080, Protocol: 6, Direction: 1, Reason: 17}: 2,
		{Peer: key16(peer4), Rule: none, Protocol: 6, Reason: 11}:                                1,
		{Peer: key16(peer4), Rule: none, Protocol: 1, Reason: 18}:                                2,
		{Peer: key16(neighbour4), Rule: none, Reason: 12, Class: 1}:                              2,
		{Peer: key16("10.213.0.8"), Rule: none, Reason: 12}:                                      1,
		{Peer: key16(peer4), Rule: none, Reason: 12}:                                             1,
		{Peer: key16("10.213.0.7"), Rule: none, Reason: 12}:                                      1,
	}
	got := pairs[bpfDenialKey, bpfDenial](t, l.denials)
	for k, n := range want {
		d := got[k]
		if d.Count != n || d.Bytes < n*42 || d.First > d.Last || d.Last > uint64(kernelTime()) {
			t.Errorf("%+v: %+v; want a count of %d", k, d, n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("denials are %+v", got)
	}
	events := l.readEvents()
	for _, e := range events {
		if _, ok := want[e.Denial]; !ok || e.Kind != 1 || e.Slot != labSlot || e.Time == 0 {
			t.Errorf("an event is %+v", e)
		}
		delete(want, e.Denial)
	}
	if len(want) > 0 {
		t.Errorf("without an event are %+v", want)
	}
}

// What a scan of all ports leaves is bounded, and adds up.
func TestDenialsAreBounded(t *testing.T) {
	l := newLab(t, "default deny-all\n")
	for port := range uint16(600) {
		if got, _, err := l.FromPhone.Test(out(peer4, tcp(1000, 1+port, syn))); got != dropped || err != nil {
			t.Fatal(got, err)
		}
	}
	c := l.counters()
	if listed := l.listed(); listed != 256 || c.Unlisted != 600-256 || c.Dropped[bpfReasonREASON_DEFAULT] != 600 {
		t.Errorf("%d are listed, %d not, of %d", listed, c.Unlisted, c.Dropped[bpfReasonREASON_DEFAULT])
	}
	if got, _, err := l.FromPhone.Test(out(peer4, tcp(1000, 1, syn))); got != dropped || err != nil || l.listed() != 257 {
		t.Errorf("one that is in the list is not counted there: %#x, %v", got, err)
	}
	if err := l.Denials.Delete(uint32(labSlot)); err != nil {
		t.Fatal(err)
	}
	if got, _, err := l.FromPhone.Test(out(peer4, tcp(1000, 1, syn))); got != dropped || err != nil || l.counters().Unlisted != c.Unlisted+1 {
		t.Errorf("without a list: %#x, %v, %d are not listed", got, err, l.counters().Unlisted)
	}
}

// Events that nobody reads are lost and counted, and change no verdict.
func TestEventsThatNobodyReads(t *testing.T) {
	l := newLab(t, "default deny-all\n")
	spec := l.specs["denials"].InnerMap.Copy()
	spec.MaxEntries = 1 << 16
	l.denials = l.inner(l.Denials, spec, labSlot)
	const packets = 4000
	for port := range uint16(packets) {
		if got, _, err := l.FromPhone.Test(out(peer4, tcp(1000, 1+port, syn))); got != dropped || err != nil {
			t.Fatal(got, err)
		}
	}
	lost := l.counters().Lost
	if read := len(l.readEvents()); lost == 0 || uint64(read)+lost != packets || l.listed() != packets {
		t.Errorf("%d events were read and %d lost; %d denials; want %d together", read, lost, l.listed(), packets)
	}
}

func TestSampledFlows(t *testing.T) {
	l := newLab(t, "default allow-internet\n")
	l.settings.Sample = 1
	l.put(l.Settings, uint32(0), l.settings)
	expect := func(kinds ...uint32) (last bpfEvent) {
		t.Helper()
		events := l.readEvents()
		if len(events) != len(kinds) {
			t.Fatalf("%d events: %+v; want %d", len(events), events, len(kinds))
		}
		for i, e := range events {
			peer := e.Key.Peer
			if e.Kind == uint32(bpfEventKindEVENT_DENIAL) {
				peer = e.Denial.Peer
			}
			if e.Kind != kinds[i] || e.Slot != labSlot || peer != key16(peer4) {
				t.Errorf("event %d is %+v; want kind %d", i, e, kinds[i])
			}
			last = e
		}
		return last
	}
	l.run([]step{{"SYN", policy.Egress, sent(syn), "pass"}, {"SYN, ACK", policy.Ingress, got(syn | ack), "pass"}})
	expect(2)
	l.run([]step{{"RST", policy.Egress, sent(rst), "pass"}, {"RST again", policy.Egress, sent(rst), "pass"}})
	if e := expect(3); e.Flow.Packets != [2]uint64{2, 1} || e.Flow.State != 3 {
		t.Errorf("the flow that ended is %+v", e.Flow)
	}
	l.run([]step{{"SYN", policy.Egress, sent(syn), "pass"}})
	expect(2)
	l.policy("default deny-all\n")
	l.run([]step{{"denied by a new policy", policy.Egress, sent(ack), "DEFAULT"}})
	expect(3, 1)
	l.policy("default allow-internet\n")
	l.limit(1)
	l.run([]step{{"UDP", policy.Egress, out(peer4, udp(1, 2, nil)), "pass"}})
	l.age(time.Minute)
	l.run([]step{{"another needs its place", policy.Egress, out(peer4, udp(1, 3, nil)), "pass"}})
	if e := expect(2, 3, 2); e.Key.PeerPort != 3 {
		t.Errorf("the flow that began is %+v", e.Key)
	}
	l.settings.Sample = 0
	l.put(l.Settings, uint32(0), l.settings)
	l.limit(16)
	l.run([]step{{"not sampled", policy.Egress, out(peer4, udp(1, 2, nil)), "pass"}})
	expect()
}

// Packets that are cut later are counted as what they become.
func TestLargePackets(t *testing.T) {
	l := newLab(t, "default allow-internet\n")
	s := tcp(40000, 443, ack)
	s.bytes = append(s.bytes, make([]byte, 3000)...)
	got, err := l.FromPhone.Run(programOptions(out(peer4, s), skbContext{GSOSegs: 4, GSOSize: 750}))
	if err != nil || got != passed {
		t.Fatal(got, err)
	}
	if c := l.counters(); c.Packets != [2]uint64{4, 0} || c.Bytes != [2]uint64{3054, 0} {
		t.Errorf("counted are %v packets, %v bytes", c.Packets, c.Bytes)
	}
	if _, f := l.flow(); f.Packets != [2]uint64{4, 0} {
		t.Errorf("the flow has %v packets", f.Packets)
	}
}
