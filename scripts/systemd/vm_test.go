package systemd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// host is a Debian machine with phonehost installed by the script, and one phone.
type host struct {
	*vm.Machine
	t *testing.T
}

const phoneID = "p1"

// machine are the options of a machine that newHost can set up.
func machine() []vm.Option {
	return []vm.Option{
		vm.Programs("agent/cmd/phonehostd", "agent/cmd/phonectl", "runtime/cmd/phone-log", "encoder/cmd/phone-display"),
		vm.Testphone(), vm.Files("scripts/systemd"), vm.Timeout(20 * time.Minute),
	}
}

// newHost installs phonehost and powers a phone on.
func newHost(t *testing.T, m *vm.Machine) *host {
	t.Helper()
	h := &host{Machine: m, t: t}
	h.Shell(`BIN=/run/payload/bin /run/payload/src/scripts/systemd/install
		sed -i 's/^disk_reserve_bytes.*/disk_reserve_bytes = 0/' /etc/phonehost/phonehostd.toml
		systemctl enable --now phonehostd
		phonectl image import ` + m.Program("testphone.tar") + `
		phonectl create p1 --image=phonehost.dev/testphone:latest --memory=256MiB --vcpus=0.5 --cpu-weight=250 --data=64MiB --display=320x480@30
		phonectl on p1
		sync`)
	return h
}

// in is the host for a sub-test.
func (h *host) in(t *testing.T) *host { return &host{Machine: h.Machine.In(t), t: t} }

// limitFiles are those of a phone in each layout, below the phone's cgroup, and what they must hold.
var limitFiles = map[string]map[string]string{
	"v2": {
		"cpu.weight": "250", "guest/cpu.max": "50000 100000", "guest/memory.max": "268435456", "guest/memory.swap.max": "0",
		"guest/ctr/memory.max": "268435456", "guest/ctr/cpu.max": "50000 100000",
	},
	"v1": {
		"memory:guest/memory.limit_in_bytes": "268435456", "cpu:cpu.shares": "2560", "cpu:guest/cpu.cfs_quota_us": "50000",
		"memory:guest/ctr/memory.limit_in_bytes": "268435456",
	},
}

// phone is what must not change under a running phone.
type phone struct {
	Init, Born, Display string
	Limits              map[string]string
	PIDs                string
}

const scope = "/phonehost.slice/phonehost-phones.scope"

// phone reads the phone's processes from the kernel, and its limits, which it checks.
func (h *host) phone(layout string) phone {
	h.t.Helper()
	p := phone{Limits: map[string]string{}}
	path := func(file string) string {
		if controller, name, v1 := strings.Cut(file, ":"); v1 {
			return "/sys/fs/cgroup/" + controller + scope + "/" + phoneID + "/" + name
		}
		return "/sys/fs/cgroup" + scope + "/" + phoneID + "/" + file
	}
	procs := ""
	if layout == "v1" {
		procs = "pids:"
	}
	for file, want := range limitFiles[layout] {
		p.Limits[file] = strings.TrimSpace(h.Read(path(file)))
		if p.Limits[file] != want {
			h.t.Errorf("%s holds %q, want %q", path(file), p.Limits[file], want)
		}
	}
	p.PIDs = strings.TrimSpace(h.Read(path(procs + "guest/pids.max")))
	if p.PIDs == "max" || p.PIDs == "" {
		h.t.Errorf("the guest's processes are not limited: %q", p.PIDs)
	}
	first := func(dir string) string {
		pid, _, _ := strings.Cut(h.Read(path(procs+dir+"/cgroup.procs")), "\n")
		if pid == "" {
			h.t.Fatalf("nothing runs in %s", path(procs+dir))
		}
		return pid
	}
	p.Init, p.Display = first("guest/ctr"), first("display")
	p.Born = strings.Fields(h.Read("/proc/" + p.Init + "/stat"))[21]
	return p
}

// TestVMPhonesOutliveSystemd does to a host what administrators and failures do, and looks for what it did to a running phone: nothing.
func TestVMPhonesOutliveSystemd(t *testing.T) {
	vm.Each(t, vm.On("6.12").System().And(vm.On("6.1").System().Nightly()), func(t *testing.T, m *vm.Machine) {
		outlive(t, newHost(t, m), "v2")
	}, machine()...)
}

