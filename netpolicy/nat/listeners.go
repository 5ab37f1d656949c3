package nat

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Check refuses an address and port of the host that cannot be a forward's: errdefs.ErrInvalidArgument for an address that is none of the host's,
// which the error follows with those that are; errdefs.ErrConflict for a port where a process listens, which it names, as a forward would take
// its traffic away. Ask before a forward is taken on, not before Apply: an address that has gone, or a process that came later, must not
// stop the forwards of all phones. It changes nothing.
func (n *NAT) Check(ctx context.Context, protocol policy.Protocol, listen netip.AddrPort) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.checkLocal(listen.Addr()); err != nil {
		return err
	}
	found, err := Listeners(protocol, listen)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("%s %s is taken: %s listens on %s; choose another port, or have it listen elsewhere: %w",
			protocolName(protocol), listen, found[0].Owner, found[0].Local, errdefs.ErrConflict)
	}
	return nil
}

// checkLocal refuses what packets for the host do not go to. Every address of 127.0.0.0/8 is the host's.
func (n *NAT) checkLocal(a netip.Addr) error {
	if a.IsUnspecified() || a.IsLoopback() {
		return nil
	}
	local, err := isLocal(a)
	if err != nil || local {
		return err
	}
	right, err := n.addresses(a.Is4())
	if err != nil {
		return err
	}
	return fmt.Errorf("%s is no address of this host; %s: %w", a, right, errdefs.ErrInvalidArgument)
}

// isLocal reports whether the kernel takes what is sent to an address for itself.
func isLocal(a netip.Addr) (bool, error) {
	routes, err := netlink.RouteGet(net.IP(a.AsSlice()))
	for _, no := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} { // the last of routes that drop
		if errors.Is(err, no) {
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("ask the way to %s: %w", a, err)
	}
	return len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, nil
}

// manyAddresses is how many addresses of the host a refusal names.
const manyAddresses = 8

// addresses says which addresses of a family a forward can listen on: "127.0.0.1, 0.0.0.0 for all, and 192.0.2.1 are".
func (n *NAT) addresses(four bool) (string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("list the host's addresses: %w", err)
	}
	can := []string{"127.0.0.1", "0.0.0.0 for all"}
	if !four {
		can = []string{":: for all"}
	}
	for _, each := range all {
		prefix, err := netip.ParsePrefix(each.String())
		a := prefix.Addr()
		if err != nil || a.Is4() != four || a.IsLoopback() || a.IsLinkLocalUnicast() || a == n.gateway4 || a == n.gateway6 || slices.Contains(can, a.String()) {
			continue
		}
		if can = append(can, a.String()); len(can) == manyAddresses {
			break
		}
	}
	last := len(can) - 1
	if last == 0 {
		return can[0] + " is", nil
	}
	return strings.Join(can[:last], ", ") + " and " + can[last] + " are", nil
}

// Listener is a socket of a process of this host that gets what is sent to an address.
type Listener struct {
	// Local is what it is bound to; an unspecified address is all of the host's.
	Local netip.AddrPort
	// Owner names the process: "sshd (pid 812)", or "a process" when it cannot be seen.
	Owner string
}

// Listeners returns the sockets that get what is sent to an address and port of this host. It changes nothing, but that on a kernel without
// sock_diag a socket may be bound for a moment, to find out whether one that listens on IPv6 takes IPv4 too.
func Listeners(protocol policy.Protocol, to netip.AddrPort) ([]Listener, error) {
	sockets, err := listeners(protocol)
	if err != nil {
		return nil, fmt.Errorf("list the ports that processes listen on: %w", err)
	}
	var all []Listener
	for _, s := range sockets {
		if s.meets(to) {
			all = append(all, Listener{Local: s.local, Owner: s.owner()})
		}
	}
	return all, nil
}
