package resolver

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the cache.
const (
	cacheBytes = 16 << 20
	// cachedBytes is how long an answer that is kept may be.
	cachedBytes = 4096
	// entryBytes is what an entry takes besides its answer, about.
	entryBytes = 256

	maxTTL         = time.Hour
	maxNegativeTTL = 15 * time.Minute
)

// question is what answers are kept by.
type question struct {
	name string // lower case, with the final dot
	kind uint16
	do   bool // DNSSEC records are wanted
}

// cache keeps answers, packed, for as long as their records live. It may be used by several goroutines.
type cache struct {
	limit int

	mu      sync.Mutex
	entries map[question]*list.Element
	order   *list.List // of *entry; the one that was used last is in front
	bytes   int
}

type entry struct {
	key    question
	packed []byte
	since  time.Time
	until  time.Time
}

func newCache(limit int) *cache {
	return &cache{limit: limit, entries: map[question]*list.Element{}, order: list.New()}
}

// get returns an answer that still lives, with the TTLs that are left of it; the caller owns it.
func (c *cache) get(q question, now time.Time) *dns.Msg {
	c.mu.Lock()
	element := c.entries[q]
	if element == nil {
		c.mu.Unlock()
		return nil
	}
	e := element.Value.(*entry)
	if !now.Before(e.until) {
		c.remove(element)
		c.mu.Unlock()
		return nil
	}
	c.order.MoveToFront(element)
	c.mu.Unlock()
	m := new(dns.Msg)
	if m.Unpack(e.packed) != nil { // it was packed here
		return nil
	}
	age(m, uint32(now.Sub(e.since)/time.Second))
	return m
}

// age takes seconds off all TTLs.
func age(m *dns.Msg, seconds uint32) {
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			h := rr.Header()
			h.Ttl -= min(h.Ttl, seconds)
		}
	}
}

// put keeps an answer if it may be kept.
func (c *cache) put(q question, m *dns.Msg, now time.Time) {
	ttl := lifetime(m)
	if ttl <= 0 {
		return
	}
	packed, err := m.Pack()
	if err != nil || len(packed) > cachedBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.entries[q]; old != nil {
		c.remove(old)
	}
	e := &entry{key: q, packed: packed, since: now, until: now.Add(ttl)}
	c.entries[q] = c.order.PushFront(e)
	c.bytes += len(packed) + entryBytes
	for c.bytes > c.limit {
		c.remove(c.order.Back())
	}
}

// remove forgets an entry. mu is held.
func (c *cache) remove(element *list.Element) {
	e := c.order.Remove(element).(*entry)
	delete(c.entries, e.key)
	c.bytes -= len(e.packed) + entryBytes
}

// lifetime is how long an answer may be kept: as long as the record that ends first; one that has no record of the kind that was asked for,
// as RFC 2308 says (section 5). 0 is not at all.
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	least, positive := maxTTL, m.Rcode == dns.RcodeSuccess && answers(m)
	for _, rr := range m.Answer {
		least = min(least, seconds(rr.Header().Ttl))
	}
	if positive {
		return least
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(least, maxNegativeTTL, seconds(min(soa.Hdr.Ttl, soa.Minttl)))
		}
	}
	return 0
}

// answers tells whether there is a record of the kind that was asked for, at the end of whatever aliases.
func answers(m *dns.Msg) bool {
	for _, rr := range m.Answer {
		if rr.Header().Rrtype == m.Question[0].Qtype {
			return true
		}
	}
	return false
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }
