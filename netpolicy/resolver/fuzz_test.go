package resolver

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// opened are Leases of one phone that remember what was opened.
type opened map[netip.Addr]time.Time

func (o opened) Client(a netip.Addr) (Client, bool, error) { return Client{Address: a}, true, nil }
func (o opened) Open(_ Client, a netip.Addr, name uint64, until time.Time) error {
	if name == policy.NameID("*.example.com") {
		o[a] = until
	}
	return nil
}
func (o opened) Expire() error { return nil }
func (o opened) Stale() bool   { return false }
func (o opened) Close() error  { return nil }

// FuzzAnswer has an upstream answer with any bytes. Whatever it says, the phone gets no address that is protected, none that is not open
// for as long as its TTL says, and no name that a rule denies.
func FuzzAnswer(f *testing.F) {
	for _, lines := range [][]string{
		{"www.example.com. 300 IN A 198.51.100.1"}, {"www.example.com. 9999999 IN AAAA 2001:db8::1", "www.example.com. 1 IN A 10.0.0.1"},
		{"www.example.com. 5 IN CNAME a.test.", "a.test. 5 IN CNAME b.ads.test.", "b.ads.test. 5 IN A 198.51.100.2"},
		{"www.example.com. 5 IN CNAME a.test.", "a.test. 5 IN CNAME www.example.com."}, {"other.test. 5 IN A 198.51.100.2"},
		{"www.example.com. 5 IN HTTPS 1 . ipv4hint=10.0.0.1"}, {"www.example.com. 5 IN AAAA ::ffff:10.0.0.1"},
	} {
		m := new(dns.Msg)
		m.SetQuestion("www.example.com.", dns.TypeA)
		m.Response = true
		for _, line := range lines {
			rr, err := dns.NewRR(line)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	p, err := policy.Parse([]byte("default deny-all\nallow egress any *.example.com\ndeny egress any *.ads.test\n"))
	if err != nil {
		f.Fatal(err)
	}
	known := &rules{
		protected: policy.CompileAddresses([]policy.AddressClass{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Class: 7}}),
		policies:  map[uint32]policy.Policy{0: p},
	}
	ask := new(dns.Msg)
	ask.SetQuestion("www.example.com.", dns.TypeA)
	f.Fuzz(func(t *testing.T, raw []byte) {
		found := new(dns.Msg)
		if found.Unpack(raw) != nil || len(found.Question) != 1 {
			return // exchange takes no such message for an answer
		}
		found.Question = ask.Question
		open := opened{}
		s := &Server{log: slog.New(slog.DiscardHandler), now: time.Now, cache: newCache(cacheBytes), leases: open, waiting: newPlaces[uint32](1, 1)}
		s.rules.Store(known)
		s.cache.put(question{name: "www.example.com.", kind: dns.TypeA}, found, time.Now())
		if s.cache.order.Len() == 0 {
			return
		}
		packed, err := ask.Pack()
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		out := s.serve(t.Context(), netip.MustParseAddr("10.213.0.2"), packed, true)
		answer := new(dns.Msg)
		if err := answer.Unpack(out); err != nil {
			t.Fatalf("the phone gets what cannot be read: %v", err)
		}
		checkRecords(t, answer, open, began)
	})
}

func checkRecords(t *testing.T, answer *dns.Msg, open opened, began time.Time) {
	t.Helper()
	for _, rr := range append(append(answer.Answer, answer.Ns...), answer.Extra...) {
		ttl := seconds(rr.Header().Ttl)
		if a, is := addressOf(rr); is {
			if netip.MustParsePrefix("10.0.0.0/8").Contains(a) {
				t.Errorf("a protected address: %v", rr)
			}
			if until := open[a]; until.Before(began.Add(ttl)) {
				t.Errorf("%v, which is open until %v", rr, until)
			}
		}
		if c, ok := rr.(*dns.CNAME); ok && dns.IsSubDomain("ads.test.", lower(c.Target)+".") && answer.Rcode == dns.RcodeSuccess {
			if lower(c.Target) != "ads.test" && lower(c.Hdr.Name) == "www.example.com" {
				t.Errorf("a name that a rule denies: %v", rr)
			}
		}
		if ttl > maxTTL {
			t.Errorf("a TTL of %v: %v", ttl, rr)
		}
	}
}

// FuzzServe sends any bytes as a question; what comes back can be read, belongs to it, and is never an answer to an answer.
func FuzzServe(f *testing.F) {
	for _, kind := range []uint16{dns.TypeA, dns.TypeANY, dns.TypeAXFR, dns.TypeOPT} {
		m := new(dns.Msg)
		m.SetQuestion("1.0.0.10.in-addr.arpa.", kind)
		m.SetEdns0(512, true)
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := &Server{log: slog.New(slog.DiscardHandler), now: time.Now, cache: newCache(cacheBytes), leases: opened{}, waiting: newPlaces[uint32](1, 1)}
		s.ask = &upstreams{count: &s.counts}
		s.rules.Store(&rules{
			protected: policy.CompileAddresses(nil), policies: map[uint32]policy.Policy{0: {Default: policy.AllowInternet}},
		})
		out := s.serve(t.Context(), netip.MustParseAddr("10.213.0.2"), raw, false)
		if out == nil {
			return
		}
		answer := new(dns.Msg)
		if err := answer.Unpack(out); err != nil || len(out) > ednsBytes || !answer.Response {
			t.Errorf("%x was answered with %x, %v", raw, out, err)
		}
		if answer.Id != uint16(raw[0])<<8|uint16(raw[1]) || raw[2]&0x80 != 0 {
			t.Errorf("%x was answered with %x", raw, out)
		}
	})
}

