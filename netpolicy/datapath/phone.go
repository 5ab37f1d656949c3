package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/pinned"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Phone is what the programs know of the phone on a link.
type Phone struct {
	// Slot is the phone's own number, below Config.MaxPhones; Policy the slot of its policy, see LoadPolicy.
	Slot, Policy uint32
	// Cut drops all its packets.
	Cut bool
	// DHCP lets its DHCP requests be answered.
	DHCP bool
	// IPv4 and IPv6 are its addresses, Gateway4 and Gateway6 the host's towards it; the zero value for a family that it has not.
	IPv4, IPv6, Gateway4, Gateway6 netip.Addr
	// Prefix4 is the length of the prefix that it believes its IPv4 network to have.
	Prefix4 int
	// MAC is that of its end of the link, and GatewayMAC that of the host's.
	MAC, GatewayMAC net.HardwareAddr
}

// check tells what cannot be in a map.
func (d *Datapath) check(p Phone) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("phone in slot %d: %s: %w", p.Slot, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	switch {
	case p.Slot >= d.maxPhones:
		return invalid("slots are below %d", d.maxPhones)
	case p.Policy >= maxPolicies:
		return invalid("policy %d: slots of policies are below %d", p.Policy, maxPolicies)
	case len(p.MAC) != 6 || len(p.GatewayMAC) != 6:
		return invalid("MAC addresses %v and %v: six bytes each", p.MAC, p.GatewayMAC)
	case p.IPv4.IsValid() && !p.IPv4.Is4(), p.Gateway4.IsValid() && !p.Gateway4.Is4():
		return invalid("addresses %s and %s are not IPv4", p.IPv4, p.Gateway4)
	case p.IPv6.IsValid() && (!p.IPv6.Is6() || p.IPv6.Is4In6()), p.Gateway6.IsValid() && (!p.Gateway6.Is6() || p.Gateway6.Is4In6()):
		return invalid("addresses %s and %s are not IPv6", p.IPv6, p.Gateway6)
	case p.Prefix4 < 0 || p.Prefix4 > 32:
		return invalid("IPv4 prefix length %d", p.Prefix4)
	}
	return nil
}

// inMap is the phone as the programs read it.
func (p Phone) inMap() bpfPhone {
	b := bpfPhone{
		Slot: p.Slot, Policy: p.Policy, Flags: p.flags(), Ip4: bytes16(p.IPv4), Ip6: bytes16(p.IPv6),
		Gateway4: bytes16(p.Gateway4), Gateway6: bytes16(p.Gateway6), Prefix4: uint8(p.Prefix4),
	}
	copy(b.Mac[:], p.MAC)
	copy(b.GatewayMac[:], p.GatewayMAC)
	return b
}

func (p Phone) flags() (flags uint32) {
	if p.Cut {
		flags |= flagCut
	}
	if p.DHCP {
		flags |= flagDHCP
	}
	return flags
}

// Values of enum phone_flag.
const (
	flagCut  = 1
	flagDHCP = 2
)

func phoneOf(b bpfPhone) Phone {
	return Phone{
		Slot: b.Slot, Policy: b.Policy, Cut: b.Flags&flagCut != 0, DHCP: b.Flags&flagDHCP != 0,
		IPv4: addrOf(b.Ip4), IPv6: addrOf(b.Ip6), Gateway4: addrOf(b.Gateway4), Gateway6: addrOf(b.Gateway6), Prefix4: int(b.Prefix4),
		MAC: b.Mac[:], GatewayMAC: b.GatewayMac[:],
	}
}

// addresses are those by which the name server knows the phone.
func (b *bpfPhone) addresses() (all [][16]byte) {
	for _, a := range [][16]byte{b.Ip4, b.Ip6} {
		if a != ([16]byte{}) {
			all = append(all, a)
		}
	}
	return all
}

// SetPhone says which phone a link is, and from then on packets pass as its policy has it. For a link that is this phone already all that
// differs changes at once; its flows and counters go on. Else they begin anew: what a former phone has left in the slot is cleared before.
//
// errdefs.ErrInvalidArgument: a slot or address that cannot be; errdefs.ErrAlreadyExists: the slot belongs to another link, which is still there.
func (d *Datapath) SetPhone(ifindex int, p Phone) error {
	if err := d.check(p); err != nil {
		return err
	}
	if ifindex < 1 {
		return fmt.Errorf("phone in slot %d: no link has the index %d: %w", p.Slot, ifindex, errdefs.ErrInvalidArgument)
	}
	defer d.slots.Lock(p.Slot)()
	if err := d.setPhone(uint32(ifindex), p.inMap()); err != nil {
		return fmt.Errorf("phone in slot %d on link %d: %w", p.Slot, ifindex, pinned.Classed(err))
	}
	return nil
}

