package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// pair finds the phone's pair, or makes it unless it must be there. A pair whose other end is not in the phone's namespace is deleted.
func (w *Wire) pair(ctx context.Context, id string, ns inside, mtu int, must bool) (host, guest end, err error) {
	link, err := w.hostEnd(id)
	if err != nil {
		return end{}, end{}, err
	}
	if link != nil {
		peer, err := w.peer(link, ns)
		if err != nil {
			return end{}, end{}, err
		}
		if peer != nil {
			return end{w: w, conn: w.conn, link: link.Attrs()}, end{w: w, conn: ns.conn, link: peer.Attrs()}, nil
		}
		w.log.Warn("the phone's end of a link is not in the phone's namespace; making the link anew", "phone", id, "link", link.Attrs().Name)
		if err := w.removeLink(ctx, link); err != nil {
			return end{}, end{}, err
		}
	}
	if must {
		return end{}, end{}, fmt.Errorf("there is no link: Ensure makes it: %w", errdefs.ErrFailedPrecondition)
	}
	return w.makePair(ctx, id, ns, mtu)
}

// peer returns the other end of a host end, nil when it is not in the namespace.
func (w *Wire) peer(host netlink.Link, ns inside) (netlink.Link, error) {
	a := host.Attrs()
	number, err := w.conn.GetNetNsIdByFd(int(ns.file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("ask for the number of the phone's namespace: %w", err)
	}
	if number < 0 || number != a.NetNsID {
		return nil, nil
	}
	peer, err := ns.conn.LinkByIndex(a.ParentIndex)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the phone's end of %s: %w", a.Name, err)
	}
	return peer, nil
}

// makePair makes a pair with both ends down. One message makes both ends, so there is no half of one; the alias comes later (setHost).
func (w *Wire) makePair(ctx context.Context, id string, ns inside, mtu int) (host, guest end, err error) {
	guestMAC, hostMAC := MACs(id)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = LinkName(id), mtu, hostMAC
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = GuestLink, netlink.NsFd(int(ns.file.Fd()))
	veth.PeerHardwareAddr, veth.PeerMTU = guestMAC, uint32(mtu)
	add := func() error { return w.conn.LinkAdd(veth) }
	err = w.act(ctx, "make the pair", add)
	if errors.Is(err, unix.EEXIST) {
		if err := w.freeName(ctx, ns.conn, 0); err != nil {
			return end{}, end{}, err
		}
		err = w.act(ctx, "make the pair", add)
	}
	if err != nil {
		return end{}, end{}, err
	}
	link, err := w.conn.LinkByName(attrs.Name)
	if err != nil {
		return end{}, end{}, fmt.Errorf("look for %s: %w", attrs.Name, err)
	}
	peer := &netlink.LinkAttrs{Index: link.Attrs().ParentIndex, Name: GuestLink, MTU: mtu, HardwareAddr: guestMAC}
	return end{w: w, conn: w.conn, link: link.Attrs(), fresh: true}, end{w: w, conn: ns.conn, link: peer, fresh: true}, nil
}

// freeName renames the link that has taken the name eth0 in a phone's namespace, unless it is the one with the index ours.
func (w *Wire) freeName(ctx context.Context, c conn, ours int) error {
	link, err := c.LinkByName(GuestLink)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for %s in the phone's namespace: %w", GuestLink, err)
	}
	a := link.Attrs()
	if a.Name != GuestLink { // it is a second name
		return w.act(ctx, "take the second name "+GuestLink+" from "+a.Name, func() error { return c.LinkDelAltName(link, GuestLink) })
	}
	if a.Index == ours {
		return nil
	}
	w.log.Warn("renaming a link of a guest's own that has taken the name of the phone's", "link", GuestLink, "kind", link.Type())
	return w.act(ctx, "rename the guest's "+GuestLink, func() error {
		if err := c.LinkSetDown(link); err != nil {
			return err
		}
		return c.LinkSetName(link, "guest%d") // the kernel puts the first free number there
	})
}

// setHost makes the host end what it should be. Routes need a link that is up.
func (w *Wire) setHost(ctx context.Context, e end, p Phone, mtu int, up bool) error {
	guestMAC, hostMAC := MACs(p.ID)
	if err := e.setLink(ctx, mtu, hostMAC); err != nil {
		return err
	}
	for _, s := range w.hostSettings(e.link.Name) {
		if err := w.act(ctx, "set "+s.path, s.set); err != nil {
			return err
		}
	}
	if want := aliasPrefix + p.ID; e.link.Alias != want {
		if err := w.act(ctx, "set the alias", func() error {
			return e.conn.LinkSetAlias(&netlink.Dummy{LinkAttrs: *e.link}, want)
		}); err != nil {
			return err
		}
	}
	plan := w.hostPlan(p)
	if err := e.setAddresses(ctx, plan); err != nil {
		return err
	}
	if err := e.setNeighbours(ctx, plan.neighbours, guestMAC); err != nil {
		return err
	}
	if e.link.Flags&net.FlagUp == 0 {
		if !up {
			return nil
		}
		if err := w.act(ctx, "bring up "+e.link.Name, func() error { return e.conn.LinkSetUp(&netlink.Dummy{LinkAttrs: *e.link}) }); err != nil {
			return err
		}
	}
	return e.setRoutes(ctx, plan.routes)
}

