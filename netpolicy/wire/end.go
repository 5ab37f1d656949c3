package wire

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocol marks the routes that are ours, as others have numbers of theirs (RTPROT_*, and /etc/iproute2/rt_protos).
const protocol = 112

// end is one end of a pair, and how to reach it.
type end struct {
	w    *Wire
	conn conn
	// link is the end as it was found; fresh means that this call made it, so it has nothing yet.
	link  *netlink.LinkAttrs
	fresh bool
}

// plan is what an end should have.
type plan struct {
	addresses  []netip.Prefix
	linkLocals bool // further link-local addresses of IPv6 may stay
	neighbours []netip.Addr
	routes     []route
}

// route is one route of the main table.
type route struct {
	to           netip.Prefix
	via, from    netip.Addr // gateway, preferred source
	direct, mine bool       // scope link; protocol 112
	kernel       bool       // the kernel makes it with an address; it is only missing where somebody took it away
}

func (r route) netlink(index int) *netlink.Route {
	out := &netlink.Route{LinkIndex: index, Dst: ipNet(r.to), Gw: r.via.AsSlice(), Src: r.from.AsSlice(), Table: unix.RT_TABLE_MAIN}
	if r.direct {
		out.Scope = netlink.SCOPE_LINK
	}
	if r.mine {
		out.Protocol = protocol
	}
	if r.kernel {
		out.Protocol = unix.RTPROT_KERNEL
	}
	return out
}

// is tells whether a route of the kernel is this one.
func (r route) is(k netlink.Route) bool {
	return prefixOf(k.Dst, family(r.to.Addr())) == r.to && addrOf(k.Gw) == r.via && (!r.from.IsValid() || addrOf(k.Src) == r.from) &&
		(k.Type == unix.RTN_UNICAST || k.Type == unix.RTN_UNSPEC) && (!r.mine || k.Protocol == protocol)
}

// setAddresses gives the end the addresses of the plan, without detection of duplicates: there is nobody who could have them. It takes
// others away.
func (e end) setAddresses(ctx context.Context, p plan) error {
	want := p.addresses
	var have []netip.Prefix
	if !e.fresh {
		all, err := e.conn.addresses(e.link.Index)
		if err != nil {
			return err
		}
		for _, a := range all {
			have = append(have, a.prefix)
			if slices.Contains(want, a.prefix) || p.linkLocals && a.prefix.Addr().Is6() && a.prefix.Addr().IsLinkLocalUnicast() {
				continue
			}
			if err := e.w.act(ctx, "take address "+a.prefix.String()+" from "+e.link.Name, func() error {
				return ignore(e.conn.AddrDel(&netlink.Dummy{LinkAttrs: *e.link}, &netlink.Addr{IPNet: ipNet(a.prefix)}), unix.EADDRNOTAVAIL)
			}); err != nil {
				return err
			}
		}
	}
	for _, p := range want {
		if slices.Contains(have, p) {
			continue
		}
		address := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := e.w.act(ctx, "give address "+p.String()+" to "+e.link.Name, func() error {
			return e.conn.AddrReplace(&netlink.Dummy{LinkAttrs: *e.link}, address)
		}); err != nil {
			return err
		}
	}
	return nil
}

// setNeighbours makes the permanent neighbours of the end those of the plan.
func (e end) setNeighbours(ctx context.Context, want []netip.Addr, mac net.HardwareAddr) error {
	have := map[netip.Addr]bool{}
	if !e.fresh {
		all, err := e.conn.neighbours(e.link.Index)
		if err != nil {
			return err
		}
		for _, n := range all {
			a := addrOf(n.IP)
			if slices.Contains(want, a) && slices.Equal(n.HardwareAddr, mac) {
				have[a] = true
				continue
			}
			if slices.Contains(want, a) {
				continue // NeighSet replaces it
			}
			if err := e.w.act(ctx, "remove neighbour "+a.String()+" of "+e.link.Name, func() error {
				return ignore(e.conn.NeighDel(&n), unix.ENOENT)
			}); err != nil {
				return err
			}
		}
	}
	for _, a := range want {
		if have[a] {
			continue
		}
		if err := e.w.act(ctx, "set neighbour "+a.String()+" of "+e.link.Name, func() error {
			return e.conn.NeighSet(&netlink.Neigh{
				LinkIndex: e.link.Index, Family: family(a), State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
			})
		}); err != nil {
			return err
		}
	}
	return nil
}

// setRoutes makes the routes of the main table by this end, which is up, those of the plan. Others go if they are ours or default routes.
func (e end) setRoutes(ctx context.Context, want []route) error {
	have := make([]bool, len(want))
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		if e.fresh {
			break
		}
		all, err := e.conn.routes(f, unix.RT_TABLE_MAIN, e.link.Index)
		if err != nil {
			return err
		}
		for _, k := range all {
			to := prefixOf(k.Dst, f)
			if i := slices.IndexFunc(want, func(r route) bool { return r.is(k) }); i >= 0 && !have[i] {
				have[i] = true
				continue
			}
			if k.Protocol != protocol && to.Bits() != 0 {
				continue
			}
			if err := e.w.act(ctx, "remove route "+to.String()+" of "+e.link.Name, func() error {
				return ignore(e.conn.RouteDel(&k), unix.ESRCH)
			}); err != nil {
				return err
			}
		}
	}
	for i, r := range want {
		if have[i] || e.fresh && r.kernel {
			continue
		}
		if err := e.w.act(ctx, "set route "+r.to.String()+" of "+e.link.Name, func() error {
			return e.conn.RouteReplace(r.netlink(e.link.Index))
		}); err != nil {
			return err
		}
	}
	return nil
}
