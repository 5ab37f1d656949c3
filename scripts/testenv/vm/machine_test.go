package vm

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/vm/control"
)

// TestVMDrive uses everything that a test has of a machine which it drives from the host.
func TestVMDrive(t *testing.T) {
	Each(t, On("6.12").And(On("6.12").System()), func(t *testing.T, m *Machine) {
		if got, want := strings.TrimSpace(m.Run("uname", "-m")), map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[m.Target().Arch]; got != want {
			t.Errorf("uname -m prints %q, want %q", got, want)
		}
		m.Write("/tmp/note", "hello")
		if got := m.Shell("cat /tmp/note; echo; echo unseen >&2"); got != "hello\n" {
			t.Errorf("the shell printed %q", got)
		}
		m.Put("testdata/note.txt", "/tmp/copy", 0o600)
		if got := m.Read("/tmp/copy"); got != "test data reaches the machine\n" {
			t.Errorf("the copied file holds %q", got)
		}
		if got := m.Run(m.Program("phone-log"), "version"); got != "dev\n" {
			t.Errorf("phone-log version printed %q", got)
		}
		code, err := m.Exec(t.Context(), control.Command{Args: []string{"sh", "-c", "exit 7"}})
		if code != 7 || err != nil {
			t.Errorf("exit code %d, %v, want 7", code, err)
		}
		t.Run("sub-test", func(t *testing.T) { m.In(t).Run("true") })
		t.Run("doors", func(t *testing.T) { doors(t, m.In(t)) })
	}, Programs("runtime/cmd/phone-log"))
}

// doors reaches a server in the machine in both ways.
func doors(t *testing.T, m *Machine) {
	m.Write("/tmp/www/page", "ping")
	m.Run("busybox", "httpd", "-p", "7000", "-h", "/tmp/www") // listens before it returns
	for name, dial := range map[string]func(ctx context.Context, network, address string) (net.Conn, error){
		"dial": m.Dial,
		"forward": func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, m.Forward(7000))
		},
	} {
		client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
		answer, err := client.Get("http://127.0.0.1:7000/page")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || string(text) != "ping" {
			t.Errorf("%s: the page is %q, %v", name, text, err)
		}
	}
}

// TestVMPower resets a machine, restarts it and cuts its power: what was synced is there after each.
func TestVMPower(t *testing.T) {
	m := Boot(t, On("6.12").Arch("amd64").System(), Disk(filepath.Join(t.TempDir(), "disk.qcow2")))
	boot := func() string { return m.Read("/proc/sys/kernel/random/boot_id") }
	boots := map[string]bool{boot(): true}
	m.Shell("echo kept > /root/kept; sync")
	for _, step := range []struct {
		name string
		do   func()
	}{{"reset", m.Reset}, {"reboot", m.Reboot}, {"power cut", func() { m.PowerCut(); m.PowerOn() }}} {
		step.do()
		id := boot()
		if boots[id] {
			t.Errorf("after %s the machine is in a boot from before", step.name)
		}
		boots[id] = true
		if got := m.Read("/root/kept"); got != "kept\n" {
			t.Errorf("after %s the file holds %q", step.name, got)
		}
	}
}

// TestVMContainerd starts a containerd of the test's own inside a machine, and one that is killed comes back.
func TestVMContainerd(t *testing.T) {
	Run(t, On("6.12").System(), func(t *testing.T) {
		s := testenv.Containerd(t)
		c := s.Client(t)
		if _, err := c.Version(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Kill()
		s.Restart()
		if ok, err := c.IsServing(t.Context()); err != nil || !ok {
			t.Errorf("after the restart: serving %v, %v", ok, err)
		}
	}, Require("root,containerd"))
}

// TestVMPackage runs the tests of another package in machines.
func TestVMPackage(t *testing.T) {
	Package(t, On("6.12"), "scripts/testenv/vm/internal/pattern")
}
