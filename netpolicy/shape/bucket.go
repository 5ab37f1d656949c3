package shape

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setBucket makes the root qdisc of a link hold what leaves by it to so many bit/s; 0 takes ours away.
func setBucket(link netlink.Link, bits uint64) error {
	name, index := link.Attrs().Name, link.Attrs().Index
	root, err := rootQdisc(link)
	if err != nil {
		return err
	}
	ours, isTbf := root.(*netlink.Tbf)
	isOurs := isTbf && ours.Handle == tbfHandle
	switch {
	case bits == 0 && !isOurs:
		return nil
	case bits == 0:
		if err := netlink.QdiscDel(ours); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("remove tbf from %s: %w", name, err)
		}
		return nil
	}
	want := newBucket(bits, link.Attrs().MTU).tbf(index)
	if isOurs {
		if ours.Rate == want.Rate && ours.Limit == want.Limit && ours.Buffer == want.Buffer {
			return nil
		}
		if err := netlink.QdiscChange(want); err != nil {
			return fmt.Errorf("change tbf of %s: %w", name, err)
		}
		return nil
	}
	if root != nil {
		return fmt.Errorf("%s has a qdisc that is not ours, %s %s: remove it (tc qdisc del dev %[1]s root) or set no limit: %[4]w",
			name, root.Type(), netlink.HandleStr(root.Attrs().Handle), errdefs.ErrFailedPrecondition)
	}
	if err := netlink.QdiscAdd(want); err != nil {
		return fmt.Errorf("add tbf to %s: %w", name, unsupported(err, "sch_tbf"))
	}
	return nil
}

// rootQdisc returns what somebody put at the root of a link, nil if nobody did. What the kernel puts there by itself has no handle.
func rootQdisc(link netlink.Link) (netlink.Qdisc, error) {
	all, err := retry(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(link) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs of %s: %w", link.Attrs().Name, err)
	}
	for _, q := range all {
		if q.Attrs().Parent == netlink.HANDLE_ROOT && q.Attrs().Handle != 0 {
			return q, nil
		}
	}
	return nil, nil
}
