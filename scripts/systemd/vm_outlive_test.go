package systemd

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMPhonesOutliveSystemd does to a host what administrators and failures do, and looks for what it did to a running phone: nothing.
func TestVMPhonesOutliveSystemd(t *testing.T) {
	targets := vm.On("6.12").Arch("amd64").System().And(vm.On("6.12").Arch("arm64").System().Nightly(), vm.On("6.1", "7.3").System().Nightly(), vm.On("6.1").System().With(vm.CgroupV1).Nightly())
	vm.Each(t, targets, func(t *testing.T, m *vm.Machine) {
		at := place{root: scope, v1: len(m.Target().Variants) > 0}
		h := newHost(t, m, "systemctl enable --now phonehostd", "p1")
		h.wantLog("root=" + scope + " delegated=true")
		before := h.phone(at, "p1")
		for _, step := range steps() {
			t.Run(step.name, func(t *testing.T) { h.in(t).testStep(step, at, before) })
		}
		t.Run("units", func(t *testing.T) { h.in(t).testUnits() })
		t.Run("sandbox", func(t *testing.T) { h.in(t).testSandbox() })
		t.Run(hang().name, func(t *testing.T) { h.in(t).testStep(hang(), at, before) })
		t.Run("stop of the target", func(t *testing.T) { h.in(t).testTarget(at, before) })
		// scripts/e2e boots its machines anew daily.
		if m.Target().Nightly {
			t.Run("reboot of the host", func(t *testing.T) { h.in(t).testReboot(at) })
		}
	}, machine()...)
}

// step is something that is done to the host, by a script that ends when it is over. touched tells that the agent was ended by it, or
// lost what it asks, and is to be looked at afterwards.
type step struct {
	name    string
	touched bool
	script  string
}

// testStep does a step, which the phone must not notice.
func (h *host) testStep(s step, at place, before phone) {
	h.t.Helper()
	h.Shell(s.script)
	if diff := cmp.Diff(before, h.phone(at, "p1")); diff != "" {
		h.t.Errorf("the phone is another (-before +after):\n%s", diff)
	}
	if s.touched {
		h.wantRunning("p1")
	}
}

func steps() []step {
	return []step{
		{"restart of the agent", true, "systemctl restart phonehostd"},
		{"daemon-reload", false, "systemctl daemon-reload"},
		{"daemon-reexec", false, "systemctl daemon-reexec"},
		{"restart of containerd", true, "systemctl restart containerd"},
		// With containerd stopped no other unit asks for the controllers.
		{"daemon-reload without containerd", true, "systemctl stop containerd; systemctl daemon-reload; systemctl start containerd"},
		{"agent killed", true, replaced("phonehostd", "kill -9 $old")},
		{"holder killed", false, replaced("phonehost-phones", "kill -9 $old")},
		{"holder ended", false, replaced("phonehost-phones", "kill $old")},
		{"stop of what holds phones", false, `for what in 'stop phonehost-phones.service' 'restart phonehost-phones.service' 'stop phonehost-phones.scope'
			do ! systemctl $what || exit 1; done`},
		{"stop of the agent, and a reload", true, "systemctl stop phonehostd; systemctl daemon-reload; systemctl start phonehostd"},
	}
}

// hang stops the agent's process, with a shorter watchdog than the unit's: the test waits for it.
func hang() step {
	return step{"agent that hangs", true, `conf=/run/systemd/system/phonehostd.service.d
		mkdir $conf; printf '[Service]\nWatchdogSec=8\n' > $conf/watchdog.conf; systemctl daemon-reload; systemctl restart phonehostd
		` + replaced("phonehostd", "kill -STOP $old") + `
		journalctl --no-pager -u phonehostd | grep -q 'Watchdog timeout'
		rm -r $conf; systemctl daemon-reload`}
}

// replaced does something to the main process of a unit, $old, and waits until there is another and the unit is active again.
func replaced(unit, what string) string {
	return "unit=" + unit + "; old=$(systemctl show --value -p MainPID $unit); " + what + `
		until new=$(systemctl show --value -p MainPID,ActiveState $unit | paste -s -d ' '); [ "${new#* }" = active ] && [ "${new% *}" != $old ]; do sleep 0.2; done`
}

// testTarget stops everything on purpose. When systemctl returns, the guest has shut down by itself and nothing is left; the phone
// comes back with the agent.
func (h *host) testTarget(at place, before phone) {
	h.t.Helper()
	count := h.shutdowns("p1")
	h.stopTarget(before.Init, before.Display)
	if got := h.shutdowns("p1"); got != count+1 {
		h.t.Errorf("the guest has shut down %d times, want %d", got, count+1)
	}
	if !at.v1 {
		h.Shell("! test -e /sys/fs/cgroup" + scope)
	}
	h.Shell("systemctl start phonehostd")
	h.wantRunning("p1")
	after := h.phone(at, "p1")
	if after.Init == before.Init {
		h.t.Error("the guest was not ended")
	}
	if diff := cmp.Diff(before.Limits, after.Limits); diff != "" {
		h.t.Errorf("limits after the next start:\n%s", diff)
	}
}

