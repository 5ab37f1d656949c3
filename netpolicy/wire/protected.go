package wire

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Why an address is protected: enum protected_class of layout.h, with its numbers.
const (
	ClassPhone     uint8 = 1 // the pools
	ClassHost      uint8 = 2 // an address of the host
	ClassNetwork   uint8 = 3 // a network that the host is in or has a route to, default routes apart
	ClassLinkLocal uint8 = 4
	ClassMetadata  uint8 = 5
	ClassReserved  uint8 = 6
	ClassPrivate   uint8 = 7
)

// rank orders the classes of one and the same prefix: the first is what a denial will name.
var rank = []uint8{ClassMetadata, ClassPhone, ClassHost, ClassLinkLocal, ClassReserved, ClassNetwork, ClassPrivate}

// Protected returns what phones must not reach on this host unless a policy names it, sorted, each prefix once: the pools, the host's
// addresses, the networks that it is in or has routes to, what special lists, and what NAT64 makes of all of these that are IPv4.
//
// A default route in two or more pieces (0.0.0.0/1 and 128.0.0.0/1, as VPNs make it) is a default route: routes shorter than /8, and /7 of
// IPv6, make nothing protected.
func (w *Wire) Protected(ctx context.Context) ([]policy.AddressClass, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("list protected addresses: %w", err)
	}
	found, err := w.survey()
	if err != nil {
		return nil, fmt.Errorf("list protected addresses: %w", err)
	}
	set := classes{}
	for class, all := range special {
		for _, p := range all {
			set.add(p, class)
		}
	}
	for _, pool := range w.pools() {
		set.add(pool, ClassPhone)
		set.add(single(Gateway(pool)), ClassHost)
	}
	set.add(single(linkLocalGateway), ClassHost)
	for _, f := range found {
		set.add(f.prefix, f.class)
	}
	return set.list(), nil
}

func (w *Wire) pools() []netip.Prefix {
	if w.config.Pool6.IsValid() {
		return []netip.Prefix{w.config.Pool4, w.config.Pool6}
	}
	return []netip.Prefix{w.config.Pool4}
}

// classes is what each prefix is.
type classes map[netip.Prefix]uint8

// add adds a prefix, and its translation, unless it has a class of a higher rank. Neither mapped addresses nor multicast are taken.
func (c classes) add(p netip.Prefix, class uint8) {
	if p = p.Masked(); p.Addr().Is4In6() || p.Addr().IsMulticast() {
		return
	}
	if class == ClassNetwork && p.Addr().IsLinkLocalUnicast() { // every link's own fe80::/64
		class = ClassLinkLocal
	}
	if old, ok := c[p]; !ok || slices.Index(rank, class) < slices.Index(rank, old) {
		c[p] = class
	}
	if p.Addr().Is4() {
		c.add(translate(p), class)
	}
}

func (c classes) list() []policy.AddressClass {
	out := make([]policy.AddressClass, 0, len(c))
	for _, p := range slices.SortedFunc(maps.Keys(c), compare) {
		out = append(out, policy.AddressClass{Prefix: p, Class: c[p]})
	}
	return out
}

func compare(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// finding is one prefix that the host uses, not for phones.
type finding struct {
	prefix netip.Prefix
	class  uint8 // ClassHost or ClassNetwork
	index  int   // of the link, 0 for none
	table  int   // of the route, 0 for an address
}

// survey returns the host's addresses and the routes of all tables but those of phones' links and ours, sorted.
func (w *Wire) survey() ([]finding, error) {
	ours, err := w.ourLinks()
	if err != nil {
		return nil, err
	}
	addresses, err := w.conn.addresses(0)
	if err != nil {
		return nil, err
	}
	var found []finding
	for _, a := range addresses {
		if ours[a.index] {
			continue
		}
		found = append(found, finding{prefix: single(a.prefix.Addr()), class: ClassHost, index: a.index})
		if p := a.prefix.Masked(); !isDefault(p) {
			found = append(found, finding{prefix: p, class: ClassNetwork, index: a.index})
		}
	}
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := w.conn.routes(f, unix.RT_TABLE_UNSPEC, 0)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if one, ok := findingOf(r, f); ok && !ours[r.LinkIndex] {
				found = append(found, one)
			}
		}
	}
	slices.SortFunc(found, func(a, b finding) int {
		return cmp.Or(compare(a.prefix, b.prefix), cmp.Compare(a.class, b.class), cmp.Compare(a.table, b.table), cmp.Compare(a.index, b.index))
	})
	return slices.Compact(found), nil
}

// findingOf returns what a route says about the host; ok is false when that is nothing.
func findingOf(r netlink.Route, f int) (one finding, ok bool) {
	one = finding{prefix: prefixOf(r.Dst, f), class: ClassNetwork, index: r.LinkIndex, table: r.Table}
	switch r.Type {
	case unix.RTN_LOCAL, unix.RTN_ANYCAST:
		one.class = ClassHost
	case unix.RTN_MULTICAST, unix.RTN_THROW:
		return finding{}, false
	}
	if len(r.MultiPath) > 0 {
		one.index = r.MultiPath[0].LinkIndex
	}
	return one, r.Protocol != protocol && !isDefault(one.prefix)
}

// isDefault tells whether a route to p is a default route or a piece of one.
func isDefault(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() < 8
	}
	return p.Bits() < 7
}

// trialLink is the link of a trial of netpolicy/nat, which has the gateway's addresses for some tens of milliseconds, or until the
// next trial when the process was killed in between.
const trialLink = Prefix + "trial"

// ourLinks returns the indexes of the phones' host ends, and of a trial's.
func (w *Wire) ourLinks() (map[int]bool, error) {
	links, err := w.hostEnds()
	if err != nil {
		return nil, err
	}
	ours := map[int]bool{}
	switch link, err := w.conn.LinkByName(trialLink); {
	case err == nil:
		ours[link.Attrs().Index] = link.Type() == "veth"
	case !isGone(err):
		return nil, fmt.Errorf("look for %s: %w", trialLink, err)
	}
	for _, link := range links {
		ours[link.Index] = true
	}
	return ours, nil
}
