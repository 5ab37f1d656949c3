package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sysctls is where the kernel shows the switches of each link's IPv4, of the network namespace of whoever looks.
const sysctls = "/proc/sys/net/ipv4/conf"

// routeLoopback lets packets of loopback cross the links of phones that have forwards on it, and no other link of phones. A phone whose
// link is not there yet is left for the next time.
func (n *NAT) routeLoopback(forwards []Forward) error {
	wanted := map[string]bool{}
	seen := map[netip.Addr]bool{}
	for _, f := range forwards {
		if !f.Listen.Addr().Is4() || !f.reachesLoopback() || seen[f.Phone] {
			continue
		}
		seen[f.Phone] = true
		link, err := linkTo(f.Phone)
		if err != nil {
			return fmt.Errorf("forward %s: %w", f, err)
		}
		wanted[link] = true
	}
	paths, err := filepath.Glob(filepath.Join(sysctls, n.cfg.LinkPrefix+"*"))
	if err != nil {
		return fmt.Errorf("list the links of phones: %w", err)
	}
	for _, dir := range paths {
		if err := setRouteLocalnet(filepath.Join(dir, "route_localnet"), wanted[filepath.Base(dir)]); err != nil {
			return err
		}
	}
	return nil
}

// reachesLoopback reports whether the host's processes reach the forward at an address of loopback.
func (f Forward) reachesLoopback() bool {
	return f.Listen.Addr().IsLoopback() || f.Listen.Addr().IsUnspecified()
}

// linkTo is the name of the link that leads to an address, "" without one.
func linkTo(phone netip.Addr) (string, error) {
	routes, err := netlink.RouteGet(net.IP(phone.AsSlice()))
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || len(routes) == 0 && err == nil {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ask the way to %s: %w", phone, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find the link to %s: %w", phone, err)
	}
	return link.Attrs().Name, nil
}

// setRouteLocalnet writes the switch if it differs. A link that has gone meanwhile is no error.
func setRouteLocalnet(path string, on bool) error {
	value := []byte("0\n")
	if on {
		value = []byte("1\n")
	}
	now, err := os.ReadFile(path)
	if err == nil && string(now) != string(value) {
		err = os.WriteFile(path, value, 0)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("let packets of loopback cross the link of a phone, or not: %w", err)
	}
	return nil
}
