package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// Datapath is the programs, loaded, and their maps.
type Datapath struct {
	pins      pins
	log       *slog.Logger
	owned     *os.File // the lock of the pins
	netlink   *netlink.Handle
	maxPhones uint32
	timeouts  Timeouts
	version   string
	maps      maps
	specs     tables
	pinned    map[string]*ebpf.Map // all of maps and those that programs alone use
	mapIDs    []ebpf.MapID
	programs  programs
	reading   atomic.Bool  // Events has a reader
	slots     pinned.Locks // held while what a slot has is changed

	attach  sync.Mutex // held while links are looked at or changed
	filters bool       // attach by clsact

	mu       sync.Mutex
	owners   map[uint32]uint32 // links by slot, as "phones" has them
	reserved map[uint32]bool   // slots without a link that have empty tables
}

// Open finds what an earlier Datapath has left pinned, or begins with nothing; with nothing, nothing passes. It clears away what a process
// left that was killed, and phones whose links are gone. Close leaves all in force.
//
// errdefs.ErrFailedPrecondition: Dir is on no BPF file system, or phones use maps that are of another size than the Config wants; errdefs.ErrUnavailable: another process has
// the pins; errdefs.ErrInvalidArgument: a Config that cannot be; errdefs.ErrNotImplemented, an *UnsupportedError: the kernel lacks something; errdefs.ErrPermissionDenied:
// this process may not use bpf(2).
func Open(c Config) (_ *Datapath, err error) {
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("datapath: %w", err)
	}
	d, err := openAs(c, programVersion())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("datapath: %w", pinned.Classed(err)), d.Close())
	}
	return d, nil
}

// openAs opens a datapath whose programs are called version. It has to be closed after an error, too.
func openAs(c Config, version string) (*Datapath, error) {
	d := &Datapath{
		pins: pins(filepath.Clean(c.Dir)), log: c.Logger, maxPhones: c.MaxPhones, timeouts: c.Timeouts, filters: c.Filters, version: version,
		owners: map[uint32]uint32{}, reserved: map[uint32]bool{},
	}
	return d, d.open(c)
}

func (d *Datapath) open(c Config) (err error) {
	if err := d.pins.make(); err != nil {
		return err
	}
	if d.owned, err = pinned.Own(string(d.pins)); err != nil {
		return err
	}
	if d.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	spec, err := loadBpf()
	if err != nil {
		return fmt.Errorf("the programs' object: %w", err)
	}
	specs, tables := mapSpecs(c, spec)
	d.specs = tables
	err = d.openMaps(specs)
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		if err := d.replaceMaps(err); err != nil {
			return err
		}
		err = d.openMaps(specs)
	}
	if err != nil {
		return err
	}
	if err := d.set(c); err != nil {
		return err
	}
	if err := d.openPrograms(spec); err != nil {
		return err
	}
	if err := d.restore(); err != nil {
		return fmt.Errorf("clear away what a former process left: %w", err)
	}
	if err := d.removeOtherPrograms(); err != nil {
		return err
	}
	return d.pins.removeOthers()
}

// set writes the settings, which the programs heed from their next packet on.
func (d *Datapath) set(c Config) error {
	ns := func(t time.Duration) uint64 { return uint64(t.Nanoseconds()) }
	t := c.Timeouts
	s := bpfSettings{
		Sample: c.Sample, TcpNew: ns(t.TCPNew), TcpEstablished: ns(t.TCPEstablished), TcpClosing: ns(t.TCPClosing), TcpClosed: ns(t.TCPClosed),
		UdpNew: ns(t.UDPNew), UdpEstablished: ns(t.UDPEstablished), Icmp: ns(t.ICMP), Fragment: ns(t.Fragment),
	}
	if err := d.maps.settings.Put(uint32(0), s); err != nil {
		return fmt.Errorf("map settings: %w", err)
	}
	return nil
}

// Version names the programs that this build brings: a digest, in hexadecimal.
func (d *Datapath) Version() string { return d.version }

// Close gives the handles up. What is attached and loaded stays in force. Events must have ended.
func (d *Datapath) Close() error {
	closePrograms(d.programs.byName)
	pinned.CloseMaps(d.pinned)
	if d.netlink != nil {
		d.netlink.Close()
	}
	if d.owned == nil {
		return nil
	}
	return d.owned.Close()
}

// restore learns which slots have links, and clears what no phone has.
func (d *Datapath) restore() error {
	gone := map[uint32]bool{}
	for e, err := range pinned.Elements[uint32, bpfPhone](d.maps.phones) {
		if err != nil {
			return err
		}
		there, err := d.exists(int(e.Key))
		if err != nil {
			return err
		}
		d.owners[e.Value.Slot] = e.Key
		gone[e.Key] = !there
	}
	for ifindex, gone := range gone {
		if gone {
			if err := d.removePhone(ifindex); err != nil {
				return fmt.Errorf("phone on link %d, which is gone: %w", ifindex, err)
			}
		}
	}
	return d.clearOrphans()
}

// clearOrphans empties what no phone has: slots, addresses, forwards, names.
func (d *Datapath) clearOrphans() error {
	flows, err := pinned.Occupied(d.maps.flows)
	if err != nil {
		return err
	}
	denials, err := pinned.Occupied(d.maps.denials)
	if err != nil {
		return err
	}
	slots := append(flows, denials...)
	slices.Sort(slots)
	for _, slot := range slices.Compact(slots) {
		if _, owned := d.owner(slot); owned {
			continue
		}
		if err := d.emptySlot(slot); err != nil {
			return fmt.Errorf("slot %d: %w", slot, err)
		}
	}
	orphan := func(slot uint32) bool { _, owned := d.owner(slot); return !owned }
	if err := pinned.DeleteIf(d.maps.clients, func(_ bpfClientKey, c bpfClient) bool {
		owner, owned := d.owner(c.Slot)
		return !owned || owner != c.Ifindex
	}); err != nil {
		return err
	}
	if err := pinned.DeleteIf(d.maps.forwards, func(f bpfForward, _ uint8) bool { return orphan(f.Slot) }); err != nil {
		return err
	}
	if err := pinned.DeleteIf(d.maps.names, func(k bpfNameKey, _ bpfNameValue) bool { return orphan(k.Slot) }); err != nil {
		return err
	}
	return d.clearDraining(orphan)
}

// clearDraining removes drained denials of slots that no phone has.
func (d *Datapath) clearDraining(orphan func(uint32) bool) error {
	entries, err := os.ReadDir(filepath.Dir(d.pins.draining(0)))
	if err != nil {
		return err
	}
	for _, e := range entries {
		slot, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || orphan(uint32(slot)) {
			if err := pinned.Unpin(filepath.Join(filepath.Dir(d.pins.draining(0)), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// owner returns the link of the phone in a slot.
func (d *Datapath) owner(slot uint32) (ifindex uint32, owned bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ifindex, owned = d.owners[slot]
	return ifindex, owned
}

func (d *Datapath) setOwner(slot, ifindex uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.owners[slot] = ifindex
}

// disown frees a slot, if it is that link's.
func (d *Datapath) disown(slot, ifindex uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owners[slot] == ifindex {
		delete(d.owners, slot)
	}
}
