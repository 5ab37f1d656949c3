package resolver_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/phonehost/phonehost/netpolicy/resolver"
)

const names = `default deny-all
deny  egress any secret.example.com
allow egress tcp www.example.com 443
allow egress any *.example.com
deny  egress any *.ads.test
allow egress any cdn.test
allow egress any 192.168.7.0/24
`

// internet is what the upstream knows.
var internet = []string{
	"www.example.com. 300 IN A 198.51.100.1",
	"www.example.com. 300 IN AAAA 2001:db8::1",
	"secret.example.com. 300 IN A 198.51.100.2",
	"example.com. 300 IN A 198.51.100.3",
	"other.test. 300 IN A 198.51.100.4",
	"alias.example.com. 300 IN CNAME cdn.test.", "cdn.test. 300 IN A 198.51.100.5",
	"far.example.com. 300 IN CNAME hop.elsewhere.test.", "hop.elsewhere.test. 300 IN CNAME end.elsewhere.test.", "end.elsewhere.test. 300 IN A 198.51.100.6",
	"tracked.example.com. 300 IN CNAME hop2.elsewhere.test.", "hop2.elsewhere.test. 300 IN CNAME x.ads.test.", "x.ads.test. 300 IN A 198.51.100.7",
	"brief.example.com. 2 IN A 198.51.100.8",
	"long.example.com. 86400 IN A 198.51.100.9",
	"inside.example.com. 300 IN A 10.0.0.1",
	"inside6.example.com. 300 IN AAAA fd00::1",
	"mapped.example.com. 300 IN AAAA ::ffff:127.0.0.1",
	"both.example.com. 300 IN A 169.254.169.254", "both.example.com. 300 IN A 198.51.100.10",
	"printer.example.com. 300 IN A 192.168.7.9",
	"near.example.com. 300 IN A 192.168.8.9",
	`text.example.com. 300 IN TXT "hello"`,
	`_service.example.com. 300 IN HTTPS 1 www.example.com. alpn=h2 ipv4hint=10.0.0.1 ipv6hint=fd00::1`,
}

func TestNames(t *testing.T) {
	l := newLab(t, 1, names)
	l.upstream.add(t, internet...)
	s, _ := l.run(l.config)
	for _, tt := range []struct{ name, kind, status, answer string }{
		{"www.example.com", "A", "NOERROR", "www.example.com. A 198.51.100.1\n"},
		{"WWW.eXample.com", "A", "NOERROR", "www.example.com. A 198.51.100.1\n"},
		{"www.example.com", "AAAA", "NOERROR", "www.example.com. AAAA 2001:db8::1\n"},
		{"secret.example.com", "A", "REFUSED", ""},
		{"example.com", "A", "REFUSED", ""}, // *.example.com is what lies below
		{"other.test", "A", "REFUSED", ""},
		{"notexample.com", "A", "REFUSED", ""},
		{"nothing.example.com", "A", "NXDOMAIN", ""},
		{"alias.example.com", "A", "NOERROR", "alias.example.com. CNAME cdn.test.\ncdn.test. A 198.51.100.5\n"},
		{"far.example.com", "A", "NOERROR",
			"far.example.com. CNAME hop.elsewhere.test.\nhop.elsewhere.test. CNAME end.elsewhere.test.\nend.elsewhere.test. A 198.51.100.6\n"},
		{"tracked.example.com", "A", "REFUSED", ""},
		{"inside.example.com", "A", "REFUSED", ""},
		{"inside6.example.com", "AAAA", "REFUSED", ""},
		{"mapped.example.com", "AAAA", "REFUSED", ""},
		{"both.example.com", "A", "NOERROR", "both.example.com. A 198.51.100.10\n"},
		{"printer.example.com", "A", "NOERROR", "printer.example.com. A 192.168.7.9\n"}, // a rule names its network
		{"near.example.com", "A", "REFUSED", ""},
		{"text.example.com", "TXT", "NOERROR", "text.example.com. TXT \"hello\"\n"},
		{"_service.example.com", "HTTPS", "NOERROR", "_service.example.com. HTTPS 1 www.example.com. alpn=\"h2\"\n"},
		{"www.example.com", "ANY", "NOERROR", "www.example.com. HINFO \"RFC8482\" \"\"\n"},
		{"other.test", "ANY", "REFUSED", ""},
		{`evil\.example.com`, "A", "REFUSED", ""}, // a dot within a label
	} {
		status, answer := l.dig(0, tt.name, tt.kind)
		if diff := cmp.Diff(tt.status+"\n"+tt.answer, status+"\n"+answer); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", tt.name, tt.kind, diff)
		}
	}
	for _, tt := range []struct {
		address, pattern string
		open             bool
	}{
		{"198.51.100.1", "www.example.com", true}, {"198.51.100.1", "*.example.com", true}, {"2001:db8::1", "*.example.com", true},
		{"198.51.100.5", "*.example.com", true}, {"198.51.100.5", "cdn.test", true}, {"198.51.100.6", "*.example.com", true},
		{"198.51.100.7", "*.example.com", false}, {"198.51.100.7", "*.ads.test", false}, {"198.51.100.2", "*.example.com", false},
		{"169.254.169.254", "*.example.com", false}, {"10.0.0.1", "*.example.com", false}, {"198.51.100.10", "*.example.com", true},
	} {
		if got := l.openFor(0, tt.address, tt.pattern); got > 0 != tt.open {
			t.Errorf("%s is open by %s for %v, want open: %v", tt.address, tt.pattern, got, tt.open)
		}
	}
	for _, name := range []string{"secret.example.com.", "other.test.", "example.com.", `evil\.example.com.`} {
		if n := l.upstream.count(name); n != 0 {
			t.Errorf("the upstream was asked for %s, which is refused, %d times", name, n)
		}
	}
	checkDenials(t, s.TakeDenials())
	if again := s.TakeDenials(); len(again) != 0 {
		t.Errorf("denials that were taken are told again: %v", again)
	}
}

