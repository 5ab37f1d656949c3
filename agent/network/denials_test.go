package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/feed"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// denied is one packet of a phone that was dropped.
func denied(phone, peer string, port uint16) netpolicy.Denial {
	now := time.Now()
	return netpolicy.Denial{
		Phone: phone, Direction: policy.Egress, Protocol: 6, Peer: netip.MustParseAddr(peer), Port: port, Reason: "RULE", Rule: 2,
		Count: 1, Bytes: 60, First: now, Last: now,
	}
}

// TestDenialsAreSummedUp tells what is new at once and what goes on once a minute, and loses no packet of the count.
func TestDenialsAreSummedUp(t *testing.T) {
	inBubble(t, func(t *testing.T, k *kernel, path string) {
		l := begin(t, k, path)
		for range 150 { // seconds
			k.denials <- []netpolicy.Denial{denied("p1", "192.0.2.1", 443)}
			time.Sleep(time.Second)
		}
		k.denials <- []netpolicy.Denial{{
			Phone: "p2", Direction: policy.Ingress, Protocol: 1, Peer: netip.MustParseAddr("fe80::1"), Reason: "PROTECTED", Class: "LINK_LOCAL", Rule: -1,
			Count: 3, Bytes: 99, First: time.Now(), Last: time.Now(),
		}}
		got := l.events(event.NetworkDenied)
		first := "p1 bytes=60 direction=egress packets=1 peer=192.0.2.1 port=443 protocol=tcp reason=RULE rule=2"
		last := "p2 bytes=99 class=LINK_LOCAL direction=ingress packets=3 peer=fe80::1 protocol=icmp reason=PROTECTED rule=-1"
		if len(got) != 4 || got[0] != first || got[3] != last {
			t.Errorf("events:\n%s", strings.Join(got, "\n"))
		}
		l.Close() // tells the rest
		got = l.events(event.NetworkDenied)
		packets := 0
		for _, e := range got {
			var n, bytes int
			if _, err := fmt.Sscanf(e, "p1 bytes=%d direction=egress packets=%d peer=192.0.2.1", &bytes, &n); err == nil && bytes == 60*n {
				packets += n
			}
		}
		if len(got) != 5 || packets != 150 {
			t.Errorf("%d of 150 packets at the agent's end:\n%s", packets, strings.Join(got, "\n"))
		}
		l.journal.Close()
		if err := l.db.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestWatchDenials(t *testing.T) {
	inBubble(t, func(t *testing.T, k *kernel, path string) {
		l := begin(t, k, path)
		defer l.end()
		all, one := l.WatchDenials(nil), l.WatchDenials([]string{"p2"})
		defer one.Close()
		for i := range 30 {
			var batch []netpolicy.Denial
			for port := range uint16(200) {
				batch = append(batch, denied(fmt.Sprintf("p%d", i%3), "192.0.2.1", port))
			}
			k.denials <- batch
			synctest.Wait()
		}
		n, missed := 0, uint64(0)
		for n+int(missed) < 6000 {
			items, lost, err := all.Next(t.Context())
			if err != nil || len(items) == 0 || len(items) > feed.MaxNext {
				t.Fatalf("%d items, %v", len(items), err)
			}
			n += len(items)
			missed += lost
		}
		if n != feed.MaxWaiting || missed != 6000-feed.MaxWaiting {
			t.Errorf("%d came and %d were missed", n, missed)
		}
		for n := 0; n < 2000; {
			items, lost, err := one.Next(t.Context())
			if err != nil || lost != 0 || slices.ContainsFunc(items, func(d netpolicy.Denial) bool { return d.Phone != "p2" }) {
				t.Fatalf("%v %d %v", items, lost, err)
			}
			n += len(items)
		}
		all.Close()
		flows := l.WatchFlows([]string{"p1"})
		defer flows.Close()
		k.flows <- netpolicy.Flow{Phone: "p2"}
		k.flows <- netpolicy.Flow{Phone: "p1", Port: 7}
		if got, _, err := flows.Next(t.Context()); err != nil || len(got) != 1 || got[0].Port != 7 {
			t.Errorf("flows %v %v", got, err)
		}
	})
}

// TestKindsOfDenials sums up what is alike, and what is not told apart as one.
func TestKindsOfDenials(t *testing.T) {
	s := feed.NewSums(summing)
	one := denied("p1", "192.0.2.1", 443)
	for range 3 {
		s.Add(one)
	}
	for port := range uint16(2 * feed.MaxKinds) {
		s.Add(denied("p1", "192.0.2.2", port))
	}
	got := s.Take(time.Now(), true)
	if len(got) != feed.MaxKinds+1 {
		t.Fatalf("%d kinds, want %d", len(got), feed.MaxKinds+1)
	}
	other, rest := uint64(0), uint64(0)
	for _, d := range got {
		switch {
		case d.Reason == reasonOther:
			other += d.Count
			if d.Peer.IsValid() || d.Rule != -4 || d.Bytes != 60*d.Count {
				t.Errorf("what was not told apart: %+v", d)
			}
		case d.Port == 443 && (d.Count != 3 || d.Bytes != 180):
			t.Errorf("three that are alike: %+v", d)
		default:
			rest += d.Count
		}
	}
	if other != feed.MaxKinds+1 || rest != feed.MaxKinds+2 {
		t.Errorf("%d were not told apart, %d were", other, rest)
	}
}

func TestTotals(t *testing.T) {
	inBubble(t, func(t *testing.T, k *kernel, path string) {
		l := begin(t, k, path)
		defer l.end()
		set := func(id string, packets, dropped uint64, flows int) {
			k.set(func() {
				k.status[id] = netpolicy.Status{Flows: flows, Counters: netpolicy.Counters{
					Packets: [2]uint64{packets, 2 * packets}, Bytes: [2]uint64{10 * packets, 20 * packets}, Dropped: map[string]uint64{"RULE": dropped},
				}}
			})
		}
		totals := func(ids ...string) string {
			sum, err := l.Totals(t.Context(), ids)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(sum.Packets, sum.Bytes, sum.Dropped["RULE"], sum.Flows)
		}
		set("old", 1000, 100, 3)
		steps := []struct {
			set  func()
			ids  []string
			want string
		}{
			{func() {}, []string{"old", "late"}, "[0 0] [0 0] 0 3"},
			{func() { set("old", 1001, 101, 3); set("late", 500, 5, 1) }, []string{"old", "late"}, "[1 2] [10 20] 1 4"},
			{func() { set("late", 501, 5, 1); set("new", 7, 0, 0) }, []string{"old", "late", "new"}, "[9 18] [90 180] 1 4"},
			{func() { k.set(func() { delete(k.status, "old") }) }, []string{"old", "late", "new"}, "[9 18] [90 180] 1 1"},
			{func() { set("old", 3, 2, 0) }, []string{"old", "new"}, "[12 24] [120 240] 3 0"},
		}
		for i, step := range steps {
			step.set()
			if got := totals(step.ids...); got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
		}
	})
}

func TestDenialWords(t *testing.T) {
	ingress := denied("p1", "192.0.2.1", 443)
	ingress.Direction, ingress.Protocol = policy.Ingress, 17
	many := netpolicy.Denial{Phone: "p1", Reason: reasonOther, Count: 12}
	sctp := denied("p1", "2001:db8::1", 0)
	sctp.Protocol = 132
	for want, d := range map[string]netpolicy.Denial{
		"1 packet tcp of p1 to 192.0.2.1:443 dropped: RULE":           denied("p1", "192.0.2.1", 443),
		"1 packet udp of p1 from 192.0.2.1 at port 443 dropped: RULE": ingress,
		"12 packets of p1 dropped: OTHER":                             many,
		"1 packet 132 of p1 to 2001:db8::1 dropped: RULE":             sctp,
	} {
		if got := denialWords(d); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
