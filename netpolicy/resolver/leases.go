package resolver

import (
	"net/netip"
	"time"
)

// Client is a phone that asks.
type Client struct {
	// Address is the one it asks from.
	Address netip.Addr
	// Slot is the phone's and Policy that of its policy, in the datapath's maps.
	Slot, Policy uint32
	// Token is the datapath's own.
	Token any
}

// Leases is what the server needs of the datapath. It is used by several goroutines.
type Leases interface {
	// Client returns the phone that has an address; ok is false when none has.
	Client(netip.Addr) (c Client, ok bool, err error)
	// Open opens an address for a phone by a name until a time. When it returns, packets pass. errdefs.ErrNotFound: the phone is gone.
	Open(c Client, address netip.Addr, name uint64, until time.Time) error
	// Expire forgets what has ended.
	Expire() error
	// Stale tells that other maps are pinned by now.
	Stale() bool
	Close() error
}
