package shape

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// retry asks again when the kernel's tables changed while it listed them.
func retry[T any](list func() (T, error)) (T, error) {
	for range 10 {
		if all, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return list()
}

func links() ([]netlink.Link, error) {
	all, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return all, nil
}

func linkByIndex(index int) (netlink.Link, error) {
	link, err := netlink.LinkByIndex(index)
	if missing(err) {
		return nil, fmt.Errorf("there is no link with the index %d: %w", index, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("look at link %d: %w", index, err)
	}
	return link, nil
}

// linkByName returns nil when there is no such link.
func linkByName(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at link %s: %w", name, err)
	}
	return link, nil
}

// missing tells whether an error says that a link is not there.
func missing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// unsupported gives the kernel's answers that it does not know a kind of thing their class.
func unsupported(err error, module string) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: the kernel has no %s: %w", err, module, errdefs.ErrNotImplemented)
	}
	return err
}