// hostPlan is what the host end should have.
func (w *Wire) hostPlan(p Phone) plan {
	gateway4, gateway6 := Gateway(w.config.Pool4), Gateway(w.config.Pool6)
	out := plan{
		addresses:  []netip.Prefix{single(gateway4)},
		neighbours: []netip.Addr{p.IPv4},
		routes:     []route{{to: single(p.IPv4), from: gateway4, direct: true, mine: true}},
	}
	if p.IPv6.IsValid() {
		out.addresses = append(out.addresses, single(gateway6), netip.PrefixFrom(linkLocalGateway, 64))
		out.neighbours = append(out.neighbours, p.IPv6)
		out.routes = append(out.routes, route{to: single(p.IPv6), from: gateway6, mine: true})
	}
	return out
}

// setGuest makes the phone's end what it should be, and brings it up.
func (w *Wire) setGuest(ctx context.Context, e end, p Phone, mtu int) error {
	guestMAC, hostMAC := MACs(p.ID)
	link := &netlink.Dummy{LinkAttrs: *e.link}
	if e.link.Name != GuestLink {
		if err := w.freeName(ctx, e.conn, e.link.Index); err != nil {
			return err
		}
		if err := w.act(ctx, "name the phone's end "+GuestLink, func() error {
			if err := e.conn.LinkSetDown(link); err != nil { // a link that is up cannot be renamed before Linux 6.3
				return err
			}
			return e.conn.LinkSetName(link, GuestLink)
		}); err != nil {
			return err
		}
		e.link.Name, e.link.Flags = GuestLink, e.link.Flags&^net.FlagUp
	}
	if e.link.MasterIndex != 0 {
		if err := w.act(ctx, "free the phone's end from its master", func() error { return e.conn.LinkSetNoMaster(link) }); err != nil {
			return err
		}
	}
	if e.link.MTU < minMTU { // IPv6 is gone from it and begins anew, as on a link that comes up
		if err := w.act(ctx, "take down the phone's end", func() error { return e.conn.LinkSetDown(link) }); err != nil {
			return err
		}
		e.link.Flags &^= net.FlagUp
	}
	if err := e.setLink(ctx, mtu, guestMAC); err != nil {
		return err
	}
	if e.link.Flags&net.FlagUp == 0 {
		// No addresses of the kernel's own: those would be tentative for a second after the guest has started.
		if err := w.act(ctx, "keep the kernel from making addresses", func() error {
			return e.conn.LinkSetIP6AddrGenMode(link, nl6AddrGenNone)
		}); err != nil {
			return err
		}
		if err := w.act(ctx, "bring up the phone's end", func() error { return e.conn.LinkSetUp(link) }); err != nil {
			return err
		}
	}
	plan := w.guestPlan(p, guestMAC)
	err := e.set(ctx, plan, hostMAC)
	if errors.Is(err, unix.EACCES) { // the guest has switched IPv6 off on its link
		if err := w.act(ctx, "switch IPv6 on", func() error {
			return w.config.NetNS.Do(p.ID, setting{path: "ipv6/conf/" + GuestLink + "/disable_ipv6", value: "0"}.set)
		}); err != nil {
			return err
		}
		err = e.set(ctx, plan, hostMAC)
	}
	return err
}

// set gives an end that is up what a plan says.
func (e end) set(ctx context.Context, p plan, peer net.HardwareAddr) error {
	if err := e.setAddresses(ctx, p); err != nil {
		return err
	}
	if err := e.setNeighbours(ctx, p.neighbours, peer); err != nil {
		return err
	}
	return e.setRoutes(ctx, p.routes)
}

// guestPlan is what the phone's end should have.
func (w *Wire) guestPlan(p Phone, m net.HardwareAddr) plan {
	gateway := Gateway(w.config.Pool4)
	out := plan{
		addresses:  []netip.Prefix{netip.PrefixFrom(p.IPv4, w.config.Pool4.Bits())},
		linkLocals: true, // Android may make its own
		neighbours: []netip.Addr{gateway},
		routes: []route{
			{to: w.config.Pool4, from: p.IPv4, direct: true, kernel: true},
			{to: netip.PrefixFrom(netip.IPv4Unspecified(), 0), via: gateway},
		},
	}
	if p.IPv6.IsValid() {
		out.addresses = append(out.addresses, single(p.IPv6), netip.PrefixFrom(linkLocal(m), 64))
		out.neighbours = append(out.neighbours, linkLocalGateway)
		out.routes = append(out.routes, route{to: netip.PrefixFrom(netip.IPv6Unspecified(), 0), via: linkLocalGateway})
	}
	return out
}

// setLink makes the MTU and the MAC of an end what they should be.
func (e end) setLink(ctx context.Context, mtu int, mac net.HardwareAddr) error {
	link := &netlink.Dummy{LinkAttrs: *e.link}
	if e.link.MTU != mtu {
		if err := e.w.act(ctx, fmt.Sprintf("set the MTU of %s to %d", e.link.Name, mtu), func() error { return e.conn.LinkSetMTU(link, mtu) }); err != nil {
			return err
		}
	}
	if e.link.HardwareAddr.String() != mac.String() {
		return e.w.act(ctx, fmt.Sprintf("set the MAC of %s to %s", e.link.Name, mac), func() error { return e.conn.LinkSetHardwareAddr(link, mac) })
	}
	return nil
}

// isGone tells whether an error says that there is no such link.
func isGone(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing) || errors.Is(err, unix.ENODEV)
}

func ignoreGone(err error) error {
	if isGone(err) {
		return nil
	}
	return err
}

// ignore returns nil for the error that says that what was to be removed is not there.
func ignore(err error, gone unix.Errno) error {
	if errors.Is(err, gone) {
		return nil
	}
	return err
}
