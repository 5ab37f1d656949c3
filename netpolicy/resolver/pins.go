package resolver

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

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

// Grant lets a group's processes use the pins of a datapath as OpenPins does, and nothing else of them. Whoever has opened the datapath calls it,
// each time, before a name server starts.
func Grant(dir string, gid int) error { return datapath.GrantLeases(dir, gid) }

// BPFCommands are the commands of bpf(2) that OpenPins and its Leases use.
func BPFCommands() []uint32 {
	return []uint32{
		unix.BPF_OBJ_GET, unix.BPF_OBJ_GET_INFO_BY_FD, unix.BPF_MAP_LOOKUP_ELEM, unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_DELETE_ELEM,
		unix.BPF_MAP_LOOKUP_BATCH,
	}
}
