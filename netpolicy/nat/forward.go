package nat

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Forward is a port of the host that leads to a port of a phone.
type Forward struct {
	// Listen is the host's address and port. One of 127.0.0.0/8 is reached by the host's own processes alone; another one by whoever
	// reaches the host there. The unspecified one stands for all of its family, those of 127.0.0.0/8 for the host's own processes included.
	// IPv6's loopback cannot be: the kernel takes no packet for ::1 from a link, and has no switch to make it.
	Listen netip.AddrPort
	// Protocol is policy.TCP or policy.UDP.
	Protocol policy.Protocol
	// Phone is the phone's address, of the family of Listen, and Port its port.
	Phone netip.Addr
	Port  uint16
}

// String is the forward as messages name it: "tcp 127.0.0.1:5555 to 10.213.0.2:5555".
func (f Forward) String() string {
	return fmt.Sprintf("%s %s to %s", protocolName(f.Protocol), f.Listen, netip.AddrPortFrom(f.Phone, f.Port))
}

func protocolName(p policy.Protocol) string {
	switch p {
	case policy.TCP:
		return "tcp"
	case policy.UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", p)
}

// listener is what two forwards may not share.
type listener struct {
	protocol policy.Protocol
	address  netip.Addr
	port     uint16
}

func (f Forward) listener() listener { return listener{f.Protocol, f.Listen.Addr(), f.Listen.Port()} }

// Validate refuses forwards that cannot be (errdefs.ErrInvalidArgument) and those that want the same port (errdefs.ErrConflict): the same
// address, or one of them all addresses. It looks at nothing but its argument and the Config.
func (n *NAT) Validate(forwards []Forward) error {
	taken := make(map[listener]Forward, len(forwards))
	ports := make(map[listener]Forward, len(forwards)) // by family and port: any of them
	for _, f := range forwards {
		if err := n.checkForward(f); err != nil {
			return fmt.Errorf("forward %s: %w: %w", f, err, errdefs.ErrInvalidArgument)
		}
		at, every := f.listener(), f.listener()
		every.address = unspecified(f.Listen.Addr())
		other, clash := taken[at]
		if !clash {
			other, clash = taken[every]
		}
		if !clash && f.Listen.Addr().IsUnspecified() {
			other, clash = ports[every]
		}
		if clash {
			return fmt.Errorf("forward %s: %s is taken by the forward %s; choose another port: %w", f, f.Listen, other, errdefs.ErrConflict)
		}
		taken[at], ports[every] = f, f
	}
	return nil
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func (n *NAT) checkForward(f Forward) error {
	listen := f.Listen.Addr()
	pool := n.cfg.Pool4
	if listen.Is6() {
		pool = n.cfg.Pool6
	}
	switch {
	case f.Protocol != policy.TCP && f.Protocol != policy.UDP:
		return fmt.Errorf("only tcp and udp can be forwarded")
	case f.Listen.Port() == 0 || f.Port == 0:
		return fmt.Errorf("port 0 is no port; ports are 1 to 65535")
	case !listen.IsValid() || listen.Is4In6() || listen.Zone() != "":
		return fmt.Errorf("%s is no address to listen on; 127.0.0.1, an address of the host, 0.0.0.0 or their IPv6 kind are", listen)
	case listen == netip.IPv6Loopback():
		return fmt.Errorf("the kernel brings no answer of a phone to ::1; 127.0.0.1 to the phone's IPv4 address can be")
	case listen.IsMulticast() || listen == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || listen.IsLinkLocalUnicast():
		return fmt.Errorf("%s cannot be listened on; use an address of the host that routers know", listen)
	case listen.Is4() != f.Phone.Is4():
		return fmt.Errorf("it leads from one family of addresses to the other; the phone's address must be of the family of %s", listen)
	case !pool.IsValid() || !pool.Contains(f.Phone):
		return fmt.Errorf("%s is no phone's address: it is not in the pool %s", f.Phone, pool)
	case f.Phone == n.gateway4 || f.Phone == n.gateway6 || f.Phone == pool.Addr():
		return fmt.Errorf("%s is no phone's address: it is the gateway's or the pool's own", f.Phone)
	case pool.Contains(listen) && listen != n.gateway4 && listen != n.gateway6:
		return fmt.Errorf("%s is in the phones' pool, so it is no address of the host", listen)
	}
	return nil
}
