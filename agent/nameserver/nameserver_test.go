package nameserver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/agent/nameserver"
	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/netpolicy/resolver"
	"github.com/phonehost/phonehost/runtime/service"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

func TestMain(m *testing.M) { os.Exit(netlab.Run(m)) }

const (
	pins = "/sys/fs/bpf/phonehost/net"
	uid  = 1_999_999
)

var (
	gateway = netip.MustParseAddr("10.213.0.1")
	address = netip.MustParseAddr("10.213.0.2")
)

// host is a host with a containerd, a datapath with one phone, and an upstream.
type host struct {
	t        *testing.T
	services *service.Host
	config   nameserver.Config
	phone    netlab.Namespace
}

func newHost(t *testing.T) *host {
	t.Helper()
	server := testenv.Containerd(t)
	dir, err := os.MkdirTemp("", "phonehost-dns-") // paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, phone: netlab.Make(t, "phone")}
	h.openDatapath()
	serveUpstream(t)
	h.services, err = service.New(service.Config{
		Client: server.Client(t), StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log"),
		CgroupRoot: "/" + filepath.Base(dir), LogBinary: testenv.Binary(t, "runtime/cmd/phone-log"), Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.config = nameserver.Config{
		Program: testenv.PureBinary(t, "agent/cmd/phonehostd"), UID: uid, Gateways: []netip.Addr{gateway}, Pins: pins,
		State: filepath.Join(dir, "names"), ResolvConf: filepath.Join(dir, "etc", "resolv.conf"),
	}
	if err := errors.Join(os.Mkdir(filepath.Dir(h.config.ResolvConf), 0o755), os.WriteFile(h.config.ResolvConf, []byte("nameserver 127.0.0.53\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse([]byte("default deny-all\nallow egress tcp *.example.com 443\n"))
	if err != nil {
		t.Fatal(err)
	}
	state := resolver.State{
		Protected: []policy.AddressClass{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Class: 7}}, Policies: map[uint32]policy.Policy{3: p},
	}
	if err := resolver.WriteState(h.config.State, state); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := h.services.Remove(ctx, nameserver.Name); err != nil {
			t.Error(err)
		}
		for _, below := range []string{"/.services", ""} {
			for _, mount := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
				dirs, _ := filepath.Glob(mount + filepath.Base(dir) + below)
				for _, d := range dirs {
					if err := os.Remove(d); err != nil {
						t.Error(err)
					}
				}
			}
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log", "services", "dns.log"))
			t.Logf("the name server's log:\n%s", log)
		}
	})
	return h
}

// openDatapath makes the phone known to the kernel's maps, and lets the name server use them.
func (h *host) openDatapath() {
	h.t.Helper()
	link := h.phone.Wire(h.t, []string{gateway.String() + "/16"}, []string{address.String() + "/16"})
	d, err := datapath.Open(datapath.Config{Dir: pins, MaxPhones: 16})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := errors.Join(d.Close(), datapath.Remove(pins)); err != nil {
			h.t.Error(err)
		}
	})
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	err = d.SetPhone(link.Attrs().Index, datapath.Phone{Slot: 1, Policy: 3, IPv4: address, Gateway4: gateway, Prefix4: 16, MAC: mac, GatewayMAC: mac})
	if err == nil {
		err = resolver.Grant(pins, uid)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// serveUpstream answers at the address of the host's stub resolver.
func serveUpstream(t *testing.T) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.53:53")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg)
		r.SetReply(m)
		rr, err := dns.NewRR(m.Question[0].Name + " 60 IN A 198.51.100.1")
		if err == nil {
			r.Answer = []dns.RR{rr}
		}
		_ = w.WriteMsg(r)
	})}
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