// TestVMPhonesOutliveSystemdV1 is the same with the controllers in version 1 hierarchies.
func TestVMPhonesOutliveSystemdV1(t *testing.T) {
	vm.Each(t, vm.On("6.1").System().With(vm.CgroupV1).Nightly(), func(t *testing.T, m *vm.Machine) {
		outlive(t, newHost(t, m), "v1")
	}, machine()...)
}

func outlive(t *testing.T, h *host, layout string) {
	t.Helper()
	log := h.Run("journalctl", "--no-pager", "--unit=phonehostd")
	if !strings.Contains(log, "root="+scope+" delegated=true") {
		t.Errorf("the agent does not say that it uses the delegated cgroup:\n%s", log)
	}
	before := h.phone(layout)
	for _, step := range []struct{ name, script string }{
		{"restart of the agent", "systemctl restart phonehostd"},
		{"daemon-reload", "systemctl daemon-reload"},
		{"daemon-reexec", "systemctl daemon-reexec"},
		{"restart of containerd", "systemctl restart containerd"},
		// With containerd stopped no other unit asks for the controllers.
		{"daemon-reload without containerd", "systemctl stop containerd; systemctl daemon-reload; systemctl start containerd"},
		{"agent killed", `old=$(systemctl show --value -p MainPID phonehostd); kill -9 $old
			until [ "$(systemctl show --value -p MainPID phonehostd)" != $old ] && systemctl -q is-active phonehostd; do sleep 0.2; done`},
		{"agent that hangs", `old=$(systemctl show --value -p MainPID phonehostd); kill -STOP $old
			until [ "$(systemctl show --value -p MainPID phonehostd)" != $old ] && systemctl -q is-active phonehostd; do sleep 0.5; done
			journalctl --no-pager -u phonehostd | grep -q 'Watchdog timeout'`},
		{"holder killed", `old=$(systemctl show --value -p MainPID phonehost-phones); kill -9 $old
			until [ "$(systemctl show --value -p MainPID phonehost-phones)" != $old ] && systemctl -q is-active phonehost-phones; do sleep 0.2; done`},
		{"holder ended", `old=$(systemctl show --value -p MainPID phonehost-phones); kill $old
			until [ "$(systemctl show --value -p MainPID phonehost-phones)" != $old ] && systemctl -q is-active phonehost-phones; do sleep 0.2; done`},
		{"stop of what holds phones", "! systemctl stop phonehost-phones.service; ! systemctl restart phonehost-phones.service; ! systemctl stop phonehost-phones.scope"},
		{"stop of the agent, and a reload", "systemctl stop phonehostd; systemctl daemon-reload; systemctl start phonehostd"},
	} {
		t.Run(step.name, func(t *testing.T) {
			h := h.in(t)
			h.Shell(step.script)
			if diff := cmp.Diff(before, h.phone(layout)); diff != "" {
				t.Errorf("the phone is another (-before +after):\n%s", diff)
			}
			h.wantRunning()
		})
	}
	t.Run("stop of the target", func(t *testing.T) { h.in(t).testTarget(layout, before) })
	t.Run("reboot of the host", func(t *testing.T) { h.in(t).testReboot(layout) })
}

// wantRunning waits until the agent says that the phone runs.
func (h *host) wantRunning() {
	h.t.Helper()
	h.Shell("until phonectl status p1 | grep -q RUNNING; do sleep 0.5; done")
}

// shutdowns counts the guest's orderly ends; the log is rotated long after this test's few lines.
func (h *host) shutdowns() int {
	h.t.Helper()
	return strings.Count(h.Read("/var/log/phonehost/p1/guest.log"), "init: shutdown: done")
}

