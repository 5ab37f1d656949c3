package nat

import (
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers: reg1 is 16 bytes, of which the others are quarters or what follows them, as the kernel counts registers of 4 bytes.
const (
	reg1      = unix.NFT_REG_1
	afterIPv4 = unix.NFT_REG32_00 + 1 // behind an IPv4 address in reg1
	afterIPv6 = unix.NFT_REG32_00 + 4 // behind an IPv6 address in reg1
)

// family is one of IP's two, with what rules need of it.
type family struct {
	number      byte   // NFPROTO_
	size        uint32 // of an address
	source      uint32 // offset in the header
	destination uint32
	after       uint32 // register behind an address in reg1
}

var (
	ipv4 = family{number: unix.NFPROTO_IPV4, size: 4, source: 12, destination: 16, after: afterIPv4}
	ipv6 = family{number: unix.NFPROTO_IPV6, size: 16, source: 8, destination: 24, after: afterIPv6}
)

// join makes one rule of its parts.
func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// is matches packets of the family.
func (f family) is() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1}, equal([]byte{f.number})}
}

func (f family) loadSource() expr.Any      { return networkHeader(reg1, f.source, f.size) }
func (f family) loadDestination() expr.Any { return networkHeader(reg1, f.destination, f.size) }

// in matches an address that was loaded into reg1; out one that is not in the prefix.
func (f family) in(load expr.Any, p netip.Prefix) []expr.Any { return f.compare(load, p, expr.CmpOpEq) }
func (f family) out(load expr.Any, p netip.Prefix) []expr.Any {
	return f.compare(load, p, expr.CmpOpNeq)
}

func (f family) compare(load expr.Any, p netip.Prefix, op expr.CmpOp) []expr.Any {
	parts := []expr.Any{load}
	if p.Bits() < int(f.size)*8 {
		parts = append(parts, mask(f.size, netmask(p)))
	}
	return append(parts, &expr.Cmp{Op: op, Register: reg1, Data: p.Masked().Addr().AsSlice()})
}

// netmask is the prefix's length as an address.
func netmask(p netip.Prefix) []byte {
	m := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// to translates to the address, and the port behind it, that reg1 holds.
func (f family) to(kind expr.NATType, withPort bool) expr.Any {
	nat := &expr.NAT{Type: kind, Family: uint32(f.number), RegAddrMin: reg1}
	if withPort {
		nat.RegProtoMin = f.after
	}
	return nat
}

func networkHeader(register, offset, size uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
}

// loadPort loads the destination's port.
func loadPort(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data} }

func mask(size uint32, m []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: size, Mask: m, Xor: make([]byte, size)}
}

// named matches names of links that begin with the prefix: a comparison of its bytes alone.
func named(key expr.MetaKey, op expr.CmpOp, prefix string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}, &expr.Cmp{Op: op, Register: reg1, Data: []byte(prefix)}}
}

func protocol(number byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}, equal([]byte{number})}
}

// bits matches packets of whose flow any of the bits of a key of conntrack are set.
func bits(key expr.CtKey, any uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg1},
		mask(4, binaryutil.NativeEndian.PutUint32(any)),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
	}
}

// dstNAT is the bit of a flow's status that tells that its destination was translated (IPS_DST_NAT).
const dstNAT = 1 << 5

func translated() []expr.Any { return bits(expr.CtKeySTATUS, dstNAT) }
func begins() []expr.Any     { return bits(expr.CtKeySTATE, expr.CtStateBitNEW) }
func invalid() []expr.Any    { return bits(expr.CtKeySTATE, expr.CtStateBitINVALID) }

// local matches destinations that are addresses of this host (RTN_LOCAL).
func local() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true},
		equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }
