package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn speaks rtnetlink in one network namespace. It may be used by several goroutines.
type conn struct {
	*netlink.Handle
	// own is a socket of ours beside the handle's, for dumps of one link's addresses: the handle can only list those of all links.
	own *nl.SocketHandle
}

// dial opens a conn in the calling thread's namespace.
func dial() (conn, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return conn{}, fmt.Errorf("open a netlink socket: %w", err)
	}
	s, err := nl.GetNetlinkSocketAt(-1, -1, unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return conn{}, fmt.Errorf("open a netlink socket: %w", err)
	}
	c := conn{Handle: h, own: &nl.SocketHandle{Socket: s}}
	// Strict checking (Linux 4.20) makes the kernel filter dumps as they ask, which else returns what all phones have for each.
	err = h.SetStrictCheck(true)
	if err == nil {
		err = unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	}
	if err != nil {
		c.Close()
		return conn{}, fmt.Errorf("make netlink filter what it lists: %w", err)
	}
	return c, nil
}

// Close closes both sockets.
func (c conn) Close() {
	c.Handle.Close()
	c.own.Close()
}

// address is one address of a link.
type address struct {
	prefix netip.Prefix
	index  int // of the link
}

// addresses returns the addresses of the link, or of all links for 0.
func (c conn) addresses(index int) ([]address, error) {
	return retry(func() ([]address, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: c.own}
		msg := nl.NewIfAddrmsg(unix.AF_UNSPEC)
		msg.Index = uint32(index)
		req.AddData(msg)
		messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		var all []address
		for _, m := range messages {
			a, ok, err := parseAddress(m)
			if err != nil {
				return nil, err
			}
			if ok && (index == 0 || a.index == index) {
				all = append(all, a)
			}
		}
		return all, nil
	})
}

// parseAddress reads an RTM_NEWADDR message; ok is false for families other than IP.
func parseAddress(message []byte) (a address, ok bool, err error) {
	if len(message) < unix.SizeofIfAddrmsg {
		return address{}, false, fmt.Errorf("address message of %d bytes: want %d at least", len(message), unix.SizeofIfAddrmsg)
	}
	head := nl.DeserializeIfAddrmsg(message)
	if head.Family != unix.AF_INET && head.Family != unix.AF_INET6 {
		return address{}, false, nil
	}
	attributes, err := nl.ParseRouteAttr(message[head.Len():])
	if err != nil {
		return address{}, false, fmt.Errorf("address message: %w", err)
	}
	var peer, local netip.Addr
	for _, attribute := range attributes {
		switch attribute.Attr.Type {
		case unix.IFA_ADDRESS:
			peer, _ = netip.AddrFromSlice(attribute.Value)
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(attribute.Value)
		}
	}
	if !local.IsValid() { // IPv6 without a peer
		local = peer
	}
	if !local.IsValid() {
		return address{}, false, errors.New("address message without an address")
	}
	return address{prefix: netip.PrefixFrom(local, int(head.Prefixlen)), index: int(head.Index)}, true, nil
}

// routes returns the routes of one table, or of all for unix.RT_TABLE_UNSPEC; those by one link for an index other than 0.
func (c conn) routes(family, table, index int) ([]netlink.Route, error) {
	return retry(func() ([]netlink.Route, error) {
		filter, mask := &netlink.Route{Table: table, LinkIndex: index}, netlink.RT_FILTER_TABLE
		if index != 0 {
			mask |= netlink.RT_FILTER_OIF
		}
		all, err := c.RouteListFiltered(family, filter, mask)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) { // a table that nobody has used yet; a kernel without IPv6
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		return all, nil
	})
}

// neighbours returns the permanent neighbours of a link.
func (c conn) neighbours(index int) ([]netlink.Neigh, error) {
	return retry(func() ([]netlink.Neigh, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: c.own}
		req.AddData(&netlink.Ndmsg{})
		req.AddData(nl.NewRtAttr(netlink.NDA_IFINDEX, nl.Uint32Attr(uint32(index))))
		messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		var all []netlink.Neigh
		for _, m := range messages {
			n, err := netlink.NeighDeserialize(m)
			if err != nil {
				return nil, fmt.Errorf("neighbour message: %w", err)
			}
			if n.LinkIndex == index && n.State&netlink.NUD_PERMANENT != 0 && (n.Family == unix.AF_INET || n.Family == unix.AF_INET6) {
				all = append(all, *n)
			}
		}
		return all, nil
	})
}

// retry calls list until what it lists did not change meanwhile, ten times at most.
func retry[T any](list func() (T, error)) (all T, err error) {
	for range 10 {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// ipNet returns a prefix as netlink takes it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: net.IP(p.Addr().AsSlice()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf returns the prefix of an IPNet; of nil, that of a default route.
func prefixOf(n *net.IPNet, family int) netip.Prefix {
	if n == nil {
		if family == unix.AF_INET {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	ones, width := n.Mask.Size()
	if width == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones)
}

// addrOf returns an IP as an address; the zero value for nil.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// single returns the prefix of one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
