package stream

import "time"

const (
	// slack is how much longer than the bare round trip a packet may be under way before nothing more is sent: the delay
	// that a queue in the path may add. The figure is that of neatvnc's rule (bytes in flight <= bandwidth * (33.3 ms +
	// least round trip)).
	slack = 33300 * time.Microsecond
	// lagSlack is the same for a viewer that another viewer of its level leaves behind: beyond it the viewer lags.
	lagSlack = 250 * time.Millisecond
	// floorPackets may always be in flight: one that arrives while the next is under way.
	floorPackets = 2
	// maxPackets and maxBytes may be in flight at most, whatever the path is like.
	maxPackets = 64
	maxBytes   = 4 << 20
	// spacings is how many of the newest gaps between acknowledgements tell how fast the path is.
	spacings = 8
	// memory is how long a measured round trip is believed when newer ones are longer.
	memory = 10 * time.Second
)

// window decides how much may be under way to one viewer: as many packets as the path takes in one bare round trip, and
// one more; and none while the oldest is late.
//
// The bare round trip is the least of those that were measured by packets sent while nothing else was under way, which the
// stream's own queue cannot have made longer. When such a packet has not been sent for some time and the path seems slow,
// the window closes until it is empty, and the next packet measures anew. How many packets the path takes is told by the
// least gap between the arrivals of packets that were under way together. Not for concurrent use.
type window struct {
	flight []sentPacket
	bytes  int

	rtt, rttBefore time.Duration // least of this half of memory and of the one before; 0 is unknown
	halfBegan      time.Time
	measured       time.Time // when the last bare round trip was measured

	lastAck time.Time
	gaps    [spacings]time.Duration // ring of the newest gaps per packet; 0 is unknown
	nextGap int
}

// sentPacket is a packet that is not acknowledged.
type sentPacket struct {
	seq   uint64
	size  int
	at    time.Time
	alone bool // nothing else was under way when it was sent
}

// add notes that a packet was handed to the connection.
func (w *window) add(seq uint64, size int, now time.Time) {
	w.flight = append(w.flight, sentPacket{seq: seq, size: size, at: now, alone: len(w.flight) == 0})
	w.bytes += size
}

// ack notes that the packet seq and all before it have arrived.
func (w *window) ack(seq uint64, now time.Time) {
	n, together := 0, true
	for ; n < len(w.flight) && w.flight[n].seq <= seq; n++ {
		p := w.flight[n]
		w.bytes -= p.size
		together = together && p.at.Before(w.lastAck)
		if p.seq == seq && p.alone {
			w.measure(now.Sub(p.at), now)
		}
	}
	if n == 0 {
		return
	}
	if together {
		w.gaps[w.nextGap] = max(now.Sub(w.lastAck)/time.Duration(n), 1)
		w.nextGap = (w.nextGap + 1) % spacings
	}
	w.lastAck = now
	w.flight = w.flight[:copy(w.flight, w.flight[n:])]
}

// fits returns how many packets may be under way.
func (w *window) fits() int {
	gap := time.Duration(0)
	for _, g := range w.gaps {
		if g != 0 && (gap == 0 || g < gap) {
			gap = g
		}
	}
	if gap == 0 {
		return floorPackets
	}
	return max(floorPackets, int(min(w.base()/gap+1, maxPackets)))
}

// measure takes a bare round trip.
func (w *window) measure(rtt time.Duration, now time.Time) {
	rtt = max(rtt, 1)
	if w.rtt == 0 || now.Sub(w.halfBegan) > memory/2 {
		w.rttBefore, w.rtt, w.halfBegan = w.rtt, rtt, now
	}
	w.rtt = min(w.rtt, rtt)
	w.measured = now
}

// base returns the bare round trip, 0 while it is unknown.
func (w *window) base() time.Duration {
	if w.rttBefore == 0 {
		return w.rtt
	}
	return min(w.rtt, w.rttBefore)
}

// open tells whether another packet may be encoded for this viewer. It can only turn from true to false as time passes.
func (w *window) open(now time.Time) bool {
	switch base := w.base(); {
	case len(w.flight) == 0:
		return true
	case len(w.flight) >= w.fits() || w.bytes >= maxBytes:
		return false
	case base == 0:
		return true
	case now.Sub(w.flight[0].at) <= base+slack:
		return true
	case now.Sub(w.measured) > memory:
		return false // until it is empty, so that the next packet measures
	default:
		return len(w.flight) < floorPackets
	}
}

// bears tells whether a packet that was encoded for others may still be queued for this viewer.
func (w *window) bears(now time.Time) bool {
	if len(w.flight) < floorPackets {
		return true
	}
	return len(w.flight) < maxPackets && w.bytes < maxBytes && now.Sub(w.flight[0].at) <= w.base()+lagSlack
}
