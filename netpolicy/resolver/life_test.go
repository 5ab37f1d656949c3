package resolver_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/netpolicy/resolver"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// TestStateChangesLive changes the policy, breaks files, and takes them away, under a running server.
func TestStateChangesLive(t *testing.T) {
	l := newLab(t, 1, names)
	l.upstream.add(t, internet...)
	s, _ := l.run(l.config)
	status := func(name string) string { st, _ := l.dig(0, name); return st }
	if got := status("other.test"); got != "REFUSED" {
		t.Fatalf("other.test: %s", got)
	}
	l.setPolicy("default allow-internet\n")
	l.until("the new policy is in force", func() bool { return status("other.test") == "NOERROR" })

	path := filepath.Join(l.config.State, fmt.Sprint("policy-", policySlot))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string][]byte{
		"a file cut short": whole[:len(whole)-1], "an empty file": nil, "a changed file": append(bytes.Clone(whole), "deny egress any *\n"...),
	} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		// Another file that is whole, read after it, tells that it was read.
		l.state.Upstreams = []netip.AddrPort{netip.MustParseAddrPort(fmt.Sprintf("192.0.2.2:%d", 53+len(content)))}
		other := filepath.Join(t.TempDir(), "other")
		if err := resolver.WriteState(other, l.state); err != nil {
			t.Fatal(err)
		}
		move(t, filepath.Join(other, "upstreams"), filepath.Join(l.config.State, "upstreams"))
		l.until("the next file was read", func() bool { u := s.Status().Upstreams; return len(u) == 1 && u[0] == l.state.Upstreams[0] })
		if got := status("other.test"); got != "NOERROR" { // from the cache: the upstream's port is wrong
			t.Errorf("with %s other.test is %s; want what the policy said last", what, got)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l.state.Upstreams = nil
	l.writeState() // writes the file again, after it was missing
	l.until("the host's name servers are asked again", func() bool { return fmt.Sprint(s.Status().Upstreams) == "["+upstreamAddress+"]" })
	if got := status("other.test"); got != "NOERROR" {
		t.Errorf("other.test is %s", got)
	}
	l.write("resolv.conf", "# none\nnameserver 192.0.2.77\nnameserver 192.0.2.2\n")
	l.until("the host's new name servers are known", func() bool { return len(s.Status().Upstreams) == 2 })
	if got := status("www.example.com"); got != "NOERROR" {
		t.Errorf("with a dead name server before the one that lives www.example.com is %s", got)
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to+".new", text, 0o644)
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestFailsClosed starts servers that do not know what they must.
func TestFailsClosed(t *testing.T) {
	l := newLab(t, 1, "default allow-internet\n")
	l.upstream.add(t, internet...)
	if _, err := resolver.New(l.config, resolver.Options{Leases: resolver.OpenPins("/sys/fs/bpf/nowhere")}); !errdefs.IsNotFound(err) {
		t.Errorf("without pins: %v", err)
	}
	path := filepath.Join(l.config.State, fmt.Sprint("policy-", policySlot))
	if err := os.WriteFile(path, []byte("default allow-internet\n"), 0o644); err != nil { // without the first line
		t.Fatal(err)
	}
	s, _ := l.run(l.config)
	if status, _ := l.dig(0, "www.example.com"); status != "SERVFAIL" {
		t.Errorf("without a policy www.example.com is %s", status)
	}
	l.writeState()
	l.until("the policy is known", func() bool { status, _ := l.dig(0, "www.example.com"); return status == "NOERROR" })

	phones, err := l.data.Phones()
	if err != nil {
		t.Fatal(err)
	}
	for link := range phones {
		if err := l.data.RemovePhone(link); err != nil {
			t.Fatal(err)
		}
	}
	if status, _ := l.dig(0, "www.example.com"); status != "REFUSED" {
		t.Errorf("for whom the datapath does not know www.example.com is %s", status)
	}
	if n := s.Status().Counters.Unknown; n != 1 {
		t.Errorf("%d questions of nobody were counted", n)
	}
}

func TestProtectedMustBeKnown(t *testing.T) {
	l := newLab(t, 1, "default allow-internet\n")
	l.upstream.add(t, internet...)
	if err := os.Remove(filepath.Join(l.config.State, "protected")); err != nil {
		t.Fatal(err)
	}
	s, err := resolver.New(l.config, resolver.Options{Leases: resolver.OpenPins(l.config.Pins)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	l.until("it says SERVFAIL", func() bool { status, _ := l.dig(0, "www.example.com"); return status == "SERVFAIL" })
	if s.Status().Serving {
		t.Error("it says that it serves")
	}
	l.writeState()
	l.until("what is protected is known", func() bool { return s.Status().Serving })
	if status, _ := l.dig(0, "www.example.com"); status != "NOERROR" {
		t.Errorf("then www.example.com is %s", status)
	}
}

// TestMapsAreReplaced gives the datapath new pins under a running server.
func TestMapsAreReplaced(t *testing.T) {
	l := newLab(t, 1, names)
	l.upstream.add(t, internet...)
	l.run(l.config)
	phones, err := l.data.Phones()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.data.Close(), datapath.Remove(pinsDir)); err != nil {
		t.Fatal(err)
	}
	if l.data, err = datapath.Open(datapath.Config{Dir: pinsDir, MaxPhones: 16}); err != nil {
		t.Fatal(err)
	}
	for link, p := range phones {
		if err := l.data.SetPhone(link, p); err != nil {
			t.Fatal(err)
		}
	}
	l.until("addresses are opened in the new maps", func() bool {
		l.dig(0, "www.example.com")
		return l.openFor(0, "198.51.100.1", "*.example.com") > 0
	})
}

func TestLostUpstream(t *testing.T) {
	l := newLab(t, 1, names)
	l.upstream.add(t, internet...)
	l.state.Upstreams = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:5353"), netip.MustParseAddrPort(upstreamAddress)} // nobody is at 5353
	l.writeState()
	s, _ := l.run(l.config)
	if status, _ := l.dig(0, "www.example.com"); status != "NOERROR" {
		t.Errorf("with a second upstream that answers www.example.com is %s", status)
	}
	l.upstream.set(func(u *upstream) { u.silent = true })
	if status, _ := l.dig(0, "alias.example.com"); status != "SERVFAIL" {
		t.Errorf("without any alias.example.com is %s", status)
	}
	if status, _ := l.dig(0, "www.example.com"); status != "NOERROR" {
		t.Errorf("what is in the cache is %s", status)
	}
	l.upstream.set(func(u *upstream) { u.silent = false })
	if status, _ := l.dig(0, "alias.example.com"); status != "NOERROR" {
		t.Errorf("when the upstream is back alias.example.com is %s", status)
	}
	if c := s.Status().Counters; c.UpstreamErrors < 2 || c.Failed != 1 || c.Hits != 1 || c.Answered != c.Queries-1 {
		t.Errorf("counters: %+v", c)
	}
}

// TestAsksOnceFromManyPorts has many ask the same at once, and many different things.
func TestAsksOnceFromManyPorts(t *testing.T) {
	l := newLab(t, 1, "default allow-internet\n")
	l.upstream.add(t, internet...)
	l.upstream.set(func(u *upstream) { u.delay = 200 * time.Millisecond })
	l.run(l.config)
	var asking sync.WaitGroup
	for i := range 40 {
		for _, name := range []string{"www.example.com.", fmt.Sprintf("n%d.test.", i%20)} {
			asking.Go(func() {
				if _, err := l.ask(0, "udp", gateway4, question(name, dns.TypeA)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	asking.Wait()
	if n := l.upstream.count("www.example.com."); n != 1 {
		t.Errorf("the upstream was asked %d times for what 40 wanted at once", n)
	}
	if n := len(l.upstream.ports); n < 15 { // the kernel draws them, and may draw one twice
		t.Errorf("21 questions came from %d ports", n)
	}
}

// TestFloodHurtsNobodyElse has one phone send as much as it can, by UDP and TCP, while a neighbour asks for 200 names.
func TestFloodHurtsNobodyElse(t *testing.T) {
	l := newLab(t, 2, "default allow-internet\n")
	l.upstream.add(t, internet...)
	s, _ := l.run(l.config)
	var stop atomic.Bool
	var flood sync.WaitGroup
	var sent atomic.Uint64
	for range 2 {
		var conn net.Conn
		if err := l.phones[0].Do(func() (err error) { conn, err = net.Dial("udp", gateway4+":53"); return err }); err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		flood.Go(func() {
			for i := 0; !stop.Load(); i++ {
				raw, _ := question(fmt.Sprintf("flood%d.test.", i), dns.TypeA).Pack()
				if _, err := conn.Write(raw); err == nil {
					sent.Add(1)
				}
			}
		})
	}
	for i := range 30 { // connections that say nothing
		var conn net.Conn
		if err := l.phones[0].Do(func() (err error) { conn, err = net.Dial("tcp", gateway4+":53"); return err }); err != nil {
			t.Logf("connection %d: %v", i, err)
			continue
		}
		defer conn.Close()
	}
	failed := 0
	for i := range 200 {
		network := "udp"
		if i%4 == 0 {
			network = "tcp"
		}
		// As any resolver it asks again: the flood may fill the kernel's queue of the socket for a moment.
		answered := false
		for try := 0; try < 3 && !answered; try++ {
			answer, err := l.ask(1, network, gateway4, question(fmt.Sprintf("name%d.test.", i), dns.TypeA))
			if answered = err == nil && answer.Rcode == dns.RcodeNameError; !answered {
				t.Logf("name%d over %s: %v", i, network, err)
			}
		}
		if !answered {
			failed++
		}
	}
	stop.Store(true)
	flood.Wait()
	c := s.Status().Counters
	t.Logf("%d packets of the flood; %+v", sent.Load(), c)
	if failed > 0 {
		t.Errorf("%d of 200 questions of a neighbour were not answered", failed)
	}
	if sent.Load() < 2000 || c.Limited < sent.Load()/4 {
		t.Errorf("of %d packets %d met a limit: this was no flood", sent.Load(), c.Limited)
	}
}

// TestTakingOver starts and ends servers under questions that go on all the time; each is asked once.
func TestTakingOver(t *testing.T) {
	l := newLab(t, 2, names)
	l.upstream.add(t, internet...)
	_, end := l.run(l.config)
	var stop atomic.Bool
	var asking sync.WaitGroup
	var asked, lost atomic.Int64
	for i, network := range []string{"udp", "udp", "tcp", "tcp"} {
		asking.Go(func() {
			server := []string{gateway4, gateway6}[i%2]
			pace := time.NewTicker(15 * time.Millisecond) // below the phone's rate
			defer pace.Stop()
			for n := 0; !stop.Load(); n++ {
				<-pace.C
				answer, err := l.ask(i/2, network, server, question([]string{"www.example.com.", "alias.example.com."}[n%2], dns.TypeA))
				if asked.Add(1); err != nil || answer.Rcode != dns.RcodeSuccess {
					lost.Add(1)
					t.Logf("over %s: %v %v", network, answer, err)
				}
			}
		})
	}
	for i := range 10 {
		next := l.config
		next.Control = filepath.Join(filepath.Dir(l.config.State), fmt.Sprintf("control-%d", i))
		_, endNext := l.run(next)
		end()
		end = endNext
	}
	stop.Store(true)
	asking.Wait()
	t.Logf("%d questions in 10 changes", asked.Load())
	if lost.Load() != 0 || asked.Load() < 100 {
		t.Errorf("%d of %d questions had no answer", lost.Load(), asked.Load())
	}
}

// TestProcess runs the program, kills it, and runs it again.
func TestProcess(t *testing.T) {
	l := newLab(t, 1, names)
	l.upstream.add(t, internet...)
	l.config.Version = "one"
	text, err := l.config.JSON()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dns.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	program := testenv.PureBinary(t, "agent/cmd/phonehostd")
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), program, "dns", "--config", file)
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	control := resolver.Control{Socket: l.config.Control}
	serving := func() bool {
		s, err := control.Status(t.Context())
		return err == nil && s.Serving && s.Version == "one"
	}
	cmd := start()
	l.until("the program serves", serving)
	if status, _ := l.dig(0, "www.example.com"); status != "NOERROR" {
		t.Errorf("www.example.com is %s", status)
	}
	l.dig(0, "secret.example.com")
	list, err := control.TakeDenials(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "secret.example.com" || list[0].Reason != "DENIED" || list[0].Count != 1 {
		t.Errorf("denials: %+v, %v", list, err)
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if status, answer := l.dig(0, "www.example.com"); status != "" || answer != "" {
		t.Errorf("without a name server www.example.com is %q %q", status, answer)
	}
	if _, err := control.Status(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("its status: %v", err)
	}
	if open := l.openFor(0, "198.51.100.1", "*.example.com"); open <= 0 {
		t.Error("what was open is not open any more")
	}
	if open := l.openFor(0, "198.51.100.5", "*.example.com"); open > 0 {
		t.Error("what nobody was told is open")
	}

	cmd = start()
	l.until("the program serves again", serving)
	if status, _ := l.dig(0, "alias.example.com"); status != "NOERROR" {
		t.Errorf("alias.example.com is %s", status)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dns.json")
	right := `{"listen":["10.213.0.1:53"],"pins":"/pins","state":"/state","resolv_conf":"/resolv.conf"}`
	for text, want := range map[string]string{
		right: "",
		strings.Replace(right, "10.213.0.1:53", "0.0.0.0:53", 1): "listen",
		strings.Replace(right, "10.213.0.1:53", "10.213.0.1", 1): "dns.json",
		strings.Replace(right, "/pins", "pins", 1):               "pins",
		strings.Replace(right, `"pins"`, `"pin"`, 1):             `unknown field "pin"`,
		"{}": "listen",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := resolver.LoadConfig(file)
		if want == "" && err != nil || want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v; want an error about %q", text, err, want)
		}
	}
}

func TestWriteStateLeavesWhatIsRight(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	p := policy.Policy{Default: policy.DenyAll}
	s := resolver.State{Protected: protected, Policies: map[uint32]policy.Policy{1: p, 2: p}}
	if err := resolver.WriteState(dir, s); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(filepath.Join(dir, "policy-1"))
	if err != nil {
		t.Fatal(err)
	}
	delete(s.Policies, 2)
	if err := resolver.WriteState(dir, s); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(filepath.Join(dir, "policy-1"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("a file that was right was written again: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "policy-2")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a policy that is no more has its file: %v", err)
	}
}
