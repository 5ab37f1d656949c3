package nettest

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/resolver"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// internet is a name server that knows a few names and remembers what it was asked.
type internet struct {
	mu    sync.Mutex
	asked []string
}

// zone is what it knows.
var zone = []string{
	"allowed.example. 60 IN A 203.0.114.2", "allowed.example. 60 IN AAAA 2001:4860::2", "other.example. 60 IN A 203.0.114.3", "rebind.example. 60 IN A 10.213.1.2",
	"rebind.example. 60 IN AAAA fd70:686f:6e65::1:2", "meta.example. 60 IN A 169.254.169.254", "mapped.example. 60 IN AAAA ::ffff:10.213.1.2", "nat64.example. 60 IN AAAA 64:ff9b::10.213.1.2",
	`tunnel.example. 60 IN TXT "downstream"`, `x.denied.example. 60 IN TXT "downstream"`, "alias.example. 60 IN CNAME x.denied.example.", "x.denied.example. 60 IN A 203.0.114.3",
}

// ServeDNS answers a question from the zone.
func (i *internet) ServeDNS(out dns.ResponseWriter, m *dns.Msg) {
	q := m.Question[0]
	i.mu.Lock()
	i.asked = append(i.asked, strings.ToLower(q.Name))
	i.mu.Unlock()
	r := new(dns.Msg)
	r.SetReply(m)
	for name, last := q.Name, ""; name != last; {
		last = name
		for _, text := range zone {
			rr, err := dns.NewRR(text)
			if err != nil || !strings.EqualFold(rr.Header().Name, name) {
				continue
			}
			if alias, ok := rr.(*dns.CNAME); ok {
				r.Answer, name = append(r.Answer, rr), alias.Target
			} else if rr.Header().Rrtype == q.Qtype {
				r.Answer = append(r.Answer, rr)
			}
		}
	}
	_ = out.WriteMsg(r) // who asked may have gone
}

// wasAsked tells whether a name or one below it came to the name server.
func (i *internet) wasAsked(name string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, asked := range i.asked {
		if strings.HasSuffix(asked, name) {
			return true
		}
	}
	return false
}

