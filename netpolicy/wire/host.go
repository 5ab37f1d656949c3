package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	defaultMTU = 1500
	// IPv6 goes away from links with an MTU below this (RFC 8200, section 5), and a veth takes no more than that.
	minMTU, maxMTU = 1280, 65535

	nl6AddrGenNone = 1 // IN6_ADDR_GEN_MODE_NONE
)

// linkLocalGateway is on every host end: the phones' IPv6 default gateway.
var linkLocalGateway = netip.MustParseAddr("fe80::1")

// uplink is a link to the network.
type uplink struct {
	name     string
	mtu      int
	families []int // for which it has the default route
}

// Prepare does what phones need of the host as such: forwarding on the uplink, and the routes that keep the pools' free addresses here. Ensure
// does it too. See the package's comment for what that changes.
func (w *Wire) Prepare(ctx context.Context) error {
	if _, err := w.prepare(ctx); err != nil {
		return fmt.Errorf("prepare the host's network: %w", err)
	}
	return nil
}

// prepare returns the MTU of phones' links.
func (w *Wire) prepare(ctx context.Context) (mtu int, err error) {
	routes, err := w.mainRoutes()
	if err != nil {
		return 0, err
	}
	uplinks, err := w.uplinks(routes)
	if err != nil {
		return 0, err
	}
	for _, u := range uplinks {
		if err := w.forward(ctx, u); err != nil {
			return 0, err
		}
	}
	return phoneMTU(uplinks), w.holdPools(ctx, routes)
}

// mainRoutes returns the main table, both families.
func (w *Wire) mainRoutes() ([]netlink.Route, error) {
	all, err := w.conn.routes(unix.AF_INET, unix.RT_TABLE_MAIN, 0)
	if err != nil {
		return nil, err
	}
	six, err := w.conn.routes(unix.AF_INET6, unix.RT_TABLE_MAIN, 0)
	return append(all, six...), err
}

// phoneMTU is the smallest MTU of the uplinks, within what a veth with IPv6 can have.
func phoneMTU(uplinks []uplink) int {
	mtu := maxMTU
	for _, u := range uplinks {
		mtu = min(mtu, u.mtu)
	}
	if len(uplinks) == 0 {
		mtu = defaultMTU
	}
	return max(mtu, minMTU)
}

// Uplink is a link by which phones reach the rest of the world.
type Uplink struct {
	// Name of the link, and its MTU in bytes.
	Name string
	MTU  int
	// IPv4 and IPv6 tell for which the way out is there.
	IPv4, IPv6 bool
}

// Uplinks returns the configured uplink, or those of the default routes: none, one, or one for each family. It changes nothing.
// errdefs.ErrFailedPrecondition: network.uplink names a link that is not there.
func (w *Wire) Uplinks() ([]Uplink, error) {
	routes, err := w.mainRoutes()
	if err != nil {
		return nil, err
	}
	found, err := w.uplinks(routes)
	if err != nil {
		return nil, err
	}
	out := make([]Uplink, 0, len(found))
	for _, u := range found {
		out = append(out, Uplink{
			Name: u.name, MTU: u.mtu, IPv4: slices.Contains(u.families, unix.AF_INET), IPv6: slices.Contains(u.families, unix.AF_INET6),
		})
	}
	return out, nil
}

// uplinks returns the configured uplink or those of the default routes: none, one or two.
func (w *Wire) uplinks(routes []netlink.Route) ([]uplink, error) {
	if w.config.Uplink != "" {
		link, err := w.conn.LinkByName(w.config.Uplink)
		if isGone(err) {
			return nil, fmt.Errorf("network.uplink: there is no link %q: %w", w.config.Uplink, errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return nil, fmt.Errorf("network.uplink: %w", err)
		}
		return []uplink{{name: link.Attrs().Name, mtu: link.Attrs().MTU, families: []int{unix.AF_INET, unix.AF_INET6}}}, nil
	}
	var out []uplink
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		route := defaultRoute(routes, f)
		if route == nil {
			continue
		}
		index, mtu := route.LinkIndex, route.MTU
		if index == 0 && len(route.MultiPath) > 0 {
			index = route.MultiPath[0].LinkIndex
		}
		link, err := w.conn.LinkByIndex(index)
		if isGone(err) {
			continue // it has just gone, and the route with it
		}
		if err != nil {
			return nil, fmt.Errorf("look for the uplink: %w", err)
		}
		a := link.Attrs()
		if mtu == 0 || mtu > a.MTU {
			mtu = a.MTU
		}
		if i := slices.IndexFunc(out, func(u uplink) bool { return u.name == a.Name }); i >= 0 {
			out[i].families, out[i].mtu = append(out[i].families, f), min(out[i].mtu, mtu)
			continue
		}
		out = append(out, uplink{name: a.Name, mtu: mtu, families: []int{f}})
	}
	return out, nil
}

// defaultRoute returns the default route of a family with the lowest metric.
func defaultRoute(routes []netlink.Route, f int) *netlink.Route {
	var best *netlink.Route
	for i, r := range routes {
		if r.Family != f || prefixOf(r.Dst, f).Bits() != 0 || r.Type != unix.RTN_UNICAST {
			continue
		}
		if best == nil || r.Priority < best.Priority {
			best = &routes[i]
		}
	}
	return best
}

