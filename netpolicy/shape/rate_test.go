package shape_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phonehost/phonehost/netpolicy/shape"
)

// The payload that arrives is 0.92 to 1.02 of the limit, and what waits in the queue does not wait for long. A machine that is busy with
// other things may miss the first look, and is looked at for longer then.
func TestRateIsTheLimit(t *testing.T) {
	l := newLab(t, 0)
	const limit = 100 * mbit
	l.limit(t, limit, limit)
	for _, down := range []bool{true, false} {
		for _, kind := range []string{"cubic", "bbr", "udp"} {
			t.Run(fmt.Sprintf("%s/down=%v", kind, down), func(t *testing.T) {
				var share float64
				var rtt time.Duration
				for window := 1500 * time.Millisecond; window < 13*time.Second; window += window / 2 {
					r := l.measure(t, flow{down: down, kind: kind, bits: 1.3 * limit}, 500*time.Millisecond, window, 20*time.Millisecond)
					share, rtt = r.rate/limit, r.quantile(0.5)
					if share >= 0.92 && share <= 1.02 && rtt <= 100*time.Millisecond && rtt > 0 {
						return
					}
				}
				t.Errorf("arrived %.3f of the limit, the median of round trips was %v; want 0.92 to 1.02, at most 100 ms", share, rtt)
			})
		}
	}
}

func TestBelowTheLimitNothingWaits(t *testing.T) {
	l := newLab(t, 0)
	const limit = 20 * mbit
	l.limit(t, limit, limit)
	for _, down := range []bool{true, false} {
		var rtt time.Duration
		for range 3 {
			r := l.measure(t, flow{down: down, kind: "udp", bits: limit / 2, steady: true}, 200*time.Millisecond, time.Second, 10*time.Millisecond)
			if rtt = r.quantile(0.5); rtt > 0 && rtt < 5*time.Millisecond {
				break
			}
		}
		if rtt <= 0 || rtt >= 5*time.Millisecond {
			t.Errorf("down %v, half of the limit: the median of round trips was %v, want below 5 ms", down, rtt)
		}
	}
}

// Without a limit a phone is not held up, and again not after one was taken away.
func TestNoLimit(t *testing.T) {
	l := newLab(t, 0)
	for range 2 {
		for _, down := range []bool{true, false} {
			if r := l.measure(t, flow{down: down, kind: "cubic"}, 100*time.Millisecond, 400*time.Millisecond, 50*time.Millisecond); r.rate < 100*mbit {
				t.Errorf("down %v: %.0f Mbit/s without a limit", down, r.rate/mbit)
			}
		}
		l.limit(t, mbit, mbit)
		l.limit(t, 0, 0)
	}
}

// A change of the rate loses nothing of what is in the queue, upwards nor downwards.
func TestChangeLosesNothing(t *testing.T) {
	l := newLab(t, 0)
	// The datagrams find room at the former rate, and would not at 5 Mbit/s if they came then.
	for _, change := range []struct {
		from, to uint64
		count    int
	}{{5, 50, 35}, {50, 5, 200}} {
		for _, down := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d to %d Mbit/s, down=%v", change.from, change.to, down), func(t *testing.T) {
				l.limit(t, change.from*mbit, change.from*mbit)
				fromNS, toNS := l.phone, l.server
				if down {
					fromNS, toNS = toNS, fromNS
				}
				from, to := bind(t, fromNS, l.address(down)), bind(t, toNS, l.address(!down))
				defer from.Close()
				defer to.Close()
				before := l.queued(t, down)
				for i := range change.count {
					if _, err := from.WriteTo(append(make([]byte, payload-1), byte(i)), to.LocalAddr()); err != nil {
						t.Fatal(err)
					}
				}
				// A busy kernel brings them to the queue later, where they may find the room of the new rate.
				for tick, limit := time.NewTicker(time.Millisecond), time.Now().Add(20*time.Second); l.queued(t, down)-before < change.count; <-tick.C {
					if time.Now().After(limit) {
						t.Fatalf("%d of %d datagrams came to the queue", l.queued(t, down)-before, change.count)
					}
				}
				l.limit(t, change.to*mbit, change.to*mbit)
				must(t, to.SetReadDeadline(time.Now().Add(20*time.Second)))
				buf, came := make([]byte, 2*payload), map[byte]bool{} // in any order: a sender may change its processor
				for len(came) < change.count {
					n, err := to.Read(buf)
					if err != nil {
						t.Fatalf("%d of %d datagrams came: %v", len(came), change.count, err)
					}
					came[buf[n-1]] = true
				}
			})
		}
	}
}

// queued counts the packets that ever came to the queue of a direction.
func (l lab) queued(t *testing.T, down bool) int {
	t.Helper()
	name := shape.UploadName(l.id)
	if down {
		name = l.link.Attrs().Name
	}
	link, err := netlink.LinkByName(name)
	must(t, err)
	qdiscs, err := netlink.QdiscList(link)
	must(t, err)
	for _, q := range qdiscs {
		if s := q.Attrs().Statistics; q.Type() == "tbf" {
			return int(s.Basic.Packets + s.Queue.Qlen + s.Queue.Drops)
		}
	}
	t.Fatalf("%s has no queue", name)
	return 0
}
