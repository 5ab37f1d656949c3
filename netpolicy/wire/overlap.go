package wire

import (
	"errors"
	"fmt"
	"net/netip"
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
	key, example := "network.ipv4_pool", "10.213.0.0/16"
	if pool.Addr().Is6() {
		key, example = "network.ipv6_pool", "fd70:686f:6e65::/64"
	}
	for _, f := range found {
		if f.prefix.Overlaps(pool) {
			return fmt.Errorf("%s: the pool %s overlaps with %s, which this host uses (%s): set %s to a prefix that is free, as %s may be: %w",
				key, pool, f.prefix, w.where(f), key, example, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// where says of what a finding is, for people.
func (w *Wire) where(f finding) string {
	what := "an address"
	switch {
	case f.table == 0 && f.class == Network:
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
