package resolver_test

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// upstream is a name server of a small internet.
type upstream struct {
	mu      sync.Mutex
	records map[string][]dns.RR // by name and type
	asked   map[string]int      // how often
	ports   map[int]bool        // from which ports it was asked
	delay   time.Duration       // before each answer
	silent  bool                // it does not answer
	servers []*dns.Server
}

func newUpstream(t *testing.T, at netlab.Namespace) *upstream {
	t.Helper()
	u := &upstream{records: map[string][]dns.RR{}, asked: map[string]int{}, ports: map[int]bool{}}
	err := at.Do(func() error {
		packets, err := net.ListenPacket("udp", upstreamAddress)
		if err != nil {
			return err
		}
		connections, err := net.Listen("tcp", upstreamAddress)
		u.servers = []*dns.Server{{PacketConn: packets, Handler: u}, {Listener: connections, Handler: u}}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range u.servers {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := s.Shutdown(); err != nil {
				t.Error(err)
			}
			<-ended
		})
	}
	return u
}

// add adds records in the form of zone files.
func (u *upstream) add(t *testing.T, lines ...string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		key := strings.ToLower(rr.Header().Name) + dns.TypeToString[rr.Header().Rrtype]
		u.records[key] = append(u.records[key], rr)
	}
}

func (u *upstream) set(fn func(*upstream)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	fn(u)
}

// count is how often a name was asked for, of whatever type.
func (u *upstream) count(name string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[name]
}

// ServeDNS answers with what it has, following aliases, and by NXDOMAIN with an SOA record otherwise.
func (u *upstream) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	r := new(dns.Msg)
	r.SetReply(m)
	u.mu.Lock()
	q := m.Question[0]
	u.asked[q.Name]++
	if a, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		u.ports[a.Port] = true
	}
	delay, silent := u.delay, u.silent
	for name := q.Name; ; {
		for _, rr := range u.records[name+dns.TypeToString[q.Qtype]] {
			r.Answer = append(r.Answer, dns.Copy(rr))
		}
		alias := u.records[name+"CNAME"]
		if q.Qtype == dns.TypeCNAME || len(alias) == 0 || len(r.Answer) > 30 {
			break
		}
		r.Answer = append(r.Answer, dns.Copy(alias[0]))
		name = alias[0].(*dns.CNAME).Target
	}
	u.mu.Unlock()
	if silent {
		return
	}
	if len(r.Answer) == 0 {
		r.Rcode = dns.RcodeNameError
		r.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "a.", Mbox: "b.", Minttl: 60}}
	}
	<-time.After(delay)
	if w.RemoteAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if opt := m.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		r.Truncate(size)
	}
	_ = w.WriteMsg(r) // the server may have given up
}

func monotonic(t *testing.T) uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return uint64(ts.Nano())
}
