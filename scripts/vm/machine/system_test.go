package machine

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/lab"
)

// systemConfig returns the configuration of a system machine.
func systemConfig(t *testing.T, arch, series string) Config {
	t.Helper()
	c := config(t, arch, series)
	l, err := lab.Open(lab.Config{Logger: c.Logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if c.Root, err = l.Root(t.Context(), arch); err != nil {
		t.Fatal(err)
	}
	return c
}

// systemArches are the architectures of the system machines that this package starts.
var systemArches = []string{"amd64", "arm64"}

// TestVMSystem boots Debian, reboots it, cuts its power, and starts it again with the same disk.
func TestVMSystem(t *testing.T) {
	for _, arch := range systemArches {
		t.Run(arch, func(t *testing.T) {
			c := systemConfig(t, arch, "6.12")
			c.Disk = filepath.Join(t.TempDir(), "disk.qcow2")
			c.Payload = archive(t, "payload")
			m := started(t, c)
			if got := sh(t, m, "systemctl is-system-running; ctr version > /dev/null && echo containerd; cat /run/payload/dir/file; stat -f -c %T /sys/fs/cgroup"); got != "running\ncontainerd\npayloadcgroup2fs" {
				t.Errorf("got %q", got)
			}
			sh(t, m, "systemctl --failed; lsmod; ip addr")
			if _, err := m.Exec(bounded(t), control.Command{Args: []string{"systemctl", "reboot"}}); err != nil && !errdefs.IsUnavailable(err) {
				t.Fatal(err)
			}
			if err := m.WaitBoot(bounded(t)); err != nil {
				t.Fatal(err)
			}
			sh(t, m, "echo synced > /root/synced && sync && echo lost > /root/lost")
			m.PowerCut()
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			m = started(t, c)
			if got := sh(t, m, "systemctl is-system-running; cat /root/synced"); got != "running\nsynced" {
				t.Errorf("after the power cut: got %q", got)
			}
			if _, err := m.Save(bounded(t), t.TempDir()); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("save a machine with a disk of its own: %v", err)
			}
		})
	}
}

func TestVMSystemSnapshot(t *testing.T) {
	for _, arch := range systemArches {
		t.Run(arch, func(t *testing.T) {
			c := systemConfig(t, arch, "6.12")
			two(t)
			c.Accelerator = TCG
			m := started(t, c)
			sh(t, m, "echo kept > /root/kept")
			saved, err := m.Save(bounded(t), filepath.Join(t.TempDir(), "snapshot"))
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			c.Payload = archive(t, "payload")
			one := resumed(t, c, saved)
			sh(t, one, "systemd-run --wait --quiet cp /run/payload/dir/file /root/kept && sync")
			two := resumed(t, c, saved)
			if got := sh(t, two, "cat /root/kept; systemctl is-system-running; ctr version | grep -c Version"); !strings.HasPrefix(got, "kept\nrunning\n") {
				t.Errorf("the second machine of a snapshot: got %q", got)
			}
		})
	}
}
