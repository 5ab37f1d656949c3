package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// CheckPools returns an error of errdefs.ErrFailedPrecondition when the host uses addresses of a pool already: an address of any link but the
// phones', or a route of any table but default routes (see Protected) and ours. It names the other network, where it is, and what to change.
func (w *Wire) CheckPools() error {
	found, err := w.survey()
	if err != nil {
		return fmt.Errorf("check the pools: %w", err)
	}
	var errs []error
	for _, pool := range w.pools() {
		if err := w.checkPool(pool, found); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (w *Wire) checkPool(pool netip.Prefix, found []finding) error {
	i := slices.IndexFunc(found, func(f finding) bool { return f.prefix.Overlaps(pool) })
	if i < 0 {
		return nil
	}
	key, free := "network.ipv4_pool", ""
	if pool.Addr().Is6() {
		key = "network.ipv6_pool"
	}
	if p := suggest(pool, found); p.IsValid() {
		free = ", such as " + p.String()
	}
	return fmt.Errorf("the pool %s overlaps with %s, which this host uses (%s): set %s to a prefix that is free%s: %w",
		pool, found[i].prefix, w.where(found[i]), key, free, errdefs.ErrFailedPrecondition)
}

// suggest returns a private prefix as long as pool, or a longer one, that is free; the zero value when none of those that it tries is.
func suggest(pool netip.Prefix, found []finding) netip.Prefix {
	for i := range 256 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213 + byte(i)}), max(pool.Bits(), 16))
		if pool.Addr().Is6() {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 'p', 'h', 'o', 'n', 'e', 0, byte(i)}), max(pool.Bits(), 64))
		}
		if !slices.ContainsFunc(found, func(f finding) bool { return f.prefix.Overlaps(p) }) {
			return p
		}
	}
	return netip.Prefix{}
}

// where says of what a finding is, for people.
func (w *Wire) where(f finding) string {
	what := "an address"
	switch {
	case f.table == 0 && f.class == ClassNetwork:
		what = "a network of an address"
	case f.table == unix.RT_TABLE_MAIN:
		what = "a route"
	case f.table != 0:
		what = "a route of table " + tableName(f.table)
	}
	if f.index == 0 {
		return what
	}
	name := "number " + strconv.Itoa(f.index)
	if link, err := w.conn.LinkByIndex(f.index); err == nil {
		name = link.Attrs().Name
	}
	return what + " on interface " + name
}

func tableName(table int) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return strconv.Itoa(table)
}
