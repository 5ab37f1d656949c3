package netpolicy_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/netpolicy/shape"
	"github.com/phonehost/phonehost/netpolicy/wire"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// lines are what is logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// until waits for something to come about.
func until(t *testing.T, what string, wanted func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !wanted() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s does not come about", what)
		}
	}
}

// TestDeletedLinkComesBack deletes a phone's link, from within the phone and on the host: it is there again, judged by the phone's policy, limited and
// with its forwards. Whoever deletes it again and again has none for most of the time, and the neighbour does not notice.
func TestDeletedLinkComesBack(t *testing.T) {
	w := newWorld(t)
	var log lines
	w.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	w.open()
	w.policy("web", "allow egress tcp 203.0.114.0/24 80\ndefault deny-all\n")
	p := phone(1)
	p.Policy, p.UpBits, p.DownBits = "web", 10_000_000, 10_000_000
	p.Forwards = []netpolicy.Forward{{Listen: netip.MustParseAddrPort("127.0.0.1:6001"), Protocol: policy.TCP, Port: 90}}
	one, neighbour := w.ensure(p), w.ensure(phone(2))
	w.serve(w.server, ":80")
	w.serve(w.server, ":81")
	w.serve(one, ":90")
	const made = "is made anew"
	host := netlab.Host()
	for n, delete := range []func(){
		func() { one.Run(t, "ip", "link", "delete", "eth0") },
		func() { host.Run(t, "ip", "link", "delete", wire.LinkName("p1")) },
	} {
		delete()
		until(t, "a new link", func() bool { return log.count(made) == n+1 })
		if !w.reaches(one, server4+":80") {
			t.Errorf("deletion %d: p1 does not reach what its policy allows", n)
		}
		if !w.kept(one, server4+":81") {
			t.Errorf("deletion %d: p1 reaches what its policy denies", n)
		}
		if !w.reaches(host, "127.0.0.1:6001") {
			t.Errorf("deletion %d: the forward does not lead to p1", n)
		}
		if s, err := w.engine.Status(t.Context(), "p1"); err != nil || !s.Up {
			t.Errorf("deletion %d: status %+v, %v", n, s, err)
		}
		link := wire.LinkName("p1")
		if limits := host.Run(t, "tc", "qdisc") + host.Run(t, "tc", "filter", "show", "dev", link, "ingress"); strings.Count(limits, "qdisc tbf") != 2 || !strings.Contains(limits, "to device "+shape.UploadName("p1")) {
			t.Errorf("deletion %d: p1 is not limited in both directions:\n%s", n, limits)
		}
	}
	// The third within a moment has to wait.
	one.Run(t, "ip", "link", "delete", "eth0")
	if conn, _, err := dial(neighbour, server4+":80", 5*time.Second); err != nil {
		t.Errorf("the neighbour reaches nothing while p1 deletes its link: %v", err)
	} else {
		conn.Close()
	}
	if links := host.Run(t, "ip", "-o", "link"); log.count(made) != 2 || strings.Contains(links, wire.LinkName("p1")) {
		t.Errorf("the third link within a moment is there at once (%d were made):\n%s", log.count(made), links)
	}
	until(t, "the third link", func() bool { return log.count(made) == 3 })
	if !w.reaches(one, server4+":80") || !w.kept(one, server4+":81") {
		t.Error("p1 is not judged by its policy with the third link")
	}
	// A phone that is removed gets none.
	w.remove("p1")
	if !w.reaches(neighbour, server4+":80") || strings.Contains(host.Run(t, "ip", "-o", "link"), wire.LinkName("p1")) {
		t.Error("a removed phone's link came back, or its neighbour lost its own")
	}
}

// TestDeletedWithoutAnEngine deletes a link while there is no engine: the next one makes it anew when it has been told of the phone.
func TestDeletedWithoutAnEngine(t *testing.T) {
	w := newWorld(t)
	one := w.ensure(phone(1))
	w.serve(w.server, ":80")
	w.close()
	one.Run(t, "ip", "link", "delete", "eth0")
	w.open()
	w.engine.Expect([]netpolicy.Phone{phone(1)})
	w.ensure(phone(1))
	if !w.reaches(one, server4+":80") {
		t.Error("p1 reaches nothing")
	}
}
