package nat

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// from and to match links of phones, by the packet's way.
func (b *builder) from() []expr.Any {
	return named(expr.MetaKeyIIFNAME, expr.CmpOpEq, b.cfg.LinkPrefix)
}
func (b *builder) to() []expr.Any { return named(expr.MetaKeyOIFNAME, expr.CmpOpEq, b.cfg.LinkPrefix) }
func (b *builder) notTo() []expr.Any {
	return named(expr.MetaKeyOIFNAME, expr.CmpOpNeq, b.cfg.LinkPrefix)
}

// guard drops what comes from a phone with an address of loopback, which route_localnet lets in on some links. IPv6 has no such switch:
// its kernel drops such packets before any rule.
func (b *builder) guard() [][]expr.Any {
	return [][]expr.Any{
		join(b.from(), ipv4.is(), ipv4.in(ipv4.loadSource(), loopback4), verdict(expr.VerdictDrop)),
		join(b.from(), ipv4.is(), ipv4.in(ipv4.loadDestination(), loopback4), verdict(expr.VerdictDrop)),
	}
}

// begun gives the flows that phones begin their times, and drops new ones of a phone that has too many. What conntrack takes for no part of
// any flow is not translated: where the pool is hidden, it would leave with the phone's own address.
func (b *builder) begun() [][]expr.Any {
	var unhidden rules
	if b.cfg.Masquerade4 {
		unhidden = append(unhidden, join(b.from(), ipv4.is(), invalid(), verdict(expr.VerdictDrop)))
	}
	if b.cfg.Masquerade6 {
		unhidden = append(unhidden, join(b.from(), ipv6.is(), invalid(), verdict(expr.VerdictDrop)))
	}
	return append(append(unhidden, b.times(b.from())...),
		b.count(b.from(), ipv4, "begun4", ipv4.loadSource()),
		b.count(b.from(), ipv6, "begun6", ipv6.loadSource())).compact()
}

// reached does the same for flows that others begin to a phone.
func (b *builder) reached() [][]expr.Any {
	return append(b.times(b.to()),
		b.count(b.to(), ipv4, "reached4", ipv4.loadDestination()),
		b.count(b.to(), ipv6, "reached6", ipv6.loadDestination())).compact()
}

// rules is a list in which those that the kernel cannot have are nil.
type rules [][]expr.Any

func (r rules) compact() [][]expr.Any {
	var some [][]expr.Any
	for _, rule := range r {
		if rule != nil {
			some = append(some, rule)
		}
	}
	return some
}

// times are the rules that give flows their times, which the kernel takes until a flow is confirmed.
func (b *builder) times(link []expr.Any) rules {
	if !b.support.Timeouts {
		return nil
	}
	var all rules
	for _, t := range []times{b.cfg.Timeouts.tcp(), b.cfg.Timeouts.udp()} {
		all = append(all, join(link, protocol(t.protocol), []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_CT_TIMEOUT, Name: t.name}}))
	}
	return all
}

// count drops the packet that would begin a flow too many of the phone whose address load loads.
func (b *builder) count(link []expr.Any, f family, set string, load expr.Any) []expr.Any {
	if !b.support.Count {
		return nil
	}
	over := &expr.Connlimit{Count: 2 * b.cfg.MaxFlows, Flags: expr.NFT_CONNLIMIT_F_INV}
	return join(link, begins(), f.is(), []expr.Any{load, &expr.Dynset{
		SrcRegKey: reg1, SetName: set, Operation: unix.NFT_DYNSET_OP_ADD, Exprs: []expr.Any{over},
	}}, verdict(expr.VerdictDrop))
}

// incoming leads what arrives at a forward to its phone. What is for loopback is left alone: the kernel drops it when it is routed, but
// a translation would come before that.
func (b *builder) incoming() [][]expr.Any {
	left := join(ipv4.is(), ipv4.in(ipv4.loadDestination(), loopback4), verdict(expr.VerdictReturn))
	return append([][]expr.Any{left}, b.own()...)
}

// own leads what the host's own processes send to a forward to its phone. IPv6's loopback is left alone: the answer would not come back.
func (b *builder) own() [][]expr.Any {
	return [][]expr.Any{
		join(ipv6.is(), ipv6.in(ipv6.loadDestination(), loopback6), verdict(expr.VerdictReturn)),
		b.byAddress(ipv4, b.maps["forward4"]),
		b.byAddress(ipv6, b.maps["forward6"]),
		b.byPort(ipv4, b.maps["every4"]),
		b.byPort(ipv6, b.maps["every6"]),
	}
}

// byAddress translates to what the map has for the destination's address, protocol and port.
func (b *builder) byAddress(f family, m *nftables.Set) []expr.Any {
	return join(f.is(), []expr.Any{
		f.loadDestination(),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: f.after},
		loadPort(f.after + 1),
	}, translate(f, m))
}

// byPort translates what is for any address of the host to what the map has for protocol and port.
func (b *builder) byPort(f family, m *nftables.Set) []expr.Any {
	return join(f.is(), local(), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		loadPort(unix.NFT_REG32_00 + 1),
	}, translate(f, m))
}

// translate looks up the key that lies in reg1; a key that is not in the map ends the rule.
func translate(f family, m *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
		f.to(expr.NATTypeDestNAT, true),
	}
}

// source gives packets on their way out another source. What a forward brings to a phone from loopback, or from a phone (perhaps the
// same one), comes from the gateway: else the answer would not come back by this host, or never leave the phone. Others keep theirs, so
// that the phone sees who speaks to it.
func (b *builder) source() [][]expr.Any {
	all := [][]expr.Any{b.viaGateway(ipv4, ipv4.in(ipv4.loadSource(), loopback4)), b.viaGateway(ipv4, ipv4.in(ipv4.loadSource(), b.cfg.Pool4))}
	if b.cfg.Pool6.IsValid() {
		all = append(all, b.viaGateway(ipv6, ipv6.in(ipv6.loadSource(), b.cfg.Pool6)))
	}
	masquerade := []expr.Any{&expr.Masq{}}
	if b.cfg.Masquerade4 {
		p := b.cfg.Pool4
		all = append(all, join(b.notTo(), ipv4.is(), ipv4.in(ipv4.loadSource(), p), ipv4.out(ipv4.loadDestination(), p), masquerade))
	}
	if b.cfg.Masquerade6 {
		p := b.cfg.Pool6
		all = append(all, join(b.notTo(), ipv6.is(), ipv6.in(ipv6.loadSource(), p), ipv6.out(ipv6.loadDestination(), p), masquerade))
	}
	return all
}

// viaGateway gives forwarded packets whose source matches the gateway's address.
func (b *builder) viaGateway(f family, source []expr.Any) []expr.Any {
	gateway := b.gateway4
	if f == ipv6 {
		gateway = b.gateway6
	}
	return join(b.to(), translated(), f.is(), source, []expr.Any{
		&expr.Immediate{Register: reg1, Data: gateway.AsSlice()},
		f.to(expr.NATTypeSourceNAT, false),
	})
}
