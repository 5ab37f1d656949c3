package nettest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// open finds the open ports in what nmap prints for programs: "Host: 10.213.0.1 ()\tPorts: 53/open/tcp//domain///".
var open = regexp.MustCompile(`(\d+)/open/(tcp|udp)`)

// TestNothingIsOpenButNames scans what is around a phone, from within. Programs listen on the host, on the neighbour and on the router.
func TestNothingIsOpenButNames(t *testing.T) {
	testenv.Tool(t, "nmap")
	w := newWorld(t)
	w.nameServers()
	me, neighbour := phone(1), phone(2)
	w.ensure(me)
	beside := w.ensure(neighbour)
	for _, ns := range []netlab.Namespace{netlab.Host(), beside} {
		for _, port := range []int{22, 80, 5555} {
			w.serve(ns, fmt.Sprint(":", port))
		}
		for _, port := range []int{67, 111} {
			w.servePackets(ns, fmt.Sprint(":", port))
		}
	}
	w.serve(w.server, ":80")
	guest := w.newGuest(me.ID)
	guest.awaitNameServer("allowed.example", "@10.213.0.1")
	scan := func(t *testing.T, want string, args ...string) {
		t.Helper()
		out := guest.run(append([]string{"nmap", "-n", "-Pn", "--max-retries", "2", "--min-rate", "300", "--max-rtt-timeout", "300ms", "-oG", "-"}, args...)...)
		var found []string
		for line := range strings.Lines(out) {
			for _, port := range open.FindAllStringSubmatch(line, -1) {
				found = append(found, strings.Fields(line)[1]+" "+port[1]+" "+port[2])
			}
		}
		slices.Sort(found)
		if got := strings.Join(slices.Compact(found), ", "); got != want {
			t.Errorf("nmap %q found %q; want %q", args, got, want)
		}
	}
	const ports, around = "T:22,53,80,111,853,5555,8080", "10.213.0.1 10.213.1.2 192.168.77.1 192.168.77.2 169.254.169.254"
	scan(t, "10.213.0.1 53 tcp", append([]string{"-sS", "-p", ports}, strings.Fields(around)...)...)
	scan(t, "fd70:686f:6e65::1 53 tcp", "-6", "-sS", "-p", ports, "fd70:686f:6e65::1", "fd70:686f:6e65::1:2", "fd00:77::1", "fd00:77::2")
	scan(t, "10.213.0.1 53 udp", "-sU", "-p", "U:53,67,111", "10.213.0.1", "10.213.1.2", "192.168.77.1")
	for _, odd := range []string{"-sF", "-sX", "-sN", "-sA", "-sM"} {
		scan(t, "", odd, "-p", "T:22,80", "10.213.1.2", "192.168.77.1")
	}
	scan(t, "203.0.114.2 80 tcp", "-sT", "-p", "T:80,81", "203.0.114.2")
}

// TestAnOrdinaryPhone uses a network as phones do.
func TestAnOrdinaryPhone(t *testing.T) {
	w := newWorld(t)
	w.nameServers()
	me := phone(1)
	w.ensure(me)
	guest := w.newGuest(me.ID)
	guest.awaitNameServer("allowed.example", "@10.213.0.1")
	t.Run("ping", func(t *testing.T) {
		testenv.Tool(t, "ping")
		for _, address := range []string{server4.String(), server6.String(), gateway4.String(), gateway6.String()} {
			guest.run("ping", "-c2", "-i0.2", "-w20", address)
			guest.run("ping", "-c1", "-w20", "-s", "4000", address) // in fragments
		}
	})
	t.Run("dig", func(t *testing.T) {
		if out, ok := guest.dig("allowed.example", "AAAA", "@fd70:686f:6e65::1", "+short"); !ok || strings.TrimSpace(out) != server6.String() {
			t.Errorf("allowed.example is %q", out)
		}
	})
	t.Run("curl", func(t *testing.T) { w.curl(t, guest) })
	t.Run("iperf3", func(t *testing.T) { w.iperf3(t, guest) })
	if dropped := w.dropped(me.ID); slices.ContainsFunc(slices.Collect(maps.Keys(dropped)), func(reason string) bool { return !quiet(reason) }) {
		t.Errorf("of an ordinary phone %v were dropped", dropped)
	}
}

func (w *world) curl(t *testing.T, guest *guest) {
	testenv.Tool(t, "curl")
	const size = 4 << 20
	var l net.Listener
	if err := w.server.Do(func() (err error) { l, err = net.Listen("tcp", ":8080"); return err }); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { _, _ = out.Write(make([]byte, size)) })}
	go func() { _ = server.Serve(l) }() // until Close
	defer server.Close()
	for _, url := range []string{"http://203.0.114.2:8080/", "http://[2001:4860::2]:8080/"} {
		if out := guest.run("curl", "-sS", "--max-time", "60", "-o", "/dev/null", "-w", "%{size_download} %{http_code}", url); out != fmt.Sprint(size, " 200") {
			t.Errorf("curl %s: %s", url, out)
		}
	}
}

func (w *world) iperf3(t *testing.T, guest *guest) {
	testenv.Tool(t, "iperf3")
	for _, address := range []netip.Addr{server4, server6} { // or it would answer datagrams as the router
		server := w.server.Command(t, "iperf3", "-s", "-B", address.String())
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = server.Process.Kill()
			_ = server.Wait()
		}()
	}
	for _, args := range [][]string{{"-c", "203.0.114.2"}, {"-c", "203.0.114.2", "-R"}, {"-c", "2001:4860::2"}, {"-c", "203.0.114.2", "-u", "-b", "20M"}} {
		w.measure(t, guest, args)
	}
}

// measure runs iperf3 in the phone, until the server listens.
func (w *world) measure(t *testing.T, guest *guest, args []string) {
	t.Helper()
	for until := time.Now().Add(patience); ; {
		r := guest.do(order{Args: append([]string{"iperf3", "-J", "-t", "1"}, args...)})
		var report struct {
			Error string
			End   struct {
				Sum  struct{ Bytes float64 }
				Sent struct{ Bytes float64 } `json:"sum_sent"`
			}
		}
		if err := json.Unmarshal([]byte(r.Out), &report); err != nil {
			t.Fatalf("iperf3 %q: %v\n%s", args, err, r.Out)
		}
		if report.Error == "" && report.End.Sum.Bytes+report.End.Sent.Bytes > 1<<20 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("iperf3 %q: %s", args, r.Out)
		}
	}
}
