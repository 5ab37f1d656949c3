package wire

import "net/netip"

// special is what is protected on every host, by class.
//
// Reserved are the prefixes of IANA's registries of special-purpose addresses (RFC 6890, as updated by RFC 8190;
// iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry) that are not globally reachable. Those that are (such as
// AS112, 192.31.196.0/24) are left out, but not the few single ones within a block that is not. Multicast is no class of address here:
// it never passes at all.
var special = map[uint8][]netip.Prefix{
	ClassReserved: prefixes(
		"0.0.0.0/8",          // this network: RFC 791, section 3.2
		"127.0.0.0/8",        // loopback: RFC 1122, section 3.2.1.3
		"192.0.0.0/24",       // IETF protocol assignments: RFC 6890, section 2.1
		"192.0.2.0/24",       // documentation: RFC 5737
		"192.88.99.0/24",     // relays of 6to4, deprecated: RFC 7526
		"198.18.0.0/15",      // benchmarking: RFC 2544
		"198.51.100.0/24",    // documentation: RFC 5737
		"203.0.113.0/24",     // documentation: RFC 5737
		"240.0.0.0/4",        // reserved: RFC 1112, section 4
		"255.255.255.255/32", // limited broadcast: RFC 8190
		"::/96",              // unspecified, loopback, IPv4-compatible: RFC 4291, section 2.5
		"64:ff9b:1::/48",     // translation to IPv4 for local use: RFC 8215
		"100::/64",           // discard: RFC 6666
		"100:0:0:1::/64",     // dummy prefix: RFC 9780
		"2001::/23",          // IETF protocol assignments, Teredo, benchmarking, ORCHID: RFC 2928
		"2001:db8::/32",      // documentation: RFC 3849
		"2002::/16",          // 6to4, deprecated, which has IPv4 addresses in it: RFC 3056, RFC 7526
		"3fff::/20",          // documentation: RFC 9637
		"5f00::/16",          // segment routing: RFC 9602
		"fec0::/10",          // site-local, deprecated: RFC 3879
	),
	ClassLinkLocal: prefixes(
		"169.254.0.0/16", // RFC 3927
		"fe80::/10",      // RFC 4291
	),
	ClassPrivate: prefixes(
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
		"100.64.0.0/10", // behind carriers' NAT: RFC 6598
		"fc00::/7",      // unique local: RFC 4193
	),
	// What clouds serve to their machines, credentials among it, by whoever documents the address.
	ClassMetadata: prefixes(
		"169.254.169.254/32",     // Amazon, Google, Azure, Oracle, OpenStack, DigitalOcean, Hetzner and others
		"fd00:ec2::254/128",      // Amazon EC2 over IPv6
		"169.254.170.2/32",       // Amazon ECS: credentials of tasks
		"169.254.170.23/32",      // Amazon EKS: credentials of pods
		"fd00:ec2::23/128",       // the same over IPv6
		"fd20:ce::254/128",       // Google Compute Engine over IPv6
		"168.63.129.16/32",       // Azure: the platform's channel to its machines, a public address
		"fd00:c1::a9fe:a9fe/128", // Oracle over IPv6
		"fe80::a9fe:a9fe/128",    // OpenStack over IPv6
		"192.0.0.192/32",         // Oracle, the older kind
		"100.100.100.200/32",     // Alibaba
		"fd00:100::100:200/128",  // the same over IPv6
		"fd00:a9fe:a9fe::1/128",  // Akamai over IPv6
		"169.254.0.23/32",        // Tencent
		"169.254.42.42/32",       // Scaleway
		"fd00:42::42/128",        // the same over IPv6
	),
}

// translated is what NAT64 makes of IPv4 addresses (RFC 6052, section 2.1): behind it, a protected IPv4 address has an IPv6 address too.
var translated = netip.MustParsePrefix("64:ff9b::/96")

// translate returns the prefix under which NAT64 makes an IPv4 prefix reachable.
func translate(p netip.Prefix) netip.Prefix {
	a, four := translated.Addr().As16(), p.Addr().As4()
	copy(a[12:], four[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), translated.Bits()+p.Bits())
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}
