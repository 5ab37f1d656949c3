package systemd

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// host is a Debian machine with phonehost installed by the script.
type host struct {
	*vm.Machine
	t *testing.T
}

// machine are the options of a machine that newHost can set up.
func machine() []vm.Option {
	return []vm.Option{
		vm.Programs("agent/cmd/phonehostd", "agent/cmd/phonectl", "runtime/cmd/phone-log", "encoder/cmd/phone-display"),
		vm.Testphone(), vm.Files("scripts/systemd"), vm.Timeout(20 * time.Minute),
	}
}

// install is the installation, for a machine whose disk is small and whose host may have much else to do.
const install = `BIN=/run/payload/bin /run/payload/src/scripts/systemd/install
	sed -i 's/^disk_reserve_bytes.*/disk_reserve_bytes = 0/; s/^boot_timeout.*/boot_timeout = "15m"/; s/^enabled = .*/enabled = false/' /etc/phonehost/phonehostd.toml
`

// newHost installs phonehost, runs a script that starts the agent, and makes phones and powers them on.
func newHost(t *testing.T, m *vm.Machine, start string, phones ...string) *host {
	t.Helper()
	h := &host{Machine: m, t: t}
	h.Shell(install + start + "\nphonectl image import " + m.Program("testphone.tar"))
	for _, id := range phones {
		h.Shell("phonectl create " + id + " --image=phonehost.dev/testphone:latest --memory=256MiB --vcpus=0.5 --cpu-weight=250 --data=64MiB --display=320x480@30")
	}
	h.Shell("phonectl on " + strings.Join(phones, " ") + "; sync")
	return h
}

// in is the host for a sub-test.
func (h *host) in(t *testing.T) *host { return &host{Machine: h.Machine.In(t), t: t} }

// Where the cgroups of phones are, with the holder and without.
const (
	scope = "/phonehost.slice/phonehost-phones.scope"
	plain = "/phonehost"
)

// place is where a phone's cgroups are.
type place struct {
	root string
	v1   bool // a hierarchy for each controller
}

// file is the path of a file of the phone's cgroup, "guest/cpu.max", which has a controller.
func (p place) file(id, name, controller string) string {
	if p.v1 {
		return "/sys/fs/cgroup/" + controller + p.root + "/" + id + "/" + name
	}
	return "/sys/fs/cgroup" + p.root + "/" + id + "/" + name
}

// limits are the files of a phone that newHost made, and what they must hold.
func (p place) limits(id string) map[string]string {
	if p.v1 {
		return map[string]string{
			p.file(id, "guest/memory.limit_in_bytes", "memory"):     "268435456",
			p.file(id, "guest/ctr/memory.limit_in_bytes", "memory"): "268435456",
			p.file(id, "cpu.shares", "cpu"):                         "2560",
			p.file(id, "guest/cpu.cfs_quota_us", "cpu"):             "50000",
		}
	}
	return map[string]string{
		p.file(id, "cpu.weight", ""):            "250",
		p.file(id, "guest/cpu.max", ""):         "50000 100000",
		p.file(id, "guest/memory.max", ""):      "268435456",
		p.file(id, "guest/memory.swap.max", ""): "0",
		p.file(id, "guest/ctr/memory.max", ""):  "268435456",
		p.file(id, "guest/ctr/cpu.max", ""):     "50000 100000",
	}
}

// phone is what must not change under a running phone.
type phone struct {
	Init, Born, Display string
	PIDs                string
	Limits              map[string]string
}

// phone reads the phone's processes from the kernel, and its limits, which it checks; in one call, as each takes an emulated machine
// its time.
func (h *host) phone(at place, id string) phone {
	h.t.Helper()
	want := at.limits(id)
	files := []string{at.file(id, "guest/ctr/cgroup.procs", "pids"), at.file(id, "display/cgroup.procs", "pids"), at.file(id, "guest/pids.max", "pids")}
	for file := range want {
		files = append(files, file)
	}
	lines := strings.Split(h.Shell(`for file in `+strings.Join(files, " ")+`; do read -r line < $file || line=; echo "$line"; done
		read -r init < `+files[0]+`; cut -d ' ' -f 22 /proc/$init/stat`), "\n")
	p := phone{Init: lines[0], Display: lines[1], PIDs: lines[2], Born: lines[len(files)], Limits: map[string]string{}}
	if p.Init == "" || p.Display == "" {
		h.t.Fatalf("guest and display are the processes %q and %q", p.Init, p.Display)
	}
	if p.PIDs == "max" || p.PIDs == "" {
		h.t.Errorf("the guest's processes are not limited: %q", p.PIDs)
	}
	for i, file := range files[3:] {
		p.Limits[file] = lines[3+i]
	}
	if diff := cmp.Diff(want, p.Limits); diff != "" {
		h.t.Errorf("limits (-want +got):\n%s", diff)
	}
	return p
}

// wantRunning waits until the agent answers and says that the phone runs; that it has given up on the phone is a failure.
func (h *host) wantRunning(id string) {
	h.t.Helper()
	h.Shell(`while true; do
			case $(phonectl status ` + id + `) in
			*RUNNING*) break;;
			*STOPPED* | *POWERED_OFF*) phonectl status ` + id + `; phonectl logs ` + id + `; exit 1;;
			esac
			sleep 0.5
		done`)
}

// shutdowns counts a guest's orderly ends; the log is rotated long after these tests' few lines.
func (h *host) shutdowns(id string) int {
	h.t.Helper()
	return strings.Count(h.Read("/var/log/phonehost/"+id+"/guest.log"), "init: shutdown: done")
}

// agentLog is what the agent and what keeps the cgroups have logged.
func (h *host) agentLog() string {
	h.t.Helper()
	return h.Run("journalctl", "--no-pager", "--unit=phonehostd", "--unit=phonehost-phones", "--lines=200")
}

// wantLog looks for texts in the log.
func (h *host) wantLog(texts ...string) {
	h.t.Helper()
	log := h.agentLog()
	for _, text := range texts {
		if !strings.Contains(log, text) {
			h.t.Errorf("the log does not say %q:\n%s", text, log)
		}
	}
}
