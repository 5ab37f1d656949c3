package resolver

import (
	"net/netip"
	"time"

	"github.com/phonehost/phonehost/netpolicy/datapath"
)

// OpenPins returns what opens the Leases of a datapath's pins, for Options.
func OpenPins(dir string) func() (Leases, error) {
	return func() (Leases, error) {
		l, err := datapath.OpenLeases(dir)
		if err != nil {
			return nil, err
		}
		return pins{l}, nil
	}
}

// pins are a datapath's leases as Leases.
type pins struct{ *datapath.Leases }

func (p pins) Client(a netip.Addr) (Client, bool, error) {
	c, ok, err := p.Leases.Client(a)
	return Client{Address: c.Address, Slot: c.Slot, Policy: c.Policy, Token: c}, ok, err
}

func (p pins) Open(c Client, address netip.Addr, name uint64, until time.Time) error {
	return p.Leases.Open(c.Token.(datapath.Client), address, name, until)
}
