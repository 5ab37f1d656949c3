package resolver

import (
	"context"
	"net/netip"
	"strconv"

	"github.com/miekg/dns"
)

// serve answers one message that came from an address; nil is no answer. In UDP, which is no stream, the answer is as long as the phone says
// that it takes.
func (s *Server) serve(ctx context.Context, from netip.Addr, raw []byte, stream bool) []byte {
	m := new(dns.Msg)
	err := m.Unpack(raw)
	if m.Response || err != nil && len(raw) < headerBytes {
		return nil // an answer to an answer would be answered
	}
	s.counts.queries.Add(1)
	reply := new(dns.Msg)
	if err != nil {
		s.counts.unsupported.Add(1)
		reply.Id, reply.Opcode, reply.Response, reply.Rcode = m.Id, m.Opcode, true, dns.RcodeFormatError
	} else {
		reply = s.answer(ctx, from, m)
	}
	if reply == nil {
		return nil
	}
	size := dns.MaxMsgSize
	if !stream {
		size = udpSize(m)
	}
	reply.Compress = true
	reply.Truncate(size)
	packed, err := reply.Pack()
	if err != nil {
		s.counts.failed.Add(1)
		s.log.Error("an answer cannot be packed", "error", err)
		return nil
	}
	return packed
}

// headerBytes is the length of a message's header.
const headerBytes = 12

// udpSize is how long an answer in UDP may be.
func udpSize(m *dns.Msg) int {
	if opt := m.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), dns.MinMsgSize), ednsBytes)
	}
	return dns.MinMsgSize
}

// answer answers a message that could be decoded.
func (s *Server) answer(ctx context.Context, from netip.Addr, m *dns.Msg) *dns.Msg {
	if rcode := refusal(m); rcode != dns.RcodeSuccess {
		s.counts.unsupported.Add(1)
		return reply(m, rcode, nil)
	}
	client, ok, err := s.client(from)
	if err != nil {
		s.counts.failed.Add(1)
		s.log.Error("who asks cannot be found out", "address", from, "error", err)
		return reply(m, dns.RcodeServerFailure, nil)
	}
	if !ok {
		s.counts.unknown.Add(1)
		return reply(m, dns.RcodeRefused, explain(dns.ExtendedErrorCodeProhibited, ""))
	}
	if !s.waiting.take(client.Slot) {
		s.counts.limited.Add(1)
		return reply(m, dns.RcodeServerFailure, nil)
	}
	defer s.waiting.leave(client.Slot)
	return s.answerPhone(ctx, client, m)
}

// answerPhone answers a phone's question by its policy.
func (s *Server) answerPhone(ctx context.Context, c Client, m *dns.Msg) *dns.Msg {
	asked := m.Question[0]
	name := lower(asked.Name)
	r := s.rules.Load()
	p, ok := r.policyOf(c.Policy)
	if !ok {
		s.counts.failed.Add(1)
		return reply(m, dns.RcodeServerFailure, explain(dns.ExtendedErrorCodeNotReady, ""))
	}
	if !plain(asked.Name) || privateReverse(name) || r.protectedReverse(name) {
		s.counts.unsupported.Add(1)
		return reply(m, dns.RcodeRefused, nil)
	}
	if ok, rule := p.Resolves(name); !ok {
		return s.deny(c, m, admission{reason: reasonDenied, name: name, rule: rule})
	}
	if asked.Qtype == dns.TypeANY {
		least := reply(m, dns.RcodeSuccess, nil)
		least.Answer = []dns.RR{minimalAny(asked.Name)}
		s.counts.answered.Add(1)
		return least
	}
	opt := m.IsEdns0()
	found, err := s.resolve(ctx, question{name: name + ".", kind: asked.Qtype, do: opt != nil && opt.Do()})
	if err != nil {
		s.counts.failed.Add(1)
		s.log.Debug("no upstream answers", "error", err)
		return reply(m, dns.RcodeServerFailure, explain(dns.ExtendedErrorCodeNoReachableAuthority, ""))
	}
	if found.Rcode != dns.RcodeSuccess && found.Rcode != dns.RcodeNameError {
		s.counts.failed.Add(1)
		return reply(m, dns.RcodeServerFailure, explain(dns.ExtendedErrorCodeNoReachableAuthority, ""))
	}
	a := r.admit(p, found)
	s.counts.protected.Add(uint64(a.protected))
	if a.reason != "" {
		return s.deny(c, m, a)
	}
	if err := s.openAll(c, a, s.now()); gone(err) {
		return nil
	} else if err != nil {
		s.counts.failed.Add(1)
		s.log.Error("addresses cannot be opened", "error", err)
		return reply(m, dns.RcodeServerFailure, nil)
	}
	answer := reply(m, found.Rcode, nil)
	answer.Answer, answer.Ns = a.answer, a.authority
	s.counts.answered.Add(1)
	return answer
}

// deny refuses a question and takes note of it.
func (s *Server) deny(c Client, m *dns.Msg, a admission) *dns.Msg {
	if a.reason == reasonRebinding {
		s.counts.rebinding.Add(1)
	} else {
		s.counts.refused.Add(1)
	}
	s.denials.add(c.Slot, a.name, a.reason, a.rule, s.now())
	return reply(m, dns.RcodeRefused, explain(dns.ExtendedErrorCodeBlocked, a.reason))
}

// resolve answers a question from the cache or by the upstreams, which are asked once for all who ask the same at the same time. The
// message is the caller's.
func (s *Server) resolve(ctx context.Context, q question) (*dns.Msg, error) {
	if m := s.cache.get(q, s.now()); m != nil {
		s.counts.hits.Add(1)
		return m, nil
	}
	key := q.name + " " + strconv.Itoa(int(q.kind)) + " " + strconv.FormatBool(q.do)
	found, err, shared := s.flight.Do(key, func() (any, error) {
		m, err := s.ask.ask(ctx, s.servers(), q)
		if err == nil {
			s.cache.put(q, m, s.now())
		}
		return m, err
	})
	if err != nil {
		return nil, err
	}
	m := found.(*dns.Msg)
	if shared {
		m = m.Copy()
	}
	return m, nil
}

// reply begins an answer. why is attached where the phone knows EDNS.
func reply(m *dns.Msg, rcode int, why *dns.EDNS0_EDE) *dns.Msg {
	r := new(dns.Msg)
	r.Id, r.Response, r.Opcode = m.Id, true, m.Opcode
	r.RecursionDesired, r.RecursionAvailable, r.CheckingDisabled = m.RecursionDesired, true, m.CheckingDisabled
	r.Rcode = rcode
	r.Question = m.Question[:min(len(m.Question), 1)]
	if opt := m.IsEdns0(); opt != nil {
		r.SetEdns0(ednsBytes, opt.Do())
		if why != nil {
			r.IsEdns0().Option = append(r.IsEdns0().Option, why)
		}
	}
	return r
}

// explain is an extended error (RFC 8914).
func explain(code uint16, text string) *dns.EDNS0_EDE {
	return &dns.EDNS0_EDE{InfoCode: code, ExtraText: text}
}
