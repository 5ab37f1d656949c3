package shape

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

// The least and the greatest rates that can be set, in bit/s. Below the least a packet takes a fifth of a second.
const (
	MinBits = 64_000
	MaxBits = 100_000_000_000
)

const (
	// queueTime is how long a packet waits in a full queue.
	queueTime = 90 * time.Millisecond
	// minPackets are the fewest packets of the greatest size that find room in the queue.
	minPackets = 4
	// burstTime is for how long a phone may send as fast as the host can after it has been idle, at a rate far above slow. It makes up
	// for a processor that comes late to the queue.
	burstTime = 10 * time.Millisecond
	// slow is the rate in byte/s up to which no two packets of the greatest size pass at once. A BBR whose peer is below a millisecond
	// away takes two that do for the rate of the path, and sends more than the queue of a slow link holds; that of a fast one holds it.
	slow = 20_000_000 / 8
	// ethernet is the length of a frame's header, which the kernel counts.
	ethernet = 14
)

// bucket is a token bucket with a queue, in the kernel's words but for the units.
type bucket struct {
	rate  uint64 // byte/s
	burst uint32 // bytes: what passes at once when the bucket is full; larger packets are cut into segments
	limit uint32 // bytes that find room in the queue
}

// newBucket returns the bucket for a limit in bit/s on a link with an MTU in bytes.
func newBucket(bits uint64, mtu int) bucket {
	rate, packet := bits/8, uint64(mtu+ethernet)
	return bucket{
		rate:  rate,
		burst: uint32(max(packet*7/4, during(burstTime, rate-min(rate, slow)))),
		limit: uint32(max(packet*minPackets, during(queueTime, rate))),
	}
}

// during returns how many bytes pass in a time at a rate in byte/s.
func during(d time.Duration, rate uint64) uint64 { return rate * uint64(d/time.Microsecond) / 1e6 }

// tbf returns the bucket as the qdisc that a link wants at its root.
func (b bucket) tbf(index int) *netlink.Tbf {
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: tbfHandle, Parent: netlink.HANDLE_ROOT},
		Rate:       b.rate,
		Limit:      b.limit,
		Buffer:     uint32(netlink.Xmittime(b.rate, b.burst)),
	}
}

// check refuses a limit that cannot be kept.
func check(what string, bits uint64) error {
	if bits != 0 && (bits < MinBits || bits > MaxBits) {
		return fmt.Errorf("%s limit of %d bit/s: want 0 for none, or %d to %d: %w", what, bits, MinBits, uint64(MaxBits), errdefs.ErrInvalidArgument)
	}
	return nil
}
