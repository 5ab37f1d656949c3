package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/feed"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// readDenials hands what was dropped to the watchers, and summed up to the journal, until the engine has no more. What is left untold then
// is told.
func (m *Manager) readDenials(denials <-chan []netpolicy.Denial) {
	sums := feed.NewSums(summing)
	timer := time.NewTimer(0)
	timer.Stop()
	defer timer.Stop()
	take := func(batch []netpolicy.Denial) {
		m.denials.Send(batch...)
		for _, d := range batch {
			sums.Add(d)
		}
	}
	for {
		select {
		case batch, more := <-denials:
			if !more {
				m.tell(sums.Take(time.Now(), true))
				return
			}
			take(batch)
		case batch := <-m.refused:
			take(batch)
		case <-timer.C:
		}
		now := time.Now()
		m.tell(sums.Take(now, false))
		if next := sums.Next(now); !next.IsZero() {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
	}
}

// Refused takes in what the name server has refused, which is reported as what the engine drops is. It fails when the context ends before.
func (m *Manager) Refused(ctx context.Context, denials []netpolicy.Denial) error {
	select {
	case m.refused <- denials:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tell writes denials into the journal.
func (m *Manager) tell(denials []netpolicy.Denial) {
	for _, d := range denials {
		m.cfg.Journal.Emit(denialEvent(d))
	}
}

// denialEvent is the event of packets that were dropped.
func denialEvent(d netpolicy.Denial) event.Event {
	attributes := map[string]string{
		"direction": DirectionName(d.Direction), "reason": d.Reason, "rule": strconv.Itoa(d.Rule),
		"packets": strconv.FormatUint(d.Count, 10), "bytes": strconv.FormatUint(d.Bytes, 10),
	}
	set := func(name, value string, has bool) {
		if has {
			attributes[name] = value
		}
	}
	set("peer", d.Peer.String(), d.Peer.IsValid())
	set("port", strconv.Itoa(int(d.Port)), d.Port != 0)
	set("protocol", ProtocolName(d.Protocol), d.Protocol != 0)
	set("name", d.Name, d.Name != "")
	set("class", d.Class, d.Class != "")
	return event.Event{Kind: event.NetworkDenied, PhoneID: d.Phone, Time: d.Last, Message: denialWords(d), Attributes: attributes}
}

// denialWords is one sentence about packets that were dropped.
func denialWords(d netpolicy.Denial) string {
	if d.Name != "" {
		return fmt.Sprintf("%s asked for %s, which its policy does not let it resolve (%d times)", d.Phone, d.Name, d.Count)
	}
	what := "of " + d.Phone
	if d.Protocol != 0 {
		what = ProtocolName(d.Protocol) + " " + what
	}
	if d.Peer.IsValid() {
		way := "to"
		if d.Direction == policy.Ingress {
			way = "from"
		}
		what += " " + way + " " + endpoint(d.Peer, d.Port, d.Direction)
	}
	packets := "packets"
	if d.Count == 1 {
		packets = "packet"
	}
	return fmt.Sprintf("%d %s %s dropped: %s", d.Count, packets, what, d.Reason)
}

// endpoint is a peer for people; the port is its own only of what the phone sent.
func endpoint(peer netip.Addr, port uint16, d policy.Direction) string {
	if port == 0 {
		return peer.String()
	}
	if d == policy.Ingress {
		return fmt.Sprintf("%s at port %d", peer, port)
	}
	return net.JoinHostPort(peer.String(), strconv.Itoa(int(port)))
}

// DirectionName is a direction as events and phonectl have it.
func DirectionName(d policy.Direction) string {
	if d == policy.Ingress {
		return "ingress"
	}
	return "egress"
}

// ProtocolName is a protocol of the IP header as events and phonectl have it.
func ProtocolName(n uint8) string {
	switch n {
	case 1, 58:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return strconv.Itoa(int(n))
}