// testTarget stops everything on purpose. When systemctl returns, the guest has shut down by itself and nothing is left; the phone
// comes back with the agent.
func (h *host) testTarget(layout string, before phone) {
	h.t.Helper()
	count := h.shutdowns()
	left := h.Shell(`systemctl stop phonehost.target
		systemctl show --property=Id,ActiveState --value phonehost.target phonehostd.service phonehost-phones.service phonehost-phones.scope | paste -s -d ' '
		ctr --namespace=phonehost tasks list --quiet
		cat /proc/` + before.Init + "/comm /proc/" + before.Display + "/comm 2>/dev/null || true")
	if want := "phonehost.target inactive  phonehostd.service inactive  phonehost-phones.service inactive  phonehost-phones.scope inactive\n"; left != want {
		h.t.Errorf("when systemctl has returned there are:\n%s\nwant:\n%s", left, want)
	}
	if got := h.shutdowns(); got != count+1 {
		h.t.Errorf("the guest has shut down %d times, want %d", got, count+1)
	}
	if layout == "v2" {
		h.Shell("! test -e /sys/fs/cgroup" + scope)
	}
	h.Shell("systemctl start phonehostd")
	h.wantRunning()
	after := h.phone(layout)
	if after.Init == before.Init {
		h.t.Error("the guest was not ended")
	}
	if diff := cmp.Diff(before.Limits, after.Limits); diff != "" {
		h.t.Errorf("limits after the next start:\n%s", diff)
	}
}

// testReboot boots the host anew: the guest shuts down in order, and starts again because it was on.
func (h *host) testReboot(layout string) {
	h.t.Helper()
	count := h.shutdowns()
	h.Reboot()
	h.wantRunning()
	if got := h.shutdowns(); got != count+1 {
		h.t.Errorf("the guest has shut down %d times, want %d\n%s", got, count+1,
			h.Run("journalctl", "--no-pager", "--boot=-1", "--unit=phonehost-phones", "--unit=phonehostd", "--unit=containerd", "--lines=60"))
	}
	h.phone(layout)
	if text := h.Run("phonectl", "events"); !strings.Contains(text, "host_restart") {
		h.t.Errorf("no event tells of the host's restart:\n%s", text)
	}
}

// TestVMUnits has systemd look for mistakes in the units, and tries the group.
func TestVMUnits(t *testing.T) {
	m := vm.Boot(t, vm.On("6.12").Arch("amd64").System(), machine()...)
	m.Shell("BIN=/run/payload/bin /run/payload/src/scripts/systemd/install")
	units := "phonehostd.service phonehost-phones.service phonehost.target phonehost.slice"
	if out := m.Shell("cd /usr/local/lib/systemd/system && systemd-analyze verify --man=no " + units + " 2>&1"); out != "" {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
	m.Shell("getent group phonehost")
	m.Shell("phonehostd config check /etc/phonehost/phonehostd.toml")
	before := m.Shell("echo '# mine' >> /etc/phonehost/phonehostd.toml; md5sum /etc/phonehost/phonehostd.toml")
	m.Shell("/run/payload/src/scripts/systemd/install")
	if after := m.Shell("md5sum /etc/phonehost/phonehostd.toml"); after != before {
		t.Error("a second installation changed the configuration")
	}
	m.Shell("systemctl start phonehostd")
	for unit, want := range map[string]string{
		"phonehostd.service":       "KillMode=process RuntimeDirectoryPreserve=yes WatchdogUSec=30s",
		"phonehost-phones.service": "RefuseManualStop=yes OOMScoreAdjust=-1000",
		"phonehost-phones.scope":   "Delegate=yes RefuseManualStop=yes TasksMax=infinity",
	} {
		for _, property := range strings.Fields(want) {
			name, value, _ := strings.Cut(property, "=")
			if got := strings.TrimSpace(m.Run("systemctl", "show", "--value", "--property="+name, unit)); got != value {
				t.Errorf("%s of %s is %q, want %q", name, unit, got, value)
			}
		}
	}
}

// TestVMWithoutTheHolder masks the unit: the agent works below /phonehost and says what that means.
func TestVMWithoutTheHolder(t *testing.T) {
	m := vm.Boot(t, vm.On("6.12").Arch("amd64").System(), machine()...)
	m.Shell("BIN=/run/payload/bin /run/payload/src/scripts/systemd/install; systemctl mask phonehost-phones.service; systemctl start phonehostd")
	if out := m.Run("phonectl", "host"); !strings.Contains(out, "cgroup-not-delegated") {
		t.Errorf("phonectl host does not warn:\n%s", out)
	}
	if log := m.Run("journalctl", "--no-pager", "--unit=phonehostd"); !strings.Contains(log, fmt.Sprintf("root=%s delegated=false", "/phonehost")) {
		t.Errorf("the log does not tell the root:\n%s", log)
	}
}
