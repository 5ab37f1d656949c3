package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
)

// Times of upstreams. A phone's resolver asks again after some 5 s.
const (
	attemptTime = 1500 * time.Millisecond
	resolveTime = 4500 * time.Millisecond
)

// ednsBytes is the size of UDP messages, to upstreams and to phones: what passes everywhere without fragments (DNS flag day 2020).
const ednsBytes = 1232

// receiveBytes is room for messages of upstreams that send more than they were asked for.
const receiveBytes = 4096

// upstreams asks the name servers that answers come from. It may be used by several goroutines.
type upstreams struct {
	count *counters
	// good is the index of the one that answered last: it is asked first.
	good atomic.Uint32
}

// ask puts a question to servers, one after the other, twice, until one answers it or the time is up. Answers that say no more than that
// this server cannot answer (SERVFAIL, REFUSED...) are returned only when no other server has one.
func (u *upstreams) ask(ctx context.Context, servers []netip.AddrPort, q question) (*dns.Msg, error) {
	if len(servers) == 0 {
		return nil, fmt.Errorf("no upstream is known: %w", errdefs.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	first := int(u.good.Load())
	var unable *dns.Msg
	var errs []error
	for i := range 2 * len(servers) {
		server := (first + i) % len(servers)
		if ctx.Err() != nil || i >= len(servers) && unable != nil {
			break
		}
		u.count.upstream.Add(1)
		m, err := exchange(ctx, servers[server], q)
		if err != nil {
			u.count.upstreamErrors.Add(1)
			errs = append(errs, fmt.Errorf("ask %s: %w", servers[server], err))
			continue
		}
		if m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError {
			u.good.Store(uint32(server))
			return m, nil
		}
		unable = m
	}
	if unable != nil {
		return unable, nil
	}
	return nil, fmt.Errorf("%w: %w", errors.Join(errs...), errdefs.ErrUnavailable)
}

// exchange asks one server by UDP, and by TCP where its answer does not fit. Each question has a socket, and so a source port that
// the kernel draws, and an id of its own.
func exchange(ctx context.Context, server netip.AddrPort, q question) (*dns.Msg, error) {
	m, err := exchangeOver(ctx, "udp", server, q)
	if err == nil && m.Truncated {
		return exchangeOver(ctx, "tcp", server, q)
	}
	return m, err
}

func exchangeOver(ctx context.Context, network string, server netip.AddrPort, q question) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	ask := new(dns.Msg)
	ask.SetQuestion(q.name, q.kind)
	ask.SetEdns0(ednsBytes, q.do)
	c := &dns.Conn{Conn: conn, UDPSize: receiveBytes}
	if err := c.WriteMsg(ask); err != nil {
		return nil, err
	}
	// What is not the answer to this question may be forged; the answer may still come.
	for {
		m, err := c.ReadMsg()
		if err == nil && isAnswer(m, ask) {
			return m, nil
		}
		var broken net.Error
		if err != nil && (network == "tcp" || errors.As(err, &broken)) {
			return nil, err
		}
	}
}

// isAnswer tells whether a message is the answer to a question.
func isAnswer(m, ask *dns.Msg) bool {
	return m.Id == ask.Id && m.Response && m.Opcode == dns.OpcodeQuery && len(m.Question) == 1 &&
		m.Question[0].Qtype == ask.Question[0].Qtype && m.Question[0].Qclass == ask.Question[0].Qclass &&
		strings.EqualFold(m.Question[0].Name, ask.Question[0].Name)
}