// TestCacheIsBounded fills a small cache: what was used last stays.
func TestCacheIsBounded(t *testing.T) {
	now := time.Now()
	c := newCache(2000)
	answer := func(name string) *dns.Msg {
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		m.Response = true
		rr, err := dns.NewRR(name + " 60 IN A 198.51.100.1")
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = []dns.RR{rr}
		return m
	}
	kept := question{name: "kept.test.", kind: dns.TypeA}
	c.put(kept, answer(kept.name), now)
	for _, n := range "abcdefghijklmnopqrstuvwxyz" {
		name := string(n) + ".test."
		c.put(question{name: name, kind: dns.TypeA}, answer(name), now)
		if c.get(kept, now) == nil {
			t.Fatalf("what is used all the time was forgotten for %s", name)
		}
		if c.bytes > 2000 || len(c.entries) != c.order.Len() {
			t.Fatalf("%d bytes, %d entries, %d in order", c.bytes, len(c.entries), c.order.Len())
		}
	}
	if c.get(question{name: "a.test.", kind: dns.TypeA}, now) != nil {
		t.Error("nothing was forgotten")
	}
	if m := c.get(kept, now.Add(20*time.Second)); m == nil || m.Answer[0].Header().Ttl != 40 {
		t.Errorf("after 20 s of 60: %v", m)
	}
	if m := c.get(kept, now.Add(60*time.Second)); m != nil {
		t.Errorf("after 60 s of 60: %v", m)
	}
}

// TestDenialsAreBounded has one phone be refused more names than there is room for.
func TestDenialsAreBounded(t *testing.T) {
	var d denials
	for n := range 1000 {
		d.add(1, string(rune('a'+n%26))+string(rune('a'+n/26))+".test", reasonDenied, 3, time.Now())
	}
	d.add(2, "other.test", reasonDenied, 0, time.Now())
	list := d.take()
	var sum uint64
	for _, one := range list {
		sum += one.Count
	}
	if len(list) != denialsPerPhone+2 || sum != 1001 || list[0].Name != "" || list[0].Count != 1000-denialsPerPhone || list[len(list)-1].Slot != 2 {
		t.Errorf("%d denials of %d questions; first %+v, last %+v", len(list), sum, list[0], list[len(list)-1])
	}
}
