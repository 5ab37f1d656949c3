package resolver_test

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
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/netpolicy/resolver"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

func TestMain(m *testing.M) { os.Exit(netlab.Run(m)) }

const (
	gateway4, gateway6 = "10.213.0.1", "fd70:686f:6e65::1"
	upstreamAddress    = "192.0.2.2:53"
	pinsDir            = "/sys/fs/bpf/phonehost/net"
	policySlot         = 7
)

// protected are what the host of the lab protects.
var protected = []policy.AddressClass{
	{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Class: 7}, {Prefix: netip.MustParsePrefix("192.168.0.0/16"), Class: 7},
	{Prefix: netip.MustParsePrefix("127.0.0.0/8"), Class: 6}, {Prefix: netip.MustParsePrefix("169.254.0.0/16"), Class: 4},
	{Prefix: netip.MustParsePrefix("::1/128"), Class: 6}, {Prefix: netip.MustParsePrefix("fd00::/8"), Class: 7},
}

// lab is a host with a datapath, an upstream beyond a link, and phones beyond others.
type lab struct {
	t        *testing.T
	config   resolver.Config
	upstream *upstream
	phones   []netlab.Namespace // phone n has slot n
	data     *datapath.Datapath
	state    resolver.State
}

// newLab makes a lab with phones; rules are their policy.
func newLab(t *testing.T, phones int, rules string) *lab {
	t.Helper()
	testenv.Root(t)
	testenv.Tool(t, "dig")
	l := &lab{t: t}
	gateways(t)
	beyond := netlab.Make(t, "up")
	beyond.Wire(t, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	l.upstream = newUpstream(t, beyond)
	var err error
	if l.data, err = datapath.Open(datapath.Config{Dir: pinsDir, MaxPhones: 16}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.data.Close(), datapath.Remove(pinsDir)); err != nil {
			t.Error(err)
		}
	})
	for n := range phones {
		l.addPhone(n)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l.config = resolver.Config{
		Listen: []netip.AddrPort{netip.MustParseAddrPort(gateway4 + ":53"), netip.MustParseAddrPort("[" + gateway6 + "]:53")},
		Pins:   pinsDir, State: filepath.Join(dir, "state"), Control: filepath.Join(dir, "control.sock"), ResolvConf: filepath.Join(dir, "resolv.conf"),
	}
	l.write("resolv.conf", "nameserver 192.0.2.2\n")
	l.state = resolver.State{Protected: protected, Policies: map[uint32]policy.Policy{}}
	l.setPolicy(rules)
	return l
}

// gateways puts the gateways' addresses on a link of the host.
func gateways(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{gateway4 + "/32", gateway6 + "/128"} {
		a, err := netlink.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(lo, a); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = netlink.AddrDel(lo, a) })
	}
}

