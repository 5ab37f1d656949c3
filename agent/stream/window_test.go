package stream

import (
	"testing"
	"time"
)

// path is a model of a network path: every packet takes its turn at the bottleneck and is acknowledged a round trip later.
type path struct {
	rtt    time.Duration
	perPkt time.Duration // time at the bottleneck
	free   time.Time     // when the bottleneck is free
}

func (p *path) send(now time.Time) (acked time.Time) {
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(p.perPkt)
	return p.free.Add(p.rtt)
}

// run offers a frame every interval for a while; it returns frames sent, and the worst time from send to acknowledgement
// after the first second.
func run(p *path, interval, length time.Duration, onSend func(time.Time)) (sent int, worst time.Duration) {
	type ack struct {
		seq uint64
		at  time.Time
	}
	var (
		w     window
		start = time.Unix(1000, 0)
		seq   uint64
		acks  []ack
	)
	for now := start; now.Before(start.Add(length)); now = now.Add(time.Millisecond) {
		for len(acks) > 0 && !acks[0].at.After(now) {
			w.ack(acks[0].seq, acks[0].at)
			acks = acks[1:]
		}
		if now.Sub(start)%interval >= time.Millisecond || !w.open(now) {
			continue
		}
		onSend(now)
		seq++
		w.add(seq, 10_000, now)
		at := p.send(now)
		acks = append(acks, ack{seq, at})
		if now.Sub(start) > time.Second {
			worst = max(worst, at.Sub(now))
		}
		sent++
	}
	return sent, worst
}

func TestWindowFollowsPath(t *testing.T) {
	ms := time.Millisecond
	tests := []struct {
		name        string
		path        path
		interval    time.Duration
		minFrames   int // of 600 or 1200 offered in 20 s
		worstMillis int
	}{
		{"fast and near", path{rtt: 1 * ms, perPkt: 1 * ms}, 33 * ms, 600, 3},
		{"fast and far: many in flight, no frame lost", path{rtt: 200 * ms, perPkt: 1 * ms}, 16 * ms, 1230, 202},
		{"half as fast as the stream: no queue builds up", path{rtt: 20 * ms, perPkt: 66 * ms}, 33 * ms, 280, 20 + 3*66},
		{"a tenth as fast", path{rtt: 20 * ms, perPkt: 330 * ms}, 33 * ms, 55, 20 + 3*330},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			frames, worst := run(&tt.path, tt.interval, 20*time.Second, func(time.Time) {})
			if frames < tt.minFrames {
				t.Errorf("%d frames went through, want at least %d", frames, tt.minFrames)
			}
			if worst > time.Duration(tt.worstMillis)*ms {
				t.Errorf("a packet took %v, want at most %d ms", worst, tt.worstMillis)
			}
		})
	}
}

func TestWindowLearnsLongerPath(t *testing.T) {
	p := path{rtt: 5 * time.Millisecond, perPkt: time.Millisecond}
	began := time.Time{}
	frames := 0
	run(&p, 33*time.Millisecond, 40*time.Second, func(now time.Time) {
		if began.IsZero() {
			began = now
		}
		if now.Sub(began) > 5*time.Second {
			p.rtt = 300 * time.Millisecond
		}
		if now.Sub(began) > 30*time.Second {
			frames++
		}
	})
	if want := 300; frames < want {
		t.Errorf("%d frames in the last ten seconds, want at least %d", frames, want)
	}
}

func TestWindowBounds(t *testing.T) {
	now := time.Unix(1000, 0)
	w := window{rtt: time.Hour, measured: now, halfBegan: now, gaps: [spacings]time.Duration{1}}
	for seq := uint64(1); w.open(now); seq++ {
		w.add(seq, 1, now)
	}
	if len(w.flight) != maxPackets {
		t.Errorf("%d packets under way, want %d", len(w.flight), maxPackets)
	}
	w = window{rtt: time.Hour, measured: now, halfBegan: now}
	w.add(1, maxBytes, now)
	if w.open(now) {
		t.Errorf("open with %d bytes under way", w.bytes)
	}
	w.ack(5, now) // everything before a packet is acknowledged with it
	if w.bytes != 0 || len(w.flight) != 0 {
		t.Errorf("%d bytes in %d packets under way after the acknowledgement of all", w.bytes, len(w.flight))
	}
}
