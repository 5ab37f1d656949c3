package nat_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// busConfig lets root speak to root.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`

// start starts a daemon that the test's end stops, and shows what it wrote if the test fails.
func start(t testing.TB, name string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(testenv.Tool(t, name), args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		done := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		done.Stop()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", name, log.String())
		}
	})
}

// waitFor tries a command until it succeeds.
func waitFor(t testing.TB, name string, args ...string) {
	t.Helper()
	var out []byte
	var err error
	for end := time.Now().Add(12 * patience); time.Now().Before(end); {
		if out, err = exec.CommandContext(t.Context(), testenv.Tool(t, name), args...).CombinedOutput(); err == nil {
			return
		}
	}
	t.Fatalf("%s %q: %v\n%s", name, args, err, out)
}

// startFirewalld starts firewalld, with a bus of its own, a configuration as it is delivered, and all links in its default zone. It is
// no package of scripts/deps: where it is installed it takes charge of the machine.
func startFirewalld(t testing.TB) {
	t.Helper()
	installed(t, "firewall-cmd")
	installed(t, "firewalld")
	dir := t.TempDir()
	socket := "/run/dbus/system_bus_socket" // in the mount namespace of the test
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, socket), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, "dbus-daemon", "--nofork", "--config-file="+config)
	start(t, "firewalld", "--nofork", "--nopid", "--system-config", filepath.Join(dir, "firewalld"), "--log-file", filepath.Join(dir, "log"))
	waitFor(t, "firewall-cmd", "--state")
}

// firewalld itself: phones are rejected, which a trial finds; its commands let them through, and they stay through when it reloads.
func TestFirewalld(t *testing.T) {
	l := newLab(t)
	p := l.phone(t, 2)
	serveTCP(t, l.server, addrPort(server4, 80))
	serveTCP(t, l.server, addrPort(server6, 80))
	serveTCP(t, p, addrPort(p.IPv4, 5555))
	serveUDP(t, onHost{}, addrPort(gateway4, 53))
	n := newNAT(t, nil)
	forwards := []nat.Forward{adb(p, 6001), {Listen: addrPort(host4, 6002), Protocol: policy.TCP, Phone: p.IPv4, Port: 5555}}
	apply(t, n, forwards...)
	startFirewalld(t)
	before := others(t)
	found := conflicts(t, n)
	wantOthers(t, "a trial", before)
	for _, c := range found {
		t.Log(c)
		if c.Owner != "firewalld" {
			t.Errorf("%+v; want firewalld to be named", c)
		}
	}
	if len(found) != 4 {
		t.Fatalf("%d conflicts; want the world and names, of each family", len(found))
	}
	wantNothing(t, p, "tcp", addrPort(server4, 80))
	for _, command := range found[0].Mend {
		run(t, "sh", "-c", command)
	}
	for range 2 {
		if left := conflicts(t, n); len(left) != 0 {
			t.Errorf("after the commands: %v", left)
		}
		wantSeenAs(t, p, "tcp", addrPort(server4, 80), host4)
		wantSeenAs(t, p, "tcp", addrPort(server6, 80), host6)
		wantSeenAs(t, l.server, "tcp", addrPort(host4, 6002), server4)
		wantSeenAs(t, onHost{}, "tcp", addrPort(loopback4, 6001), gateway4)
		wantSeenAs(t, p, "udp", addrPort(gateway4, 53), p.IPv4)
		wantKept(t, n, p, forwards...)
		run(t, "firewall-cmd", "--reload")
	}
}
