package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// namesPerPhone is how many addresses may be open by name for a phone at once.
const namesPerPhone = 512

// Leases is what the name server has of the datapath: which phone asks, and by which names an address is open for it. It needs the pins
// of "clients" and "names" and no privilege besides: the bpf(2) commands that it uses are
//
//	OpenLeases   BPF_OBJ_GET, BPF_OBJ_GET_INFO_BY_FD, BPF_MAP_LOOKUP_BATCH
//	Client       BPF_MAP_LOOKUP_ELEM
//	Open         BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM
//	Expire       BPF_MAP_LOOKUP_BATCH, BPF_MAP_LOOKUP_ELEM, BPF_MAP_DELETE_ELEM
//
// There is one process with Leases at a time. It may be used by several goroutines.
type Leases struct {
	clients, names *ebpf.Map
	dir            string
	inode          os.FileInfo

	mu   sync.Mutex
	open map[uint32]map[netip.Addr]uint64 // until when the last lease of an address is, by slot
}

// Client is a phone as the name server knows it.
type Client struct {
	// Address is the one that was asked for.
	Address netip.Addr
	// Slot is the phone's, Policy that of its policy.
	Slot, Policy uint32
	// Cut tells that nothing passes for it.
	Cut bool

	ifindex uint32
}

// OpenLeases opens the maps that are pinned below a Config's Dir. errdefs.ErrNotFound: there are none, since no Datapath was opened there
// since the host was started.
func OpenLeases(dir string) (_ *Leases, err error) {
	l := &Leases{dir: pins(dir).dir()}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.clients, err = ebpf.LoadPinnedMap(filepath.Join(l.dir, "clients"), &ebpf.LoadPinOptions{ReadOnly: true}); err != nil {
		return nil, fmt.Errorf("open map clients: %w", pinned.Classed(err))
	}
	if l.names, err = ebpf.LoadPinnedMap(filepath.Join(l.dir, "names"), nil); err != nil {
		return nil, fmt.Errorf("open map names: %w", pinned.Classed(err))
	}
	if l.inode, err = os.Stat(filepath.Join(l.dir, "names")); err != nil {
		return nil, fmt.Errorf("open map names: %w", pinned.Classed(err))
	}
	if err := l.Expire(); err != nil {
		return nil, err
	}
	return l, nil
}

// Close gives the handles up. Leases stay until they end.
func (l *Leases) Close() error {
	var errs []error
	for _, m := range []*ebpf.Map{l.clients, l.names} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// Stale tells that the pins are other maps by now, of an agent that had to begin anew: OpenLeases finds them.
func (l *Leases) Stale() bool {
	inode, err := os.Stat(filepath.Join(l.dir, "names"))
	return err != nil || !os.SameFile(inode, l.inode)
}

// Client returns the phone that has an address; ok is false when none has.
func (l *Leases) Client(address netip.Addr) (c Client, ok bool, err error) {
	var in bpfClient
	err = l.clients.Lookup(bpfClientKey{Address: bytes16(address)}, &in)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Client{}, false, nil
	}
	if err != nil {
		return Client{}, false, fmt.Errorf("phone of %s: %w", address, pinned.Classed(err))
	}
	return Client{Address: address.Unmap(), Slot: in.Slot, Policy: in.Policy, Cut: in.Flags&flagCut != 0, ifindex: in.Ifindex}, true, nil
}

// Open opens an address for a phone by a name (policy.NameID of the rule's pattern) until a time, or longer if it is open for longer already. When it
// returns, packets pass. A phone has room for 512 addresses of 8 names each: then those that end first make room, so that no phone takes
// another's. errdefs.ErrNotFound: the phone is not there any more, and nothing is open for it.
func (l *Leases) Open(c Client, address netip.Addr, name uint64, until time.Time) error {
	address = address.Unmap()
	if !address.IsValid() || name == 0 {
		return fmt.Errorf("open %s by name %#x: %w", address, name, errdefs.ErrInvalidArgument)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.openLocked(c, address, name, until); err != nil {
		return fmt.Errorf("open %s for the phone in slot %d: %w", address, c.Slot, pinned.Classed(err))
	}
	return nil
}

func (l *Leases) openLocked(c Client, address netip.Addr, name uint64, until time.Time) error {
	at := pinned.Now()
	key := bpfNameKey{Slot: c.Slot, Address: bytes16(address)}
	var v bpfNameValue
	if err := l.names.Lookup(key, &v); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	if err := l.makeRoom(c.Slot, address); err != nil {
		return err
	}
	lease(&v, name, at.KernelTime(until))
	if err := l.names.Put(key, v); err != nil {
		return err
	}
	l.remember(c.Slot, address, last(&v))
	// RemovePhone makes a phone unknown first and then clears its names: what comes between is taken back here, what comes before, there.
	again, ok, err := l.Client(c.Address)
	if err != nil {
		return err
	}
	if !ok || again.Slot != c.Slot || again.ifindex != c.ifindex {
		if err := l.shut(c.Slot, address); err != nil {
			return err
		}
		return fmt.Errorf("%s is no phone's address any more: %w", c.Address, errdefs.ErrNotFound)
	}
	return nil
}

// lease writes a lease in the place of the same name's, or of the one that ends first: of one that has ended, if there is any.
func lease(v *bpfNameValue, name, until uint64) {
	place := 0
	for i, old := range v.Lease {
		if old.Id == name {
			v.Lease[i].Until = max(old.Until, until)
			return
		}
		if old.Until < v.Lease[place].Until {
			place = i
		}
	}
	v.Lease[place] = bpfNameLease{Id: name, Until: until}
}

// last is when the last lease of an address ends.
func last(v *bpfNameValue) uint64 {
	return slices.MaxFunc(v.Lease[:], func(a, b bpfNameLease) int { return cmp.Compare(a.Until, b.Until) }).Until
}

// makeRoom shuts the address of a slot that ends first, if there is no room for another. mu is held.
func (l *Leases) makeRoom(slot uint32, address netip.Addr) error {
	held := l.open[slot]
	if _, there := held[address]; there || len(held) < namesPerPhone {
		return nil
	}
	var first netip.Addr
	for a, until := range held {
		if !first.IsValid() || until < held[first] {
			first = a
		}
	}
	return l.shut(slot, first)
}

// shut closes an address for a phone. mu is held.
func (l *Leases) shut(slot uint32, address netip.Addr) error {
	delete(l.open[slot], address)
	return pinned.DeleteKey(l.names, bpfNameKey{Slot: slot, Address: bytes16(address)})
}

// remember notes until when an address is open. mu is held.
func (l *Leases) remember(slot uint32, address netip.Addr, until uint64) {
	if l.open == nil {
		l.open = map[uint32]map[netip.Addr]uint64{}
	}
	if l.open[slot] == nil {
		l.open[slot] = map[netip.Addr]uint64{}
	}
	l.open[slot][address] = until
}

// Expire forgets leases that have ended, which count no more but take room, and what RemovePhone has removed. It is for now and then: once a minute.
func (l *Leases) Expire() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := pinned.Now()
	l.open = nil
	var ended []bpfNameKey
	for e, err := range pinned.Elements[bpfNameKey, bpfNameValue](l.names) {
		if err != nil {
			return pinned.Classed(err)
		}
		if until := last(&e.Value); until > at.Kernel {
			l.remember(e.Key.Slot, addrOf(e.Key.Address), until)
		} else {
			ended = append(ended, e.Key)
		}
	}
	for _, key := range ended { // nobody else opens addresses, and mu is held
		if err := pinned.DeleteKey(l.names, key); err != nil {
			return pinned.Classed(err)
		}
	}
	return nil
}
