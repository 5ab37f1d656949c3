package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"

	"github.com/containerd/errdefs"
)

// Gateway returns the gateway's address in a pool: the first one after the network's own, which in IPv6 is the anycast address of its
// routers (RFC 4291, section 2.6.1). It is the zero value for a pool that CheckPool refuses.
func Gateway(pool netip.Prefix) netip.Addr {
	if CheckPool(pool) != nil {
		return netip.Addr{}
	}
	return pool.Addr().Next()
}

// CheckPool returns an error of errdefs.ErrInvalidArgument that says what is wrong with a pool: it is a masked prefix of unicast addresses
// with room for the gateway and one phone at least, /8 to /29 for IPv4 and /32 to /126 for IPv6.
func CheckPool(pool netip.Prefix) error {
	low, high := 8, 29
	if pool.Addr().Is6() {
		low, high = 32, 126
	}
	var why string
	switch a := pool.Addr(); {
	case !pool.IsValid():
		why = "is no prefix: write it as 10.213.0.0/16 or fd70:686f:6e65::/64"
	case a.Is4In6():
		why = "is an IPv4 prefix in IPv6: write it as IPv4"
	case pool != pool.Masked():
		why = fmt.Sprintf("has bits behind its length: did you mean %s?", pool.Masked())
	case pool.Bits() < low || pool.Bits() > high:
		why = fmt.Sprintf("has a length of %d: it must be %d to %d", pool.Bits(), low, high)
	case !a.IsGlobalUnicast() || a.Is4() && a.As4()[0] == 0 || a.Is4() && a.As4()[0] >= 240:
		why = "is no prefix of unicast addresses"
	default:
		return nil
	}
	return fmt.Errorf("pool %s %s: %w", pool, why, errdefs.ErrInvalidArgument)
}

// Size returns how many phones a pool has addresses for, math.MaxUint64 for more than can be counted.
func Size(pool netip.Prefix) uint64 {
	if CheckPool(pool) != nil {
		return 0
	}
	free := pool.Addr().BitLen() - pool.Bits()
	taken := uint64(2) // the network's own address and the gateway's
	if pool.Addr().Is4() {
		taken++ // broadcast
	}
	if free > 64 {
		return math.MaxUint64
	}
	return uint64(1)<<free - taken // 1<<64 is 0, and the subtraction wraps to what is meant
}

// Nth returns the n-th address for phones in a pool, counted from 0: Nth(10.213.0.0/16, 0) is 10.213.0.2. It is the zero value when there are
// not so many.
func Nth(pool netip.Prefix, n uint64) netip.Addr {
	if n >= Size(pool) {
		return netip.Addr{}
	}
	if pool.Addr().Is4() {
		a := pool.Addr().As4()
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(a[:])+2+uint32(n))))
	}
	a := pool.Addr().As16()
	low, carry := bits.Add64(binary.BigEndian.Uint64(a[8:]), n, 0)
	low, more := bits.Add64(low, 2, 0)
	binary.BigEndian.PutUint64(a[8:], low)
	binary.BigEndian.PutUint64(a[:8], binary.BigEndian.Uint64(a[:8])+carry+more)
	return netip.AddrFrom16(a)
}

// Usable returns nil when a phone may have the address, else an error of errdefs.ErrInvalidArgument that says why not.
func Usable(pool netip.Prefix, address netip.Addr) error {
	if err := CheckPool(pool); err != nil {
		return err
	}
	var why string
	switch {
	case !address.IsValid():
		why = "is missing"
	case address.Zone() != "" || !pool.Contains(address):
		why = "is not in the pool " + pool.String()
	case address == pool.Addr():
		why = "is the network's own address"
	case address == Gateway(pool):
		why = "is the gateway's"
	case address.Is4() && address == last(pool):
		why = "is the broadcast address"
	default:
		return nil
	}
	highest := last(pool)
	if highest.Is4() {
		highest = highest.Prev()
	}
	return fmt.Errorf("address %s %s: choose one from %s to %s: %w", address, why, Nth(pool, 0), highest, errdefs.ErrInvalidArgument)
}

// last returns the highest address in a prefix.
func last(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As16()
	first := p.Bits() + 128 - p.Addr().BitLen()
	for i := first; i < 128; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	address := netip.AddrFrom16(a)
	if p.Addr().Is4() {
		return address.Unmap()
	}
	return address
}