// nameServers begins the internet's name server, on the router and the server's public addresses, also on port 853, and the phones' own, the real one.
func (w *world) nameServers() *internet {
	w.t.Helper()
	upstream := new(internet)
	for _, port := range []string{":53", ":853"} {
		err := w.server.Do(func() error {
			packets, err := net.ListenPacket("udp", port)
			if err != nil {
				return err
			}
			connections, err := net.Listen("tcp", port)
			if err != nil {
				return err
			}
			for _, s := range []*dns.Server{{PacketConn: packets, Handler: upstream}, {Listener: connections, Handler: upstream}} {
				started := make(chan struct{})
				s.NotifyStartedFunc = func() { close(started) }
				go func() { _ = s.ActivateAndServe() }() // until Shutdown
				<-started
				w.t.Cleanup(func() { _ = s.Shutdown() })
			}
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	w.runNameServer()
	return upstream
}

// runNameServer runs phonehostd dns until the test ends.
func (w *world) runNameServer() {
	w.t.Helper()
	program := testenv.PureBinary(w.t, "agent/cmd/phonehostd")
	cfg := resolver.Config{
		Listen: []netip.AddrPort{netip.AddrPortFrom(gateway4, 53), netip.AddrPortFrom(gateway6, 53)}, Pins: w.cfg.Pins, State: w.cfg.NameServerState, ResolvConf: "/etc/resolv.conf",
	}
	text, err := cfg.JSON()
	if err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(w.t.TempDir(), "dns.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(program, "dns", "--config", path)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("the name server: %v", err)
		}
	})
}

// dig asks from the phone and returns what was printed and whether there was an answer.
func (g *guest) dig(args ...string) (string, bool) {
	g.t.Helper()
	r := g.do(order{Args: append([]string{"dig", "+tries=1", "+time=1"}, args...)})
	return r.Out, r.Err == "" && r.Exit == 0
}

// awaitNameServer asks until the name server has begun to answer.
func (g *guest) awaitNameServer(args ...string) {
	g.t.Helper()
	for until := time.Now().Add(patience); time.Now().Before(until); {
		if out, ok := g.dig(args...); ok && strings.Contains(out, "NOERROR") {
			return
		}
	}
	g.t.Fatalf("the name server does not answer %q", args)
}

// TestNoWayThroughNames has a phone try to reach by DNS whom it may not.
func TestNoWayThroughNames(t *testing.T) {
	testenv.Tool(t, "dig")
	w := newWorld(t)
	upstream := w.nameServers()
	me := phone(1)
	me.Policy = "names"
	w.policy("names", "default allow-internet\ndeny egress any *.denied.example\nallow egress any *\n")
	w.ensure(me)
	w.ensure(phone(2))
	guest := w.newGuest(me.ID)
	guest.awaitNameServer("allowed.example", "@10.213.0.1")
	guest.awaitNameServer("allowed.example", "AAAA", "@fd70:686f:6e65::1", "+tcp")

	t.Run("names that are denied are not asked for", func(t *testing.T) {
		for _, args := range [][]string{{"TXT", "secret.x.denied.example"}, {"TXT", "secret.X.Denied.eXample", "+tcp"}, {"A", "secret.x.denied.example"}, {"NULL", "secret.x.denied.example"}, {"ANY", "secret.x.denied.example"}} {
			if out, _ := guest.dig(append(args, "@10.213.0.1")...); !strings.Contains(out, "REFUSED") {
				t.Errorf("%q was answered with\n%s", args, out)
			}
		}
		if upstream.wasAsked("secret.x.denied.example.") {
			t.Error("the name came to the internet")
		}
	})
	t.Run("addresses that are protected are not given out", func(t *testing.T) {
		for _, args := range [][]string{{"A", "rebind.example"}, {"AAAA", "rebind.example"}, {"A", "meta.example"}, {"AAAA", "mapped.example"}, {"AAAA", "nat64.example"}} {
			if out, _ := guest.dig(append(args, "@10.213.0.1", "+short")...); strings.Contains(out, "10.213.1.2") || strings.Contains(out, "169.254") || strings.Contains(out, "::") {
				t.Errorf("%q was answered with %s", args, out)
			}
		}
	})
	t.Run("no other name server", func(t *testing.T) {
		for _, tt := range []struct{ reason, args string }{
			{"NAME_SERVER", "@203.0.114.2"}, {"NAME_SERVER", "@203.0.114.2 +tcp"}, {"NAME_SERVER", "@203.0.114.2 -p 853"}, {"NAME_SERVER", "@203.0.114.2 -p 853 +tcp"}, {"NAME_SERVER", "@2001:4860::2"},
			{"NAME_SERVER", "@2001:4860::2 +tcp"}, {"PROTECTED", "@192.168.77.2"}, {"PROTECTED", "@192.168.77.1"}, {"PROTECTED", "@fd70:686f:6e65::1:2"}, {"PROTECTED", "@10.213.0.1 -p 853"},
		} {
			before := w.dropped(me.ID)
			if out, ok := guest.dig(append(strings.Fields(tt.args), "TXT", "tunnel.example")...); ok {
				t.Errorf("%s answered\n%s", tt.args, out)
			}
			if after := w.dropped(me.ID); after[tt.reason] == before[tt.reason] {
				t.Errorf("%s: nothing was dropped as %s: %v", tt.args, tt.reason, after)
			}
		}
		if out, ok := guest.dig("@fe80::1%eth0", "TXT", "tunnel.example"); ok {
			t.Errorf("the gateway's address on the link answered\n%s", out)
		}
		if upstream.wasAsked("tunnel.example.") {
			t.Error("the question came to the internet")
		}
	})
	t.Run("an address opens when its name was asked for", func(t *testing.T) { w.opens(t, me.ID, guest) })
}

// opens changes the policy to one name, whose address must be open to the phone after it was told it, and not before.
func (w *world) opens(t *testing.T, id string, guest *guest) {
	w.serve(w.server, ":80")
	w.policy("names", "default deny-all\nallow egress tcp allowed.example 80\n")
	for until := time.Now().Add(patience); ; { // the name server has learnt of it
		out, _ := guest.dig("other.example", "@10.213.0.1")
		if strings.Contains(out, "REFUSED") {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("the name server does not follow the policy: %s", out)
		}
	}
	if conn, err := connect(w.namespace(id), "tcp", "203.0.114.2:80", silence); err == nil {
		conn.Close()
		t.Error("the address is open before its name was asked for")
	}
	if out, ok := guest.dig("allowed.example", "@10.213.0.1", "+short"); !ok || !strings.Contains(out, "203.0.114.2") {
		t.Fatalf("allowed.example is %q", out)
	}
	conn, err := connect(w.namespace(id), "tcp", "203.0.114.2:80", patience)
	if err != nil {
		t.Fatalf("the address is closed after its name was told: %v", err)
	}
	conn.Close()
	if conn, err := connect(w.namespace(id), "tcp", "203.0.114.3:80", silence); err == nil {
		conn.Close()
		t.Error("another address is open")
	}
}
