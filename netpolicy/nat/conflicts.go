package nat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Conflict is rules of the host that drop what phones send to the world or to the name server.
type Conflict struct {
	// Names tells that it is what phones ask the name server at the gateway; else what they send to the world.
	Names bool
	// IPv6 tells of which family the packets are; else IPv4.
	IPv6 bool
	// Owner is who made the rules, as far as can be told: "Docker", "firewalld", "ufw", "iptables", "iptables-legacy", "nftables".
	Owner string
	// Table and Chain are where the packet was dropped ("inet firewalld", "filter_FORWARD"), and Rule is the rule's handle, 0 for the
	// chain's policy. All are empty for iptables-legacy, which does not tell.
	Table, Chain string
	Rule         uint64
	// Text says in one sentence what would be dropped by what.
	Text string
	// Mend are commands for root's shell that let phones through.
	Mend []string
}

// Conflicts tries whether what phones send to the world and what they ask the name server would get there, by one packet each of each
// family of addresses that the host has a way out for, and tells whose rules drop it. Nothing leaves the host. It takes some tens of
// milliseconds, or one and a half seconds more for each packet that vanishes, and needs CAP_NET_ADMIN and CAP_NET_RAW. While it runs there is a
// link and a table more on the host.
//
// Answers and what comes in by forwards are not tried: firewalls let through what belongs to a connection that they let begin, and the
// commands of Mend let through both directions.
//
// An error is of the class errdefs.ErrFailedPrecondition where the host does not forward at all.
func (n *NAT) Conflicts(ctx context.Context) (found []Conflict, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	probes := n.probes()
	if len(probes) == 0 {
		return nil, nil
	}
	t, err := n.newTrial(ctx, probes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.remove(ctx, t.link)) }()
	for _, p := range probes {
		o, err := t.send(ctx, p)
		if err != nil {
			return found, err
		}
		conflict, err := n.judge(ctx, p, o)
		if err != nil {
			return found, err
		}
		if conflict != nil {
			found = append(found, *conflict)
		}
	}
	return found, nil
}

// probes are the packets to try: two of each family with a pool and a way out.
func (n *NAT) probes() []probe {
	var all []probe
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		pool, gateway := n.cfg.Pool4, n.gateway4
		if family == unix.NFPROTO_IPV6 {
			pool, gateway = n.cfg.Pool6, n.gateway6
		}
		if !pool.IsValid() {
			continue
		}
		if _, err := netlink.RouteGet(net.IP(trialTo[family].AsSlice())); err != nil {
			continue // no way out, for which no rules are to blame
		}
		if from, ok := unused(pool); ok {
			all = append(all,
				probe{family: family, protocol: unix.IPPROTO_TCP, from: from, to: trialTo[family], port: worldPort},
				probe{family: family, protocol: unix.IPPROTO_UDP, from: from, to: gateway, port: namesPort})
		}
	}
	return all
}

// unused is the last address of a pool, but its very last, that has no route of its own.
func unused(pool netip.Prefix) (netip.Addr, bool) {
	address := last(pool)
	for range 1 << 10 {
		if address = address.Prev(); !pool.Contains(address) {
			break
		}
		if !hasRoute(address) {
			return address, true
		}
	}
	return netip.Addr{}, false
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// hasRoute reports whether there is a route to the address alone, as each phone has one.
func hasRoute(a netip.Addr) bool {
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Dst: alone(a)}, netlink.RT_FILTER_DST)
	return err != nil || len(routes) > 0
}

// judge makes a conflict of what became of a packet; nil if it passed.
func (n *NAT) judge(ctx context.Context, p probe, o outcome) (*Conflict, error) {
	var c *Conflict
	switch {
	case o.passed:
		return nil, nil
	case o.dropped:
		var err error
		if c, err = blame(ctx, o.drop, p.names()); err != nil {
			return nil, err
		}
	case legacyFilter(p.six()):
		c = &Conflict{Owner: "iptables-legacy"}
	case p.names():
		return nil, fmt.Errorf("a packet of %s from a phone's link does not reach the name server's address %s, and no rule drops it: %w",
			familyName(p.six()), p.to, errdefs.ErrFailedPrecondition)
	default:
		return nil, fmt.Errorf("a packet of %s from a phone's link to the world is not forwarded, and no rule drops it: forwarding is off (%s) or the uplink's route is gone: %w",
			familyName(p.six()), map[bool]string{false: "net.ipv4.conf", true: "net.ipv6.conf.all.forwarding"}[p.six()], errdefs.ErrFailedPrecondition)
	}
	c.IPv6, c.Names = p.six(), p.names()
	c.describe(n.cfg.LinkPrefix)
	return c, nil
}

func familyName(six bool) string {
	if six {
		return "IPv6"
	}
	return "IPv4"
}

// legacyFilter reports whether the filter table of the iptables of before nftables is in use, which traces of nftables do not show.
func legacyFilter(six bool) bool {
	// Not /proc/net, which is that of the main thread.
	path := "/proc/thread-self/net/ip_tables_names"
	if six {
		path = "/proc/thread-self/net/ip6_tables_names"
	}
	names, err := os.ReadFile(path)
	return err == nil && slices.ContainsFunc(bytes.Fields(names), func(name []byte) bool { return string(name) == "filter" })
}

// blame finds out who made the chain that dropped a packet. What Docker and others write with iptables is in the same tables.
func blame(ctx context.Context, drop step, names bool) (*Conflict, error) {
	conn, err := open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseLasting() }()
	family := nftables.TableFamily(drop.family)
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return nil, fmt.Errorf("list the chains of nftables: %w", err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == drop.table && c.Name == name })
	}
	c := &Conflict{Owner: "nftables", Table: tableFamily(family) + " " + drop.table, Chain: drop.chain, Rule: drop.rule}
	switch {
	case drop.table == "firewalld":
		c.Owner = "firewalld"
	case drop.table == "filter" && family != nftables.TableFamilyINet:
		switch {
		case has("DOCKER-USER") && !names: // Docker has no rules for what is for the host
			c.Owner = "Docker"
		case has("ufw-before-forward") || has("ufw6-before-forward"):
			c.Owner = "ufw"
		case has("FORWARD") || has("INPUT"):
			c.Owner = "iptables"
		}
	}
	return c, nil
}

func tableFamily(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyNetdev:
		return "netdev"
	case nftables.TableFamilyBridge:
		return "bridge"
	}
	return fmt.Sprintf("family %d", f)
}