func checkDenials(t *testing.T, list []resolver.Denial) {
	t.Helper()
	got := map[string]string{}
	for _, d := range list {
		got[d.Name] = fmt.Sprintln(d.Slot, d.Reason, d.Rule, d.Count)
	}
	want := map[string]string{
		"secret.example.com": "0 DENIED 0 1\n", "example.com": "0 DENIED -1 1\n", "other.test": "0 DENIED -1 2\n", "notexample.com": "0 DENIED -1 1\n",
		"tracked.example.com": "0 ALIAS 3 1\n", "inside.example.com": "0 REBINDING -1 1\n", "inside6.example.com": "0 REBINDING -1 1\n",
		"mapped.example.com": "0 REBINDING -1 1\n", "near.example.com": "0 REBINDING -1 1\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("denials (-want +got):\n%s", diff)
	}
}

// TestWhatIsNoQuestion sends what a resolver does not have to answer, and what reaches for more than names.
func TestWhatIsNoQuestion(t *testing.T) {
	l := newLab(t, 1, "default allow-internet\n")
	l.upstream.add(t, internet...)
	l.run(l.config)
	edit := func(fn func(*dns.Msg)) *dns.Msg {
		m := question("www.example.com.", dns.TypeA)
		fn(m)
		return m
	}
	for _, tt := range []struct {
		name  string
		m     *dns.Msg
		rcode int
	}{
		{"a question", question("www.example.com.", dns.TypeA), dns.RcodeSuccess},
		{"AXFR", question("example.com.", dns.TypeAXFR), dns.RcodeRefused},
		{"IXFR", question("example.com.", dns.TypeIXFR), dns.RcodeRefused},
		{"TKEY", question("example.com.", dns.TypeTKEY), dns.RcodeRefused},
		{"MAILB", question("example.com.", dns.TypeMAILB), dns.RcodeRefused},
		{"CHAOS", edit(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		{"class ANY", edit(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), dns.RcodeRefused},
		{"class 4711", edit(func(m *dns.Msg) { m.Question[0].Qclass = 4711 }), dns.RcodeRefused},
		{"two questions", edit(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		{"no question", edit(func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError},
		{"NOTIFY", edit(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeRefused},
		{"UPDATE", edit(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeRefused},
		{"STATUS", edit(func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }), dns.RcodeRefused},
		{"what others have asked", edit(func(m *dns.Msg) { m.RecursionDesired = false }), dns.RcodeRefused},
		{"EDNS version 1", edit(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers},
		{"reverse of a private address", question("1.0.0.10.in-addr.arpa.", dns.TypePTR), dns.RcodeRefused},
		{"reverse of a private network", question("168.192.in-addr.arpa.", dns.TypeNS), dns.RcodeRefused},
		{"below a reverse of a private address", question("x.1.0.16.172.in-addr.arpa.", dns.TypePTR), dns.RcodeRefused},
		{"reverse of a local IPv6 network", question("d.f.ip6.arpa.", dns.TypeSOA), dns.RcodeRefused},
		{"reverse of a link-local address", question("1."+strings.Repeat("0.", 28)+"8.e.f.ip6.arpa.", dns.TypePTR), dns.RcodeRefused},
		{"reverse of a public address", question("1.113.0.203.in-addr.arpa.", dns.TypePTR), dns.RcodeNameError},
	} {
		for _, network := range []string{"udp", "tcp"} {
			answer, err := l.ask(0, network, gateway4, tt.m)
			if err != nil || answer.Rcode != tt.rcode {
				t.Errorf("%s over %s: %v, %v; want %s", tt.name, network, answer, err, dns.RcodeToString[tt.rcode])
			}
		}
	}
	for what, raw := range map[string][]byte{
		"an answer": pack(t, edit(func(m *dns.Msg) { m.Response = true })), "noise": {1, 2, 3}, "nothing": {},
	} {
		if n := l.send(0, raw); n != 0 {
			t.Errorf("%s was answered with %d bytes", what, n)
		}
	}
}

func pack(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestTunnels has a phone that may ask for names below one only try to get words out by others, by types, by labels and by options.
func TestTunnels(t *testing.T) {
	l := newLab(t, 1, "default deny-all\nallow egress any *.example.com\n")
	l.upstream.add(t, internet...)
	l.run(l.config)
	word := strings.Repeat("k", 63)
	for _, name := range []string{word + "." + word + "." + word + ".evil.test.", "example.com.evil.test.", "x.example.com.evil.test.", "xexample.com.", `x\.example.com.`} {
		for _, kind := range []uint16{dns.TypeTXT, dns.TypeNULL, dns.TypeCNAME, dns.TypeMX, dns.TypeA, dns.TypeSRV, 65399} {
			answer, err := l.ask(0, "udp", gateway4, question(name, kind))
			if err != nil || answer.Rcode != dns.RcodeRefused {
				t.Errorf("%s of type %d: %v, %v; want REFUSED", name, kind, answer, err)
			}
			if n := l.upstream.count(name); n != 0 {
				t.Errorf("%s of type %d went out", name, kind)
			}
		}
	}
	m := question("text.example.com.", dns.TypeTXT)
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("secret")}, &dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
	answer, err := l.ask(0, "udp", gateway4, m)
	if err != nil || answer.Rcode != dns.RcodeSuccess {
		t.Fatalf("%v, %v", answer, err)
	}
	if n := len(answer.IsEdns0().Option); n != 0 {
		t.Errorf("%d options came back", n)
	}
}

// TestTTL checks how long addresses are open against the TTLs that the phone gets, fresh and from the cache.
func TestTTL(t *testing.T) {
	l := newLab(t, 2, names)
	l.upstream.add(t, internet...)
	l.run(l.config)
	for _, tt := range []struct {
		name, address string
		ttl           uint32
		least, most   time.Duration
	}{
		{"brief.example.com.", "198.51.100.8", 2, 30 * time.Second, 35 * time.Second},
		{"www.example.com.", "198.51.100.1", 300, 300 * time.Second, 305 * time.Second},
		{"long.example.com.", "198.51.100.9", 3600, time.Hour, time.Hour + 5*time.Second},
	} {
		for phone := range 2 { // the second gets it from the cache
			answer, err := l.ask(phone, "udp", gateway4, question(tt.name, dns.TypeA))
			if err != nil || len(answer.Answer) != 1 {
				t.Fatalf("%v, %v", answer, err)
			}
			ttl, open := answer.Answer[0].Header().Ttl, l.openFor(phone, tt.address, "*.example.com")
			if ttl > tt.ttl || ttl+3 < tt.ttl || open < tt.least-3*time.Second || open > tt.most || open < time.Duration(ttl)*time.Second {
				t.Errorf("%s for phone %d: TTL %d, open for %v; want %d, %v to %v", tt.name, phone, ttl, open, tt.ttl, tt.least, tt.most)
			}
		}
		if n := l.upstream.count(tt.name); n != 1 {
			t.Errorf("the upstream was asked for %s %d times for two phones", tt.name, n)
		}
	}
	// What has ended in the cache is asked for again.
	l.until("the answer of 2 s has ended", func() bool {
		if _, err := l.ask(0, "udp", gateway4, question("brief.example.com.", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		return l.upstream.count("brief.example.com.") == 2
	})
	for range 3 {
		if answer, err := l.ask(0, "udp", gateway4, question("no.example.com.", dns.TypeA)); err != nil || answer.Rcode != dns.RcodeNameError {
			t.Fatalf("%v, %v", answer, err)
		}
	}
	if n := l.upstream.count("no.example.com."); n != 1 {
		t.Errorf("that there is no such name was asked %d times in its TTL", n)
	}
}

// TestTruncation asks for more than a datagram holds.
func TestTruncation(t *testing.T) {
	l := newLab(t, 1, names)
	for i := range 100 {
		l.upstream.add(t, fmt.Sprintf("many.example.com. 300 IN A 198.51.101.%d", i))
	}
	l.run(l.config)
	for _, tt := range []struct {
		network string
		size    uint16
		most    int
		cut     bool
	}{{"udp", 0, 512, true}, {"udp", 1000, 1000, true}, {"udp", 4096, 1232, true}, {"tcp", 0, dns.MaxMsgSize, false}} {
		m := question("many.example.com.", dns.TypeA)
		if tt.size > 0 {
			m.SetEdns0(tt.size, false)
		}
		answer, err := l.ask(0, tt.network, gateway4, m)
		if err != nil {
			t.Fatal(err)
		}
		answer.Compress = true
		if answer.Truncated != tt.cut || answer.Len() > tt.most || !tt.cut && len(answer.Answer) != 100 {
			t.Errorf("over %s for %d bytes: truncated %v, %d bytes, %d records", tt.network, tt.size, answer.Truncated, answer.Len(), len(answer.Answer))
		}
	}
	status, answer := l.dig(0, "@"+gateway6, "many.example.com") // which asks again by TCP
	if n := strings.Count(answer, "198.51.101."); status != "NOERROR" || n != 100 {
		t.Errorf("dig got %s and %d addresses over IPv6", status, n)
	}
	if open := l.openFor(0, "198.51.101.99", "*.example.com"); open <= 0 {
		t.Error("the last address is not open")
	}
}
