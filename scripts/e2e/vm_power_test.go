package e2e

import (
	"path/filepath"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMPowerCut takes the power from a machine in the middle of operations, again and again: at the next boot the store opens and
// every phone reaches what was asked for.
func TestVMPowerCut(t *testing.T) {
	targets := vm.On("6.12").Arch("arm64").System().And(vm.On("6.12").Arch("amd64").System().Nightly())
	for _, target := range targets {
		t.Run(target.String(), func(t *testing.T) {
			disk := vm.Disk(filepath.Join(t.TempDir(), "disk.qcow2"))
			s := newServer(t, vm.Boot(t, vm.Targets{target}, onServer(disk)...))
			for _, id := range []string{"p1", "p2", "p3"} {
				s.ctl("create", id, "--image", "phonehost.dev/testphone:latest", "--memory", "192MiB", "--data", "64MiB", "--display", "360x640@30")
			}
			for _, round := range powerCuts {
				round.begin(s)
				s.m.PowerCut()
				s.m.PowerOn()
				s.connect()
				for id, status := range round.want {
					s.waitStatus(id, status)
				}
				t.Logf("power cut while %s: all as asked", round.name)
			}
			s.refused(1, "exec", "p1", "--", "cat", "/data/old")
		})
	}
}

// powerCuts are the operations that are under way when the power goes, and where the phones are to be in the end.
var powerCuts = []struct {
	name  string
	begin func(s *server)
	want  map[string]string
}{
	{
		"booting", func(s *server) {
			s.ctl("on", "--no-wait", "p1", "p2")
			s.waitStatus("p1", "PHONE_STATUS_STARTING")
		},
		map[string]string{"p1": "PHONE_STATUS_RUNNING", "p2": "PHONE_STATUS_RUNNING", "p3": "PHONE_STATUS_STOPPED"},
	},
	{
		"asked a moment ago", func(s *server) {
			s.ctl("off", "--no-wait", "--force", "p2")
			s.ctl("on", "--no-wait", "p3")
		},
		map[string]string{"p1": "PHONE_STATUS_RUNNING", "p2": "PHONE_STATUS_POWERED_OFF", "p3": "PHONE_STATUS_RUNNING"},
	},
	{
		"reset and shutting down", func(s *server) {
			s.ctl("exec", "p1", "--", "sh", "-c", "echo old > /data/old; sync")
			s.ctl("reset", "--no-wait", "p1")
			s.ctl("off", "--no-wait", "p3")
			s.waitStatus("p3", "PHONE_STATUS_STOPPING")
		},
		map[string]string{"p1": "PHONE_STATUS_RUNNING", "p2": "PHONE_STATUS_POWERED_OFF", "p3": "PHONE_STATUS_POWERED_OFF"},
	},
}
