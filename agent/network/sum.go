package network

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/phonehost/phonehost/agent/feed"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// reasonOther is the reason of denials that were not told apart.
const reasonOther = "OTHER"

// alike is what denials that are one event have in common, beside the phone.
type alike struct {
	direction policy.Direction
	protocol  uint8
	peer      netip.Addr
	port      uint16
	name      string
	reason    string
}

// summing is how denials are summed up for the journal.
var summing = feed.Summing[netpolicy.Denial, alike]{
	Kind: func(d netpolicy.Denial) (string, alike) {
		if d.Reason == reasonOther {
			return d.Phone, alike{reason: reasonOther}
		}
		return d.Phone, alike{d.Direction, d.Protocol, d.Peer, d.Port, d.Name, d.Reason}
	},
	First: func(d netpolicy.Denial) time.Time { return d.First },
	Other: func(d netpolicy.Denial) netpolicy.Denial {
		return netpolicy.Denial{Phone: d.Phone, Reason: reasonOther, Rule: -4, Count: d.Count, Bytes: d.Bytes, First: d.First, Last: d.Last}
	},
	Add: func(have, next netpolicy.Denial) netpolicy.Denial {
		next.First, next.Count, next.Bytes = have.First, have.Count+next.Count, have.Bytes+next.Bytes
		return next
	},
	Compare: func(a, b netpolicy.Denial) int {
		return cmp.Or(a.Peer.Compare(b.Peer), cmp.Compare(a.Port, b.Port))
	},
}
