package shape

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setUpload holds what comes in by a phone's link to so many bit/s; 0 removes all that is needed for it.
//
// Packets are diverted to the ifb only when it is ready, and no longer before it goes.
func setUpload(link netlink.Link, id string, bits uint64) error {
	if bits == 0 {
		if err := undivert(link); err != nil {
			return err
		}
		return removeUpload(UploadName(id))
	}
	ifb, err := ensureUpload(link, id)
	if err != nil {
		return err
	}
	if err := setBucket(ifb, bits); err != nil {
		return err
	}
	if err := raise(ifb); err != nil {
		return err
	}
	return divert(link, ifb.Attrs().Index)
}

// ensureUpload returns the phone's ifb, with the MTU of its link, by which the bucket is measured.
func ensureUpload(link netlink.Link, id string) (netlink.Link, error) {
	name, mtu := UploadName(id), link.Attrs().MTU
	ifb, err := linkByName(name)
	if err != nil {
		return nil, err
	}
	if ifb == nil {
		if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu, TxQLen: -1}}); err != nil {
			return nil, fmt.Errorf("make %s: %w", name, unsupported(err, "ifb"))
		}
		if ifb, err = netlink.LinkByName(name); err != nil {
			return nil, fmt.Errorf("look at %s: %w", name, err)
		}
	}
	if ifb.Type() != "ifb" {
		return nil, fmt.Errorf("link %s is of the kind %s and not ours: rename it: %w", name, ifb.Type(), errdefs.ErrFailedPrecondition)
	}
	if ifb.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(ifb, mtu); err != nil {
			return nil, fmt.Errorf("set the MTU of %s to %d: %w", name, mtu, err)
		}
		ifb.Attrs().MTU = mtu
	}
	if alias := aliasPrefix + id; ifb.Attrs().Alias != alias {
		if err := netlink.LinkSetAlias(ifb, alias); err != nil {
			return nil, fmt.Errorf("name the phone of %s: %w", name, err)
		}
	}
	return ifb, nil
}

// raise brings an ifb up, without an address of its own.
func raise(ifb netlink.Link) error {
	if ifb.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil
	}
	const none = 1 // IN6_ADDR_GEN_MODE_NONE
	if err := netlink.LinkSetIP6AddrGenMode(ifb, none); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("keep IPv6 addresses from %s: %w", ifb.Attrs().Name, err)
	}
	if err := netlink.LinkSetUp(ifb); err != nil {
		return fmt.Errorf("bring %s up: %w", ifb.Attrs().Name, err)
	}
	return nil
}

// removeUpload removes an ifb. Packets in its queue are lost.
func removeUpload(name string) error {
	ifb, err := linkByName(name)
	if err != nil || ifb == nil {
		return err
	}
	if ifb.Type() != "ifb" {
		return nil
	}
	if err := netlink.LinkDel(ifb); err != nil && !missing(err) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// divert sends what comes in by a link through the link with the index to.
func divert(link netlink.Link, to int) error {
	have, err := diversion(link)
	if err != nil {
		return err
	}
	if have != nil {
		if target(have) == to {
			return nil
		}
		if err := undivert(link); err != nil {
			return err
		}
	}
	name, index := link.Attrs().Name, link.Attrs().Index
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := netlink.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to %s: %w", name, unsupported(err, "sch_ingress"))
	}
	filter := &netlink.U32{ // without a selector: all packets
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: filterPriority, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(to)},
	}
	if err := netlink.FilterAdd(filter); err != nil {
		return fmt.Errorf("divert what comes in by %s: %w", name, unsupported(err, "cls_u32 or act_mirred"))
	}
	return nil
}

// undivert removes what divert made, but for the clsact qdisc, in which others may have filters; it goes with the link.
func undivert(link netlink.Link) error {
	have, err := diversion(link)
	if err != nil || have == nil {
		return err
	}
	all := &netlink.U32{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
	}}
	if err := netlink.FilterDel(all); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("stop diverting what comes in by %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// diversion returns our filter of a link, nil if it has none.
func diversion(link netlink.Link) (*netlink.U32, error) {
	all, err := retry(func() ([]netlink.Filter, error) { return netlink.FilterList(link, netlink.HANDLE_MIN_INGRESS) })
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // no clsact there
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list filters of %s: %w", link.Attrs().Name, err)
	}
	for _, f := range all {
		if u, ok := f.(*netlink.U32); ok && u.Priority == filterPriority && len(u.Actions) > 0 {
			return u, nil
		}
	}
	return nil, nil
}

// target returns the index of the link to which a filter sends packets, 0 when there is none any more.
func target(f *netlink.U32) int {
	for _, a := range f.Actions {
		if m, ok := a.(*netlink.MirredAction); ok {
			return m.Ifindex
		}
	}
	return 0
}