// stopTarget stops the target, and looks at what is left in the moment in which systemctl has returned: units, tasks, processes.
func (h *host) stopTarget(pids ...string) {
	h.t.Helper()
	left := h.Shell(`systemctl stop phonehost.target
		systemctl show --property=Id,ActiveState --value phonehost.target phonehostd.service phonehost-phones.service phonehost-phones.scope | paste -s -d ' '
		ctr --namespace=phonehost tasks list --quiet
		for pid in ` + strings.Join(pids, " ") + `; do cat /proc/$pid/comm 2>/dev/null || true; done`)
	want := "phonehost.target inactive  phonehostd.service inactive  phonehost-phones.service inactive  phonehost-phones.scope inactive\n"
	if left != want {
		h.t.Errorf("when systemctl has returned there are:\n%s\nwant:\n%s", left, want)
	}
}

// testReboot boots the host anew: the guest shuts down in order, and starts again because it was on.
func (h *host) testReboot(at place) {
	h.t.Helper()
	count := h.shutdowns("p1")
	h.Reboot()
	h.wantRunning("p1")
	if got := h.shutdowns("p1"); got != count+1 {
		h.t.Errorf("the guest has shut down %d times, want %d\n%s", got, count+1,
			h.Run("journalctl", "--no-pager", "--boot=-1", "--unit=phonehost-phones", "--unit=phonehostd", "--unit=containerd", "--lines=60"))
	}
	h.phone(at, "p1")
	if text := h.Run("phonectl", "events"); !strings.Contains(text, "host_restart") {
		h.t.Errorf("no event tells of the host's restart:\n%s", text)
	}
}

// testUnits has systemd look for mistakes in the units, and asks for what the running units must have. The script is run again over
// what it installed.
func (h *host) testUnits() {
	h.t.Helper()
	if out := h.Shell("cd /usr/local/lib/systemd/system && systemd-analyze verify --man=no phonehost* 2>&1"); out != "" {
		h.t.Errorf("systemd-analyze verify says:\n%s", out)
	}
	h.Shell("getent group phonehost; phonehostd config check /etc/phonehost/phonehostd.toml")
	before := h.Shell("echo '# mine' >> /etc/phonehost/phonehostd.toml; md5sum /etc/phonehost/phonehostd.toml")
	if after := h.Shell("/run/payload/src/scripts/systemd/install; md5sum /etc/phonehost/phonehostd.toml"); after != before {
		h.t.Error("a second installation changed the configuration")
	}
	for unit, want := range map[string]string{
		"phonehost.target":         "ActiveState=active",
		"phonehostd.service":       "KillMode=process RuntimeDirectoryPreserve=yes WatchdogUSec=30s",
		"phonehost-phones.service": "RefuseManualStop=yes OOMScoreAdjust=-1000",
		"phonehost-phones.scope":   "Delegate=yes RefuseManualStop=yes TasksMax=infinity",
	} {
		has := strings.Split(h.Run("systemctl", "show", unit), "\n")
		for _, property := range strings.Fields(want) {
			if !slices.Contains(has, property) {
				h.t.Errorf("%s lacks %s", unit, property)
			}
		}
	}
}

// testSandbox finds both units in their sandboxes, and the agent able to do in its own what it does: the doctor tries BPF programs, loop
// devices and encoders. That phones start, run programs and end under it is what the other tests show.
func (h *host) testSandbox() {
	h.t.Helper()
	for _, unit := range []string{"phonehostd", "phonehost-phones"} {
		status := h.Shell("cat /proc/$(systemctl show --value -p MainPID " + unit + ")/status")
		for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(status, want) {
				h.t.Errorf("the process of %s lacks %q:\n%s", unit, want, status)
			}
		}
	}
	findings := h.Run("phonectl", "doctor")
	for _, want := range []string{"the host's mounts", "cgroup_skb, sched_cls and lsm programs load", "loop devices can be made", "libx264 ok"} {
		if !strings.Contains(findings, want) {
			h.t.Errorf("the doctor does not find %q:\n%s", want, findings)
		}
	}
	if strings.Contains(findings, "permitted") {
		h.t.Errorf("the doctor is not let:\n%s", findings)
	}
	if out := h.Run("phonectl", "exec", "p1", "--", "getprop", "sys.boot_completed"); out != "1\n" {
		h.t.Errorf("a program in the guest says %q", out)
	}
}
