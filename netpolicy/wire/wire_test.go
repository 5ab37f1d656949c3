package wire

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/netns"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimEnv) != "" { // started by TestKilledAtAnyTime, in the laboratory already
		os.Exit(victim())
	}
	os.Exit(netlab.Run(m))
}

var (
	pool4 = netip.MustParsePrefix("10.213.0.0/16")
	pool6 = netip.MustParsePrefix("fd70:686f:6e65::/64")
)

// lab is a host with a server on its uplink.
type lab struct {
	*Wire
	server netlab.Namespace
	names  netns.Dir
}

const (
	server4, server6 = "9.9.9.9", "2620:fe::9"
	uplinkName       = "up-server"
)

// newLab makes a host with an uplink, "up-server", and a Wire there. The server knows no way to the phones but by the host, as where the
// pools are routed.
func newLab(t testing.TB) lab {
	t.Helper()
	testenv.Root(t)
	server := netlab.Make(t, "server")
	server.Wire(t, []string{"9.9.9.1/24", "2620:fe::1/64"}, []string{server4 + "/24", server6 + "/64"})
	linkLocals(t, server)
	run(t, "ip", "route", "add", "default", "via", server4)
	run(t, "ip", "-6", "route", "add", "default", "via", server6)
	l := lab{server: server, names: netns.New(filepath.Join(t.TempDir(), "netns"))}
	l.Wire = open(t, l.config())
	t.Cleanup(func() {
		ids, err := l.names.List()
		if err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			if err := errors.Join(l.Remove(context.Background(), id), l.names.Delete(id)); err != nil {
				t.Error(err)
			}
		}
	})
	return l
}

// linkLocals gives both ends of the uplink a link-local address at once. The kernel's own are tentative for a second, in which nobody is asked
// for neighbours on behalf of phones.
func linkLocals(t testing.TB, server netlab.Namespace) {
	t.Helper()
	run(t, "ip", "addr", "replace", "fe80::a/64", "dev", uplinkName, "nodad")
	server.Run(t, "ip", "addr", "replace", "fe80::b/64", "dev", "eth0", "nodad")
}

func (l lab) config() Config {
	return Config{NetNS: l.names, Pool4: pool4, Pool6: pool6, Logger: slog.New(slog.DiscardHandler)}
}

func open(t testing.TB, c Config) *Wire {
	t.Helper()
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// phone returns the n-th phone.
func phone(id string, n uint64) Phone { return Phone{ID: id, IPv4: Nth(pool4, n), IPv6: Nth(pool6, n)} }

// ensure wires a phone and brings it up.
func (l lab) ensure(t testing.TB, p Phone) Link {
	t.Helper()
	if _, err := l.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := l.Up(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	link, err := l.Ensure(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// guest is the phone's namespace.
func (l lab) guest(id string) netlab.Namespace {
	return netlab.Namespace{Name: id, Path: l.names.Path(id)}
}

// run runs a command on the host and returns what it printed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// tidy runs a command whose failure does not matter, as when what it removes is gone.
func tidy(name string, args ...string) { _ = exec.Command(name, args...).Run() }

// pings tells whether one echo request is answered within a second.
func (l lab) pings(t testing.TB, n netlab.Namespace, args ...string) bool {
	t.Helper()
	return n.Command(t, "ping", append([]string{"-n", "-c1", "-W1"}, args...)...).Run() == nil
}

// reaches fails the test unless the phone reaches the server and the gateway over both families.
func (l lab) reaches(t testing.TB, id string) {
	t.Helper()
	for _, to := range []string{server4, server6, Gateway(pool4).String(), Gateway(pool6).String()} {
		// The kernel brings local routes of IPv6 from a work queue, moments after the address.
		if !l.pings(t, l.guest(id), "-c20", "-i0.2", "-W1", "-w20", "-o", to) {
			t.Errorf("phone %s does not reach %s\n%s", id, to, l.guest(id).Run(t, "sh", "-c", "ip addr; ip route; ip -6 route; ip neigh"))
		}
	}
}

func TestPhonesReachTheServerOverBothFamilies(t *testing.T) {
	l := newLab(t)
	p := phone("p1", 0)
	link, err := l.Ensure(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if link.Up || l.pings(t, l.guest("p1"), server4) || l.pings(t, l.guest("p1"), Gateway(pool6).String()) {
		t.Error("something passes before Up")
	}
	l.ensure(t, p)
	l.reaches(t, "p1")
	if !l.pings(t, l.server, p.IPv4.String()) || !l.pings(t, l.server, p.IPv6.String()) {
		t.Error("the server does not reach the phone")
	}
}