func (d *Datapath) setPhone(ifindex uint32, p bpfPhone) error {
	former, found, err := d.phoneOn(ifindex)
	if err != nil {
		return err
	}
	if !found || former.Slot != p.Slot {
		if err := d.takeSlot(ifindex, p.Slot); err != nil {
			return err
		}
		former = bpfPhone{}
	}
	if err := d.makeTables(p.Slot); err != nil {
		return err
	}
	// The name server may know who asks before packets pass, not the other way round.
	for _, a := range p.addresses() {
		c := bpfClient{Slot: p.Slot, Policy: p.Policy, Flags: p.Flags, Ifindex: ifindex}
		if err := d.maps.clients.Put(bpfClientKey{Address: a}, c); err != nil {
			return fmt.Errorf("map clients: %w", err)
		}
	}
	if err := d.maps.phones.Put(ifindex, p); err != nil {
		return fmt.Errorf("map phones: %w", err)
	}
	d.setOwner(p.Slot, ifindex)
	for _, a := range former.addresses() {
		if a == p.Ip4 || a == p.Ip6 {
			continue
		}
		if err := d.dropClient(a, p.Slot); err != nil {
			return err
		}
	}
	return nil
}

// phoneOn returns the phone of a link.
func (d *Datapath) phoneOn(ifindex uint32) (p bpfPhone, found bool, err error) {
	err = d.maps.phones.Lookup(ifindex, &p)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return p, false, nil
	}
	if err != nil {
		return p, false, fmt.Errorf("map phones: %w", err)
	}
	return p, true, nil
}

// takeSlot makes a slot a link's, empty. The slot is locked.
func (d *Datapath) takeSlot(ifindex, slot uint32) error {
	if owner, owned := d.owner(slot); owned && owner != ifindex {
		there, err := d.exists(int(owner))
		if err != nil {
			return err
		}
		if there {
			return fmt.Errorf("the slot belongs to link %d: %w", owner, errdefs.ErrAlreadyExists)
		}
		if err := d.forget(owner); err != nil {
			return err
		}
	}
	if err := d.forget(ifindex); err != nil { // the link was another slot's
		return err
	}
	if d.takeReserved(slot) {
		return nil
	}
	return d.freshSlot(slot)
}

// forget makes a link no phone's, and the phone's addresses unknown to the name server. What the phone's slot has stays.
func (d *Datapath) forget(ifindex uint32) error {
	p, found, err := d.phoneOn(ifindex)
	if !found || err != nil {
		return err
	}
	if err := d.dropClients(p); err != nil {
		return err
	}
	if err := pinned.DeleteKey(d.maps.phones, ifindex); err != nil {
		return err
	}
	d.disown(p.Slot, ifindex)
	return nil
}

// exists tells whether a link is there.
func (d *Datapath) exists(ifindex int) (bool, error) {
	_, err := d.netlink.LinkByIndex(ifindex)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("link %d: %w", ifindex, err)
	}
	return true, nil
}

// RemovePhone makes a link no phone's: nothing passes it any more, and what the phone's slot had is cleared. That it was none is no error.
func (d *Datapath) RemovePhone(ifindex int) error {
	if err := d.removePhone(uint32(ifindex)); err != nil {
		return fmt.Errorf("remove the phone on link %d: %w", ifindex, pinned.Classed(err))
	}
	return nil
}

func (d *Datapath) removePhone(ifindex uint32) error {
	p, found, err := d.phoneOn(ifindex)
	if !found || err != nil {
		return err
	}
	defer d.slots.Lock(p.Slot)()
	if owner, _ := d.owner(p.Slot); owner != ifindex { // SetPhone gave the slot to another link meanwhile
		return d.forget(ifindex)
	}
	// The element goes last, so that a call that fails on the way, or is cut short, can be made again.
	p.Flags |= flagCut
	if err := d.maps.phones.Put(ifindex, p); err != nil {
		return fmt.Errorf("map phones: %w", err)
	}
	if err := d.dropClients(p); err != nil {
		return err
	}
	if err := d.emptySlot(p.Slot); err != nil {
		return err
	}
	if err := pinned.DeleteKey(d.maps.phones, ifindex); err != nil {
		return err
	}
	d.disown(p.Slot, ifindex)
	return d.zeroCounters(p.Slot)
}

// dropClients makes a phone unknown to the name server.
func (d *Datapath) dropClients(p bpfPhone) error {
	for _, a := range p.addresses() {
		if err := d.dropClient(a, p.Slot); err != nil {
			return err
		}
	}
	return nil
}

// dropClient makes an address unknown to the name server, unless it is another slot's by now.
func (d *Datapath) dropClient(address [16]byte, slot uint32) error {
	var c bpfClient
	err := d.maps.clients.Lookup(bpfClientKey{Address: address}, &c)
	if errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && c.Slot != slot {
		return nil
	}
	if err != nil {
		return fmt.Errorf("map clients: %w", err)
	}
	return pinned.DeleteKey(d.maps.clients, bpfClientKey{Address: address})
}

// makeTables makes the tables of a slot that are missing.
func (d *Datapath) makeTables(slot uint32) error {
	return d.eachTable(func(outer *ebpf.Map, spec *ebpf.MapSpec) error {
		there, err := pinned.HasInner(outer, slot)
		if there || err != nil {
			return err
		}
		return pinned.PutTable(outer, spec, slot)
	})
}

