package phone

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
)

// Pools are the addresses of the host's phones. The first of each pool is the gateway's. The zero value means that phones have no network
// but loopback.
type Pools struct {
	// IPv4 is required for a network.
	IPv4 netip.Prefix
	// IPv6 may be the zero value: then phones have no IPv6.
	IPv6 netip.Prefix
}

// Enabled reports whether phones have a network.
func (p Pools) Enabled() bool { return p.IPv4.IsValid() }

// Gateways returns the addresses of the phones' gateways; the zero value where there is none.
func (p Pools) Gateways() (ipv4, ipv6 netip.Addr) {
	if p.IPv4.IsValid() {
		ipv4 = gateway(p.IPv4)
	}
	if p.IPv6.IsValid() {
		ipv6 = gateway(p.IPv6)
	}
	return ipv4, ipv6
}

// gateway returns the first address of a pool behind that of the network itself.
func gateway(pool netip.Prefix) netip.Addr { return pool.Masked().Addr().Next() }

// usable reports whether a phone can have an address of a pool: not the network's own, the gateway's, or IPv4's broadcast.
func usable(pool netip.Prefix, a netip.Addr) bool {
	return pool.Contains(a) && gateway(pool).Less(a) && (a.Is6() || pool.Contains(a.Next()))
}

// checkAddress refuses an address that a phone cannot be given. key is the one of the configuration that holds the pool.
func checkAddress(field, key string, pool netip.Prefix, a netip.Addr) error {
	switch {
	case !a.IsValid():
		return nil
	case !pool.IsValid():
		return fault.Field(field, "must be empty: this host has no pool for it (%s)", key)
	case !usable(pool, a):
		return fault.Field(field, "%s must be an address of the pool %s and not the gateway's, %s", a, pool, gateway(pool))
	}
	return nil
}

// checkPools refuses a network that this host's phones cannot have.
func (s *Supervisor) checkPools(n Network) error {
	pools := s.cfg.Pools
	if !pools.Enabled() {
		if n.isDefault() {
			return nil
		}
		return s.CheckNetworks()
	}
	if err := checkAddress("spec.network.ipv4", "network.ipv4_pool", pools.IPv4, n.IPv4); err != nil {
		return err
	}
	if err := checkAddress("spec.network.ipv6", "network.ipv6_pool", pools.IPv6, n.IPv6); err != nil {
		return err
	}
	for i, f := range n.Forwards {
		if err := s.checkListen(fmt.Sprintf("spec.network.forwards[%d].listen", i), f); err != nil {
			return err
		}
	}
	return nil
}

// checkListen refuses a forward that leads to nobody on this host.
func (s *Supervisor) checkListen(field string, f Forward) error {
	a, pools := f.Listen.Addr(), s.cfg.Pools
	switch {
	case a.Is6() && !pools.IPv6.IsValid():
		return fault.Field(field, "%s: phones of this host have no IPv6 (network.ipv6_pool)", a)
	case pools.IPv4.Contains(a), a.Is6() && pools.IPv6.Contains(a):
		return fault.Field(field, "%s must be an address of the host and not of a pool of phones", a)
	}
	return nil
}

// Pools returns the addresses of the phones.
func (s *Supervisor) Pools() Pools { return s.cfg.Pools }

// CheckNetworks refuses what needs a network where phones have none: a fault with reason NETWORK_DISABLED.
func (s *Supervisor) CheckNetworks() error {
	if s.cfg.Pools.Enabled() {
		return nil
	}
	return fault.New(errdefs.ErrFailedPrecondition, fault.NetworkDisabled, "phones of this host have no network: set network.enabled in the agent's configuration and restart it")
}

// addressKey is the key of an address in the bucket of addresses: 16 bytes, whose order is that of the addresses of a pool.
func addressKey(a netip.Addr) []byte {
	key := a.As16()
	return key[:]
}

// takeAddress gives a phone an address: the one that it asks for, or the lowest of the pool that is free.
func takeAddress(tx *store.Tx, pool netip.Prefix, want netip.Addr, id string) (netip.Addr, error) {
	b := tx.Bucket(store.Addresses)
	if want.IsValid() {
		if owner := b.Get(addressKey(want)); owner != nil && string(owner) != id {
			return want, fault.New(errdefs.ErrAlreadyExists, fault.AddressTaken, "phone %s has the address %s", owner, want)
		}
	} else {
		want = gateway(pool).Next()
		c := b.Cursor()
		for k, _ := c.Seek(addressKey(want)); k != nil && string(k) == string(addressKey(want)); k, _ = c.Next() {
			want = want.Next()
		}
		if !usable(pool, want) {
			return want, fault.New(errdefs.ErrResourceExhausted, fault.NoFreeAddress, "all addresses of the pool %s are taken", pool)
		}
	}
	if err := b.Put(addressKey(want), []byte(id)); err != nil {
		return want, fmt.Errorf("take address %s for %s: %w", want, id, err)
	}
	return want, nil
}

// freeAddress takes an address from a phone; the zero value is none.
func freeAddress(tx *store.Tx, a netip.Addr, id string) error {
	b := tx.Bucket(store.Addresses)
	if !a.IsValid() || string(b.Get(addressKey(a))) != id {
		return nil
	}
	if err := b.Delete(addressKey(a)); err != nil {
		return fmt.Errorf("free address %s of %s: %w", a, id, err)
	}
	return nil
}

// takeAddresses gives a new phone its addresses, on a host that has any.
func (s *Supervisor) takeAddresses(tx *store.Tx, r *Record) (err error) {
	pools, n := s.cfg.Pools, r.Spec.Network
	if pools.Enabled() {
		r.IPv4, err = takeAddress(tx, pools.IPv4, n.IPv4, r.Spec.ID)
	}
	if err == nil && pools.IPv6.IsValid() {
		r.IPv6, err = takeAddress(tx, pools.IPv6, n.IPv6, r.Spec.ID)
	}
	return err
}

// freeAddresses takes a phone's addresses from it.
func freeAddresses(tx *store.Tx, r *Record) error {
	for _, a := range []netip.Addr{r.IPv4, r.IPv6} {
		if err := freeAddress(tx, a, r.Spec.ID); err != nil {
			return err
		}
	}
	return nil
}

// settleAddresses brings a record of an earlier agent in line with the pools, and reports whether that changed it: phones of releases
// that knew no networks get their addresses, and so do those whose chosen one lies outside by now. An address that was asked for stays,
// though it cannot be had: its owner decides.
func (s *Supervisor) settleAddresses(tx *store.Tx, r *Record) (changed bool, err error) {
	pools := s.cfg.Pools
	if !pools.Enabled() {
		return false, nil // they are kept for the day on which it is enabled again
	}
	for _, a := range []struct {
		has  *netip.Addr
		want netip.Addr
		pool netip.Prefix
	}{{&r.IPv4, r.Spec.Network.IPv4, pools.IPv4}, {&r.IPv6, r.Spec.Network.IPv6, pools.IPv6}} {
		if a.want.IsValid() && *a.has == a.want || a.pool.IsValid() && a.has.IsValid() && usable(a.pool, *a.has) || !a.pool.IsValid() && !a.has.IsValid() {
			continue
		}
		if err := freeAddress(tx, *a.has, r.Spec.ID); err != nil {
			return false, err
		}
		*a.has, changed = netip.Addr{}, true
		if !a.pool.IsValid() {
			continue
		}
		if *a.has, err = takeAddress(tx, a.pool, a.want, r.Spec.ID); err != nil {
			return false, err
		}
	}
	return changed, nil
}