// forward lets packets through that arrive on an uplink.
func (w *Wire) forward(ctx context.Context, u uplink) error {
	if slices.Contains(u.families, unix.AF_INET) {
		s := setting{path: "ipv4/conf/" + u.name + "/forwarding", value: "1"}
		if err := w.act(ctx, "forward IPv4 from "+u.name, func() error { return w.change(s) }); err != nil {
			return err
		}
	}
	if !w.config.Pool6.IsValid() || !slices.Contains(u.families, unix.AF_INET6) {
		return nil
	}
	if _, err := readSetting("ipv6/conf/" + u.name + "/forwarding"); errors.Is(err, fs.ErrNotExist) {
		return nil // the link has no IPv6
	}
	s := setting{path: "ipv6/conf/" + u.name + "/force_forwarding", value: "1"}
	_, err := readSetting(s.path)
	switch {
	case err == nil && !w.global:
		return w.act(ctx, "forward IPv6 from "+u.name, func() error { return w.change(s) })
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return w.act(ctx, "forward IPv6", w.forwardIPv6)
	default:
		return err
	}
}

// forwardIPv6 turns on IPv6 forwarding for all links, which is all that kernels before 6.17 can do, and keeps those that take router
// advertisements taking them. A crash inside leaves accept_ra=2 here and there, which means the same as 1 on a host.
func (w *Wire) forwardIPv6() error {
	const all = "ipv6/conf/all/forwarding"
	now, err := readSetting(all)
	if errors.Is(err, fs.ErrNotExist) { // the kernel has no IPv6, or it is off
		return nil
	}
	if err != nil || now != "0" {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(sysctls, "ipv6/conf"))
	if err != nil {
		return fmt.Errorf("list links with IPv6: %w", err)
	}
	for _, e := range entries {
		accept := "ipv6/conf/" + e.Name() + "/accept_ra"
		if e.Name() == "all" { // it has no effect
			continue
		}
		// A link that is a router already ignores advertisements, and shall not begin to believe them.
		forwarding, err := readSetting("ipv6/conf/" + e.Name() + "/forwarding")
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return err
		}
		value, err := readSetting(accept)
		if err == nil && value == "1" && forwarding == "0" {
			err = w.change(setting{path: accept, value: "2"})
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return w.change(setting{path: all, value: "1"})
}

// hostSettings are those of a host end.
func (w *Wire) hostSettings(name string) []setting {
	four, six := "ipv4/conf/"+name+"/", "ipv6/conf/"+name+"/"
	out := []setting{
		{path: four + "forwarding", value: "1"},
		{path: four + "proxy_arp", value: "1"},
		{path: four + "send_redirects", value: "0"},
		{path: four + "accept_redirects", value: "0"},
		{path: "ipv4/neigh/" + name + "/proxy_delay", value: "0"},
	}
	if !w.config.Pool6.IsValid() {
		return append(out, setting{path: six + "disable_ipv6", value: "1", optional: true})
	}
	return append(out,
		setting{path: six + "addr_gen_mode", value: "1"}, // before IPv6 is switched on, which makes addresses else
		setting{path: six + "disable_ipv6", value: "0"},
		setting{path: six + "accept_dad", value: "0"},
		setting{path: six + "accept_ra", value: "0"},
		setting{path: six + "accept_redirects", value: "0"},
		setting{path: six + "forwarding", value: "1"},
		setting{path: six + "force_forwarding", value: "1", optional: true},
	)
}

// holdPools has one unreachable route for each pool, and none for pools that were.
func (w *Wire) holdPools(ctx context.Context, routes []netlink.Route) error {
	want := []netip.Prefix{w.config.Pool4}
	if w.config.Pool6.IsValid() {
		want = append(want, w.config.Pool6)
	}
	for _, r := range routes {
		if r.Protocol != protocol || r.Type != unix.RTN_UNREACHABLE {
			continue
		}
		pool := prefixOf(r.Dst, r.Family)
		if i := slices.Index(want, pool); i >= 0 {
			want = slices.Delete(want, i, i+1)
			continue
		}
		if err := w.act(ctx, "remove the route of pool "+pool.String(), func() error {
			return ignore(w.conn.RouteDel(&r), unix.ESRCH)
		}); err != nil {
			return err
		}
	}
	for _, pool := range want {
		if err := w.act(ctx, "set the route of pool "+pool.String(), func() error {
			return w.conn.RouteReplace(&netlink.Route{
				Dst: ipNet(pool), Type: unix.RTN_UNREACHABLE, Protocol: protocol, Table: unix.RT_TABLE_MAIN, Family: family(pool.Addr()),
			})
		}); err != nil {
			return err
		}
	}
	return nil
}

// Withdraw removes the routes of the pools, for when the host is to have no phones any more.
func (w *Wire) Withdraw(ctx context.Context) error {
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		all, err := w.conn.routes(f, unix.RT_TABLE_MAIN, 0)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Protocol != protocol || r.Type != unix.RTN_UNREACHABLE {
				continue
			}
			if err := w.act(ctx, "remove the route of pool "+prefixOf(r.Dst, f).String(), func() error {
				return ignore(w.conn.RouteDel(&r), unix.ESRCH)
			}); err != nil {
				return err
			}
		}
	}
	return nil
}
