package datapath

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Where our filter is among those of a device: the first.
const (
	filterPriority = 1
	filterHandle   = 1
)

// filterPrefix begins the name of our filters; the phone's id ends it.
const filterPrefix = "phonehost:"

// attachFilters attaches by clsact filters.
func (d *Datapath) attachFilters(id string, ifindex int) error {
	for _, s := range sides {
		if err := d.attachFilter(id, s, ifindex); err != nil {
			return fmt.Errorf("%s: %w", s.program, err)
		}
	}
	return nil
}

func (d *Datapath) attachFilter(id string, s side, ifindex int) error {
	attrs := netlink.FilterAttrs{LinkIndex: ifindex, Parent: s.parent, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL}
	want := &netlink.BpfFilter{FilterAttrs: attrs, Fd: d.programs.byName[s.program].FD(), Name: filterPrefix + id, DirectAction: true}
	have, err := d.filter(ifindex, s)
	if err != nil {
		return err
	}
	if have != nil {
		if have.Name == want.Name && uint32(have.Id) == d.programs.ids[s.program] {
			return nil
		}
		d.log.Info("a phone's program was replaced", "phone_id", id, "program", s.program, "version", d.version)
		return filterError(d.netlink.FilterReplace(want))
	}
	if err := d.notElsewhere(id, ifindex); err != nil {
		return err
	}
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := d.netlink.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
		return filterError(err)
	}
	return filterError(d.netlink.FilterAdd(want))
}

// notElsewhere makes sure that no other link has the phone's filters.
func (d *Datapath) notElsewhere(id string, ifindex int) error {
	all, err := d.filtered()
	if err != nil {
		return err
	}
	if at, found := all[id]; found && at != ifindex {
		return fmt.Errorf("the phone's program is on link %d, which is still there: %w", at, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// filterError says what an error of tc means here.
func filterError(err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("another's filter has the priority %d and handle %d: %w", filterPriority, filterHandle, errdefs.ErrFailedPrecondition)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return &UnsupportedError{
			Feature: "way to attach packet programs to a link", Since: "Linux 6.6, or an older one with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF", Err: err,
		}
	}
	return err
}

// filter returns our filter of a device, nil for none.
func (d *Datapath) filter(ifindex int, s side) (*netlink.BpfFilter, error) {
	device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	list, err := whole(func() ([]netlink.Filter, error) { return d.netlink.FilterList(device, s.parent) })
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // no clsact there
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list filters of link %d: %w", ifindex, err)
	}
	for _, f := range list {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Handle == filterHandle && b.Priority == filterPriority && strings.HasPrefix(b.Name, filterPrefix) {
			return b, nil
		}
	}
	return nil, nil
}

// whole reads a list until nothing has changed while it was read.
func whole[T any](read func() ([]T, error)) (list []T, err error) {
	for range 10 {
		if list, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}

// filtered returns the phones whose links have our filters.
func (d *Datapath) filtered() (map[string]int, error) {
	qdiscs, err := whole(func() ([]netlink.Qdisc, error) { return d.netlink.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	all := map[string]int{}
	for _, q := range qdiscs {
		if q.Type() != "clsact" {
			continue
		}
		ifindex := q.Attrs().LinkIndex
		for _, s := range sides {
			f, err := d.filter(ifindex, s)
			if err != nil {
				return nil, err
			}
			if f != nil {
				all[strings.TrimPrefix(f.Name, filterPrefix)] = ifindex
			}
		}
	}
	return all, nil
}

// removeFilters removes our filters of a device. The qdisc stays: others may have filters there.
func (d *Datapath) removeFilters(ifindex int) error {
	for _, s := range sides {
		f, err := d.filter(ifindex, s)
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		if err := d.netlink.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove the filter of %s: %w", s.program, err)
		}
	}
	return nil
}