func (h *host) ensure() service.Instance {
	h.t.Helper()
	spec, err := nameserver.Spec(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	i, err := h.services.Ensure(h.t.Context(), spec)
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

// ask asks from the phone.
func (h *host) ask(network, name string) (*dns.Msg, error) {
	var conn net.Conn
	err := h.phone.Do(func() (err error) {
		conn, err = net.DialTimeout(network, netip.AddrPortFrom(gateway, 53).String(), 5*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := &dns.Client{Net: network, Timeout: 5 * time.Second}
	m := new(dns.Msg)
	answer, _, err := c.ExchangeWithConn(m.SetQuestion(name, dns.TypeA), &dns.Conn{Conn: conn})
	return answer, err
}

func (h *host) check(name string, rcode int) {
	h.t.Helper()
	if answer, err := h.ask("udp", name); err != nil || answer.Rcode != rcode {
		h.t.Errorf("%s: %v, %v; want %s", name, answer, err, dns.RcodeToString[rcode])
	}
}

// TestInItsContainer has the server do all that it does from within its confinement, replaces it under questions, and kills it.
func TestInItsContainer(t *testing.T) {
	h := newHost(t)
	first := h.ensure()
	h.check("www.example.com.", dns.RcodeSuccess)
	h.check("other.test.", dns.RcodeRefused)
	denials, err := nameserver.Control(first).TakeDenials(t.Context())
	if err != nil || len(denials) != 1 || denials[0].Slot != 1 || denials[0].Name != "other.test" {
		t.Errorf("denials: %+v, %v", denials, err)
	}
	status, err := nameserver.Control(first).Status(t.Context())
	if err != nil || status.Counters.Opened != 1 || fmt.Sprint(status.Upstreams) != "[127.0.0.53:53]" {
		t.Errorf("status: %+v, %v", status, err)
	}
	tally := nameserver.NewTally(time.Unix(0, 0))
	tally.Use(&first)
	for range 2 {
		if now := tally.Read(t.Context()); !now.Up || now.Counters.Queries != 2 || now.Counters.Answered != 1 || now.Counters.Refused != 1 {
			t.Errorf("counted: %+v", now)
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", first.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("Uid:\t%d\t%d\t%d\t%d\n", uid, uid, uid, uid), fmt.Sprintf("CapBnd:\t%016x\n", 1<<unix.CAP_NET_BIND_SERVICE), "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("its process has no %q:\n%s", want, text)
		}
	}

	var stop atomic.Bool
	var asking sync.WaitGroup
	var asked, lost atomic.Int64
	for _, network := range []string{"udp", "udp", "tcp"} {
		asking.Go(func() {
			pace := time.NewTicker(15 * time.Millisecond)
			defer pace.Stop()
			for !stop.Load() {
				<-pace.C
				answer, err := h.ask(network, "www.example.com.")
				if asked.Add(1); err != nil || answer.Rcode != dns.RcodeSuccess {
					lost.Add(1)
					t.Logf("over %s: %v %v", network, answer, err)
				}
			}
		})
	}
	before := first
	for n := range 3 {
		h.config.Gateways = append(h.config.Gateways[:1], netip.AddrFrom4([4]byte{10, 213, 255, byte(n)})) // another configuration
		after := h.ensure()
		if after.ID == before.ID {
			t.Error("another configuration started nothing")
		}
		before = after
	}
	stop.Store(true)
	asking.Wait()
	if t.Logf("%d questions in 3 replacements", asked.Load()); lost.Load() != 0 || asked.Load() == 0 {
		t.Errorf("%d of %d questions had no answer", lost.Load(), asked.Load())
	}

	if err := unix.Kill(int(before.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if last, err := h.services.Wait(t.Context(), before); err != nil || last.ExitCode != 137 {
		t.Errorf("killed, it ended with %d, %v", last.ExitCode, err)
	}
	if answer, err := h.ask("udp", "www.example.com."); err == nil {
		t.Errorf("without a name server there is an answer: %v", answer)
	}
	tally.Use(&before)
	if now := tally.Read(t.Context()); now.Up || now.Counters.Queries != 2 {
		t.Errorf("of a server that was killed: %+v", now)
	}
	again := h.ensure()
	if again.ID == before.ID {
		t.Error("the one that was killed is said to run")
	}
	h.check("www.example.com.", dns.RcodeSuccess)
	tally.Use(&again)
	if now := tally.Read(t.Context()); !now.Up || now.Counters.Queries != 3 || now.Counters.Answered != 2 {
		t.Errorf("counted over the restarts: %+v", now)
	}
}
