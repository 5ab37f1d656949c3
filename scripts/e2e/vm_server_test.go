package e2e

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// server is a whole machine as an SRE sets it up: Debian with systemd and containerd, the programs and units of the project, an agent
// with certificates. Its door is the tunnel, from the host of the test.
type server struct {
	door
	m   *vm.Machine
	dir string // of the host: certificates and recordings
}

// emulated is how long a wait may take where every instruction is emulated.
const emulated = 5 * time.Minute

// onServer are the options of a machine that newServer can set up.
func onServer(more ...vm.Option) []vm.Option {
	return append([]vm.Option{
		vm.Programs("agent/cmd/phonehostd", "agent/cmd/phonectl", "runtime/cmd/phone-log", "encoder/cmd/phone-display"),
		vm.Testphone(), vm.Files("scripts/systemd"), vm.Timeout(20 * time.Minute),
	}, more...)
}

// newServer installs phonehost on the machine, starts it and imports the image.
func newServer(t *testing.T, m *vm.Machine) *server {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{m: m, dir: t.TempDir(), door: door{t: t, phonectl: bin.path("phonectl"), limit: emulated}}
	s.pki()
	s.install()
	s.connect()
	s.run("phonectl image import %s", s.m.Program("testphone.tar"))
	return s
}

func (s *server) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// in is the server for a subtest, which fails by itself.
func (s *server) in(t *testing.T) *server {
	sub := *s
	sub.t, sub.m = t, s.m.In(t)
	return &sub
}

// run runs a shell command in the machine, which must succeed, and returns what it printed without the last line's end.
func (s *server) run(format string, args ...any) string {
	s.t.Helper()
	return strings.TrimRight(s.m.Shell(fmt.Sprintf(format, args...)), "\n")
}

func (s *server) pki() {
	s.t.Helper()
	for _, args := range [][]string{{"init"}, {"issue", "agent/vm"}, {"issue", "client/fleet"}} {
		args = append([]string{"pki", args[0], "--dir", s.path("pki")}, args[1:]...)
		s.must(s.command(s.t.Context(), args...))
	}
}

// install does what the README tells an SRE to do.
func (s *server) install() {
	s.t.Helper()
	s.run("BIN=%s /run/payload/src/scripts/systemd/install && mkdir -p /etc/phonehost/pki", path.Dir(s.m.Program("phonehostd")))
	for _, name := range []string{"ca.pem", "agent-vm.pem", "agent-vm-key.pem"} {
		s.m.Put(s.path("pki", name), "/etc/phonehost/pki/"+name, 0o600)
	}
	s.m.Write("/etc/phonehost/phonehostd.toml", `name = "vm"
[tls]
listen = "0.0.0.0:7443"
cert = "/etc/phonehost/pki/agent-vm.pem"
key = "/etc/phonehost/pki/agent-vm-key.pem"
ca = "/etc/phonehost/pki/ca.pem"
[network]
enabled = false
[limits]
disk_reserve_bytes = 134217728
[[access]]
user = "root"
role = "admin"
[[access]]
identity = "client/fleet"
role = "admin"
`)
	s.run("systemctl enable --now phonehostd")
}

// connect opens the machine's tunnel port to this test.
func (s *server) connect() {
	s.t.Helper()
	s.flags = []string{
		"--host", "tls://" + s.m.Forward(7443), "--ca", s.path("pki", "ca.pem"),
		"--cert", s.path("pki", "client-fleet.pem"), "--key", s.path("pki", "client-fleet-key.pem"),
	}
}

// taskPID is the process of a task of containerd's.
func (s *server) taskPID(task string) string {
	s.t.Helper()
	return s.run("ctr --namespace phonehost task ls | awk '$1 == \"%s\" {print $2}'", task)
}

// born is when a process started, in clock ticks since boot.
func (s *server) born(pid string) string {
	s.t.Helper()
	return s.run("cut -d' ' -f22 /proc/%s/stat", pid)
}
