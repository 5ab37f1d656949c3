package resolver

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// refusal is why a message is not even looked at by a policy: an RCODE; success is none.
func refusal(m *dns.Msg) int {
	switch {
	case m.Opcode != dns.OpcodeQuery:
		return dns.RcodeRefused
	case len(m.Question) != 1: // RFC 9619
		return dns.RcodeFormatError
	case len(m.Answer) > 0 || len(m.Ns) > 0:
		return dns.RcodeFormatError
	}
	if opt := m.IsEdns0(); opt != nil && opt.Version() != 0 {
		return dns.RcodeBadVers
	}
	q := m.Question[0]
	switch {
	case q.Qclass != dns.ClassINET, !m.RecursionDesired:
		return dns.RcodeRefused
	case q.Qtype == dns.TypeANY:
	case q.Qtype == dns.TypeNone, q.Qtype == dns.TypeOPT, q.Qtype >= 128 && q.Qtype <= 255: // RFC 6895, section 3.1: meta types
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

// plain tells whether a name consists of what rules can name. Others are written with escapes, among which a dot within a label would
// pass for one between labels.
func plain(name string) bool { return !strings.Contains(name, `\`) }

// lower is a name as rules have it: in lower case, without the final dot.
func lower(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// Zones of reverse names.
const (
	reverse4 = ".in-addr.arpa"
	reverse6 = ".ip6.arpa"
)

// privateReverse tells whether a name, as lower has it, is a reverse name of addresses that are nobody's business: private, link-local,
// loopback and such, of any length.
func privateReverse(name string) bool {
	a, bits, ok := reversed(name)
	if !ok {
		return false
	}
	p := netip.PrefixFrom(a, bits)
	for _, private := range privatePrefixes {
		if private.Overlaps(p) && private.Bits() <= bits {
			return true
		}
	}
	return false
}

// protectedReverse tells whether a name, as lower has it, is the reverse name of one protected address.
func (r *rules) protectedReverse(name string) bool {
	a, bits, ok := reversed(name)
	if !ok || bits < a.BitLen() {
		return false
	}
	_, protected := policy.LookupAddress(r.protected, a)
	return protected >= 0
}

// privatePrefixes have reverse zones that belong to whoever uses them (RFC 6303, RFC 7793).
var privatePrefixes = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
}

// reversed reads a reverse name: the address, with zeros where the name is short, and how many bits it has.
func reversed(name string) (a netip.Addr, bits int, ok bool) {
	if text, found := strings.CutSuffix(name, reverse4); found {
		labels := strings.Split(text, ".")
		labels = labels[max(0, len(labels)-4):] // what lies below an address is of that address
		var b [4]byte
		for i := range labels {
			n, err := strconv.ParseUint(labels[len(labels)-1-i], 10, 8)
			if err != nil {
				return netip.AddrFrom4(b), 8 * i, i > 0
			}
			b[i] = byte(n)
		}
		return netip.AddrFrom4(b), 8 * len(labels), true
	}
	text, found := strings.CutSuffix(name, reverse6)
	if !found {
		return netip.Addr{}, 0, false
	}
	labels := strings.Split(text, ".")
	labels = labels[max(0, len(labels)-32):]
	var b [16]byte
	for i := range labels {
		n, err := strconv.ParseUint(labels[len(labels)-1-i], 16, 4)
		if err != nil || len(labels[len(labels)-1-i]) != 1 {
			return netip.AddrFrom16(b), 4 * i, i > 0
		}
		b[i/2] |= byte(n) << (4 * (1 - i%2))
	}
	return netip.AddrFrom16(b), 4 * len(labels), true
}

// minimalAny is the answer to ANY (RFC 8482, section 4.2).
func minimalAny(name string) dns.RR {
	return &dns.HINFO{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: 3600}, Cpu: "RFC8482"}
}