// addPhone wires a namespace and tells the datapath that it is a phone.
func (l *lab) addPhone(n int) {
	l.t.Helper()
	p := netlab.Make(l.t, fmt.Sprintf("p%d", n))
	four, six := fmt.Sprintf("10.213.%d.", n+1), fmt.Sprintf("fd70:686f:6e65:%d::", n+1)
	link := p.Wire(l.t, []string{four + "1/24", six + "1/64"}, []string{four + "2/24", six + "2/64"})
	mac := net.HardwareAddr{2, 0, 0, 0, 0, byte(n)}
	err := l.data.SetPhone(link.Attrs().Index, datapath.Phone{
		Slot: uint32(n), Policy: policySlot, IPv4: netip.MustParseAddr(four + "2"), IPv6: netip.MustParseAddr(six + "2"),
		Gateway4: netip.MustParseAddr(gateway4), Gateway6: netip.MustParseAddr(gateway6), Prefix4: 16, MAC: mac, GatewayMAC: mac,
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.phones = append(l.phones, p)
}

func (l *lab) write(name, text string) {
	l.t.Helper()
	path := filepath.Join(filepath.Dir(l.config.State), name)
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		l.t.Fatal(err)
	}
}

// setPolicy makes rules the phones' policy.
func (l *lab) setPolicy(rules string) {
	l.t.Helper()
	p, err := policy.Parse([]byte(rules))
	if err != nil {
		l.t.Fatal(err)
	}
	l.state.Policies[policySlot] = p
	l.writeState()
}

func (l *lab) writeState() {
	l.t.Helper()
	if err := resolver.WriteState(l.config.State, l.state); err != nil {
		l.t.Fatal(err)
	}
}

// run runs a server until stop is called, or the test ends.
func (l *lab) run(config resolver.Config) (s *resolver.Server, stop func()) {
	l.t.Helper()
	logger := slog.New(slog.NewTextHandler(l.t.Output(), nil))
	s, err := resolver.New(config, resolver.Options{Leases: resolver.OpenPins(config.Pins), Logger: logger})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(stop)
	l.until("the server serves", func() bool { return s.Status().Serving })
	return s, stop
}

// until waits for what comes without an event that a test could see.
func (l *lab) until(what string, ok func() bool) {
	l.t.Helper()
	limit := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(limit) {
			l.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// dig asks the gateway from a phone and returns the status and the answer's records, one a line, without TTL and class.
func (l *lab) dig(phone int, args ...string) (status, answer string) {
	l.t.Helper()
	args = append([]string{"+tries=1", "+time=5", "+nocookie"}, args...)
	if !strings.Contains(strings.Join(args, " "), "@") {
		args = append([]string{"@" + gateway4}, args...)
	}
	out, _ := l.phones[phone].Command(l.t, "dig", args...).CombinedOutput()
	text := string(out)
	_, after, _ := strings.Cut(text, "status: ")
	status, _, _ = strings.Cut(after, ",")
	_, section, found := strings.Cut(text, ";; ANSWER SECTION:\n")
	if !found {
		return status, ""
	}
	section, _, _ = strings.Cut(section, "\n\n")
	for line := range strings.Lines(section) {
		f := strings.Fields(line)
		answer += strings.Join(append(f[:1:1], f[3:]...), " ") + "\n"
	}
	return status, answer
}

// ask exchanges a message from a phone over UDP or TCP.
func (l *lab) ask(phone int, network, server string, m *dns.Msg) (*dns.Msg, error) {
	var conn net.Conn
	err := l.phones[phone].Do(func() (err error) {
		conn, err = net.DialTimeout(network, net.JoinHostPort(server, "53"), 5*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := &dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 4096}
	answer, _, err := c.ExchangeWithConn(m, &dns.Conn{Conn: conn})
	return answer, err
}

func question(name string, kind uint16) *dns.Msg {
	m := new(dns.Msg)
	return m.SetQuestion(name, kind)
}

// openFor returns how long an address is open in the kernel for a phone by a rule's name; 0: it is not.
func (l *lab) openFor(phone int, address, pattern string) time.Duration {
	l.t.Helper()
	names, err := ebpf.LoadPinnedMap(filepath.Join(pinsDir, "v1", "names"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		l.t.Fatal(err)
	}
	defer names.Close()
	key := struct {
		Slot, Pad uint32
		Address   [16]byte
	}{Slot: uint32(phone), Address: netip.MustParseAddr(address).As16()}
	var value [8]struct{ ID, Until uint64 }
	if err := names.Lookup(key, &value); errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0
	} else if err != nil {
		l.t.Fatal(err)
	}
	for _, lease := range value {
		if lease.ID == policy.NameID(pattern) {
			return time.Duration(lease.Until - monotonic(l.t))
		}
	}
	return 0
}

// send sends a datagram from a phone and, after it, a question; it returns how long the answer to the datagram is, 0 without one.
func (l *lab) send(phone int, raw []byte) int {
	l.t.Helper()
	var conn net.Conn
	err := l.phones[phone].Do(func() (err error) { conn, err = net.Dial("udp", net.JoinHostPort(gateway4, "53")); return err })
	if err != nil {
		l.t.Fatal(err)
	}
	defer conn.Close()
	last := question("www.example.com.", dns.TypeA)
	last.Id = 4242
	for _, message := range [][]byte{raw, pack(l.t, last)} {
		if _, err := conn.Write(message); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		l.t.Fatal(err)
	}
	length := 0
	for {
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			l.t.Fatal(err)
		}
		var answer dns.Msg
		if err := answer.Unpack(buf[:n]); err == nil && answer.Id == last.Id {
			return length
		}
		length = n
	}
}
