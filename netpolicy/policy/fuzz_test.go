package policy_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// source makes policies and flows of a list of bytes: a fuzzer that changes a byte changes one choice. When the bytes are at an end, it
// goes on with numbers that follow from them.
type source struct {
	bytes []byte
	more  *rand.Rand
}

func newSource(b []byte) *source {
	var seed [16]byte
	copy(seed[:], b)
	return &source{b, rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:]), binary.LittleEndian.Uint64(seed[8:])))}
}

// below returns a number from 0 up to n, at most 256.
func (s *source) below(n int) int {
	if len(s.bytes) == 0 {
		return s.more.IntN(n)
	}
	b := s.bytes[0]
	s.bytes = s.bytes[1:]
	return int(b) % n
}

func oneOf[T any](s *source, list []T) T {
	return list[s.below(len(list))]
}

var (
	fuzzedAddresses = []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.129"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255"),
		netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("::"), netip.MustParseAddr("::1"), netip.MustParseAddr("2001:db8::1"),
		netip.MustParseAddr("2001:db8:0:1::1"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), netip.MustParseAddr("::fffe:ffff:ffff"),
		netip.MustParseAddr("::1:0:0:0"), netip.MustParseAddr("::ffff:0"), netip.MustParseAddr("fe80::1"),
	}
	fuzzedNames = []string{"a.example", "b.a.example", "c.b.a.example", "example", "other.test", "x.other.test"}
	fuzzedRules = []string{"*", "*.example", "*.a.example", "a.example", "b.a.example", "*.test", "other.test"}
	fuzzedPorts = []uint16{1, 2, 4, 53, 80, 443, 444, 446, 1024, 5000, 65534, 65535}
)

func (s *source) address() netip.Addr {
	a := oneOf(s, fuzzedAddresses)
	for range s.below(3) {
		b := a.AsSlice()
		bit := s.below(len(b) * 8)
		b[bit/8] ^= 1 << (bit % 8)
		a, _ = netip.AddrFromSlice(b)
	}
	if a.Is4In6() {
		return a.Unmap()
	}
	return a
}

func (s *source) prefix() netip.Prefix {
	a := s.address()
	return netip.PrefixFrom(a, s.below(a.BitLen()+1)).Masked()
}

func (s *source) rule() policy.Rule {
	r := policy.Rule{
		Action:    policy.Action(s.below(2)),
		Direction: policy.Direction(min(1, s.below(4)/3)),
		Protocol:  policy.Protocol(s.below(4)),
	}
	switch s.below(4) {
	case 0, 1:
		r.CIDR = s.prefix()
	case 2:
		if r.Direction == policy.Egress {
			r.Name = oneOf(s, fuzzedRules)
		}
	}
	if r.Protocol == policy.TCP || r.Protocol == policy.UDP {
		for range s.below(policy.MaxPorts + 1) {
			first, last := oneOf(s, fuzzedPorts), oneOf(s, fuzzedPorts)
			r.Ports = append(r.Ports, policy.PortRange{First: min(first, last), Last: max(first, last)})
		}
	}
	return r
}

func (s *source) policy() policy.Policy {
	p := policy.Policy{Default: policy.Default(s.below(2))}
	for range s.below(64) {
		p.Rules = append(p.Rules, s.rule())
	}
	return p
}

// flow makes a flow; half of them go to or come from a peer, and have a port, that stands in a rule.
func (s *source) flow(p policy.Policy) policy.Query {
	q := policy.Query{
		Direction: policy.Direction(min(1, s.below(4)/3)), Protocol: policy.Protocol(1 + s.below(3)), Port: oneOf(s, fuzzedPorts), Peer: s.address(), ProtectedBits: -1,
	}
	if len(p.Rules) > 0 && s.below(2) == 0 {
		r := oneOf(s, p.Rules)
		if r.CIDR.IsValid() {
			q.Peer = r.CIDR.Addr()
		}
		if len(r.Ports) > 0 {
			q.Port = oneOf(s, r.Ports).Last + uint16(s.below(2))
		}
	}
	if q.Protocol == policy.ICMP {
		q.Port = 0
	}
	for range s.below(3) {
		q.Names = append(q.Names, oneOf(s, fuzzedNames))
	}
	if s.below(2) == 0 {
		q.ProtectedBits = s.below(129)
	}
	return q
}

// FuzzJudge compares what a policy means with what its object says.
func FuzzJudge(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x01\x01\x00\x00\x00\x00\x00\x08"))
	f.Add([]byte("the second of the rules has a name, and the third a prefix"))
	for seed := range uint64(64) {
		f.Add(binary.BigEndian.AppendUint64([]byte{byte(seed)}, seed*0x9e3779b97f4a7c15))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSource(b)
		p := s.policy()
		o, err := policy.Compile(p, 7)
		if err != nil {
			t.Fatalf("%v\n%s", err, policy.Format(p))
		}
		for range 200 {
			compare(t, p, o, s.flow(p))
		}
	})
}

// compare asks the policy and its object the same.
func compare(t *testing.T, p policy.Policy, o *policy.Object, q policy.Query) {
	t.Helper()
	var ids []uint64
	for _, n := range q.Names {
		for _, pattern := range p.MatchNames(n) {
			ids = append(ids, policy.NameID(pattern))
		}
	}
	oq := policy.ObjectQuery{Direction: q.Direction, Peer: q.Peer, Protocol: q.Protocol, Port: q.Port, Names: ids, ProtectedBits: q.ProtectedBits}
	if want, got := p.Evaluate(q), o.Judge(oq); got != want && len(ids) <= policy.MaxNames {
		t.Fatalf("the object says %+v, the policy means %+v, of %+v under\n%s", got, want, q, policy.Format(p))
	}
}