// eachTable does something with "flows" and "denials" at once: a change of either waits for a grace period.
func (d *Datapath) eachTable(do func(outer *ebpf.Map, spec *ebpf.MapSpec) error) error {
	var g errgroup.Group
	g.Go(func() error { return do(d.maps.flows, d.specs.flows) })
	g.Go(func() error { return do(d.maps.denials, d.specs.denials) })
	return g.Wait()
}

// freshSlot gives a slot empty tables, and clears what else is in it but forwards, which may be set before the phone is.
func (d *Datapath) freshSlot(slot uint32) error {
	err := d.eachTable(func(outer *ebpf.Map, spec *ebpf.MapSpec) error { return pinned.PutTable(outer, spec, slot) })
	if err != nil {
		return err
	}
	return d.clearSlot(slot)
}

// emptySlot takes all that a slot has.
func (d *Datapath) emptySlot(slot uint32) error {
	if err := pinned.DeleteIf(d.maps.forwards, func(k bpfForward, _ uint8) bool { return k.Slot == slot }); err != nil {
		return err
	}
	err := d.eachTable(func(outer *ebpf.Map, _ *ebpf.MapSpec) error {
		there, err := pinned.HasInner(outer, slot)
		if !there || err != nil {
			return err
		}
		return pinned.DeleteKey(outer, slot)
	})
	if err != nil {
		return err
	}
	return d.clearSlot(slot)
}

// clearSlot clears what a slot has but tables and forwards.
func (d *Datapath) clearSlot(slot uint32) error {
	if err := pinned.Unpin(d.pins.draining(slot)); err != nil {
		return err
	}
	if err := pinned.DeleteKey(d.maps.reported, slot); err != nil {
		return err
	}
	if err := pinned.DeleteIf(d.maps.names, func(k bpfNameKey, _ bpfNameValue) bool { return k.Slot == slot }); err != nil {
		return err
	}
	return d.zeroCounters(slot)
}

// Reserve makes the tables of a slot that no phone has, so that SetPhone need not: the kernel takes a grace period of RCU for it, in which
// the caller can do other things. A slot that is a phone's, or reserved, stays as it is. errdefs.ErrInvalidArgument: there is no such slot.
func (d *Datapath) Reserve(slot uint32) error {
	if slot >= d.maxPhones {
		return fmt.Errorf("reserve slot %d: slots are below %d: %w", slot, d.maxPhones, errdefs.ErrInvalidArgument)
	}
	defer d.slots.Lock(slot)()
	d.mu.Lock()
	_, owned := d.owners[slot]
	done := owned || d.reserved[slot]
	d.mu.Unlock()
	if done {
		return nil
	}
	if err := d.freshSlot(slot); err != nil {
		return fmt.Errorf("reserve slot %d: %w", slot, pinned.Classed(err))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reserved[slot] = true
	return nil
}

// takeReserved tells whether a slot is reserved, which it then is no more.
func (d *Datapath) takeReserved(slot uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	reserved := d.reserved[slot]
	delete(d.reserved, slot)
	return reserved
}

// Phones returns the phones and their links.
func (d *Datapath) Phones() (map[int]Phone, error) {
	all := map[int]Phone{}
	for e, err := range pinned.Elements[uint32, bpfPhone](d.maps.phones) {
		if err != nil {
			return nil, pinned.Classed(err)
		}
		all[int(e.Key)] = phoneOf(e.Value)
	}
	return all, nil
}

// Forward is a port of a phone that the host leads connections to.
type Forward struct {
	// Protocol is policy.TCP or policy.UDP.
	Protocol policy.Protocol
	// Port is the phone's, 1..65535.
	Port uint16
}

// SetForwards says which ports of the phone in a slot the host's forwards lead to; it may be said before SetPhone.
// errdefs.ErrInvalidArgument: a forward that cannot be.
func (d *Datapath) SetForwards(slot uint32, forwards []Forward) error {
	if slot >= d.maxPhones {
		return fmt.Errorf("forwards of slot %d: slots are below %d: %w", slot, d.maxPhones, errdefs.ErrInvalidArgument)
	}
	want := map[bpfForward]bool{}
	for _, f := range forwards {
		number := map[policy.Protocol]uint8{policy.TCP: unix.IPPROTO_TCP, policy.UDP: unix.IPPROTO_UDP}[f.Protocol]
		if number == 0 || f.Port == 0 {
			return fmt.Errorf("forward to port %d of slot %d: only TCP and UDP ports from 1 are forwarded: %w", f.Port, slot, errdefs.ErrInvalidArgument)
		}
		want[bpfForward{Slot: slot, Port: f.Port, Protocol: number}] = true
	}
	defer d.slots.Lock(slot)()
	for f := range want {
		if err := d.maps.forwards.Put(f, uint8(1)); err != nil {
			return fmt.Errorf("forwards of slot %d: %w", slot, pinned.Classed(err))
		}
	}
	err := pinned.DeleteIf(d.maps.forwards, func(f bpfForward, _ uint8) bool { return f.Slot == slot && !want[f] })
	if err != nil {
		return fmt.Errorf("forwards of slot %d: %w", slot, pinned.Classed(err))
	}
	return nil
}
