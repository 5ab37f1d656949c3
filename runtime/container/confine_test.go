package container_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/container"
)

// put copies a file of the host into a guest.
func (h *host) put(id, from, to string) {
	h.t.Helper()
	f, err := os.Open(from)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	var stderr bytes.Buffer
	code, err := h.engine.Exec(h.t.Context(), id, container.ExecOptions{
		Args: []string{"sh", "-c", "cat > " + to + " && chmod 755 " + to}, Stdin: f, Stderr: &stderr, Stdout: io.Discard,
	})
	if err != nil || code != 0 {
		h.t.Fatalf("copy %s into the guest: exit %d, %v: %s", from, code, err, stderr.String())
	}
}

// TestGuestIsConfined tries from inside what a guest may not do.
func TestGuestIsConfined(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	h.put("p1", probe(t, runtime.GOARCH), "/data/probe")
	code, out := h.exec("p1", "/data/probe", "files")
	if code != 0 {
		t.Fatalf("the probe exited with %d: %s", code, out)
	}
	const want = `write /proc/sys/kernel/pid_max EROFS
write /proc/sys/kernel/core_pattern EROFS
write /proc/sys/vm/drop_caches EROFS
write /proc/sysrq-trigger null
write /proc/kcore null
write /proc/irq/default_smp_affinity EROFS
write /sys/kernel/mm/transparent_hugepage/enabled EROFS
write /system/build.prop EROFS
write /new EROFS
write /run/wayland/new EROFS
list /sys/firmware 0 <nil>
open the host's disk: EPERM
open /dev/kmsg: ENOENT
mount proc: EPERM
set the host's name: EPERM
run nothing: ENOENT
fill /tmp/fill ENOSPC
fill /dev/fill ENOSPC
fill /data/fill ENOSPC
`
	expect := want
	for _, path := range []string{"/proc/sysrq-trigger", "/proc/kcore"} {
		if _, err := os.Stat(path); err != nil { // this kernel has none to hide
			expect = strings.Replace(expect, path+" null", path+" ENOENT", 1)
		}
	}
	if diff := cmp.Diff(expect, out); diff != "" {
		t.Error(diff)
	}
}

// procStatus returns fields of /proc/PID/status.
func procStatus(t *testing.T, pid uint32, names ...string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		for _, n := range names {
			if n == name {
				fields[name] = strings.Join(strings.Fields(value), " ")
			}
		}
	}
	return fields
}

func TestProcessesHaveTheirConfinement(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 41)
	h.start(p)
	h.booted("p1")
	o := h.observe("p1")

	names := []string{"Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}
	none, uid := "0000000000000000", "2000041 2000041 2000041 2000041"
	want := map[string]string{
		"Uid": uid, "Gid": uid, "CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2",
	}
	if diff := cmp.Diff(want, procStatus(t, o.Display.PID, names...)); diff != "" {
		t.Errorf("the display: %s", diff)
	}
	var caps uint64
	for _, c := range []int{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_NET_BIND_SERVICE,
		unix.CAP_NET_RAW, unix.CAP_SETGID, unix.CAP_SETPCAP, unix.CAP_SETUID, unix.CAP_SYS_BOOT, unix.CAP_SYS_CHROOT,
	} {
		caps |= 1 << c
	}
	all := fmt.Sprintf("%016x", caps)
	want = map[string]string{
		"Uid": "0 0 0 0", "Gid": "0 0 0 0", "CapInh": none, "CapPrm": all, "CapEff": all, "CapBnd": all, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2",
	}
	if diff := cmp.Diff(want, procStatus(t, o.Guest.PID, names...)); diff != "" {
		t.Errorf("the guest: %s", diff)
	}

	for _, pid := range []uint32{o.Guest.PID, o.Display.PID} {
		for _, ns := range []string{"pid", "mnt", "ipc", "uts", "cgroup", "net"} {
			if namespace(t, fmt.Sprintf("/proc/%d/ns/%s", pid, ns)) == namespace(t, "/proc/self/ns/"+ns) {
				t.Errorf("process %d is in the host's %s namespace", pid, ns)
			}
		}
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(limits)) {
			if f := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && (f[4] != "0" || f[5] != "0") {
				t.Errorf("process %d may dump core: %s", pid, line)
			}
		}
	}
	if namespace(t, fmt.Sprintf("/proc/%d/ns/net", o.Guest.PID)) != namespace(t, h.networks.Path("p1")) {
		t.Error("the guest is not in its named network namespace")
	}
	devices, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", o.Display.PID))
	if err != nil || strings.Count(string(devices), ":") != 1 || !strings.Contains(string(devices), "lo:") {
		t.Errorf("the display's network: %v %s", err, devices)
	}
}

func namespace(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// TestDataIsMountedInTheGuestOnly looks for the data volume in the mounts of the host, of containerd's shim and of both containers.
func TestDataIsMountedInTheGuestOnly(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	o := h.observe("p1")
	loops := h.loopDevices()
	device := loops[h.dataImage("p1", 1)]
	if len(loops) != 1 || device == "" {
		t.Fatalf("loop devices: %v", loops)
	}
	mounted := func(pid string) []string {
		info, err := os.ReadFile("/proc/" + pid + "/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		var at []string
		for line := range strings.Lines(string(info)) {
			if f := strings.Fields(line); strings.Contains(line, " ext4 "+device+" ") {
				at = append(at, f[4]+" "+f[5])
			}
		}
		return at
	}
	if diff := cmp.Diff([]string{"/data rw,nosuid,nodev,noatime"}, mounted(strconv.Itoa(int(o.Guest.PID)))); diff != "" {
		t.Errorf("in the guest: %s", diff)
	}
	pids := []string{"self", strconv.Itoa(int(o.Display.PID))}
	for _, shim := range h.containerd.Shims() {
		pids = append(pids, strconv.Itoa(shim))
	}
	for _, pid := range pids {
		if at := mounted(pid); len(at) != 0 {
			t.Errorf("process %s sees it at %v", pid, at)
		}
	}
	if err := h.engine.RemoveGuest(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	h.noLoops("after the guest's end")
}

// TestLimitsAreInForce reads the limits where the kernel keeps them, and that the processes are where they hold.
func TestLimitsAreInForce(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	o := h.observe("p1")
	phone := h.config.CgroupRoot + "/p1"
	for _, tt := range []struct{ cgroup, v1, v1Value, v2, v2Value string }{
		{phone, "cpu.shares", "2048", "cpu.weight", "200"},
		{phone + "/guest", "cpu.cfs_quota_us", "150000", "cpu.max", "150000 100000"},
		{phone + "/guest/ctr", "cpu.cfs_quota_us", "150000", "cpu.max", "150000 100000"},
		{phone + "/guest", "memory.limit_in_bytes", "268435456", "memory.max", "268435456"},
		{phone + "/guest/ctr", "memory.limit_in_bytes", "268435456", "memory.max", "268435456"},
		{phone + "/guest", "pids.max", "4096", "pids.max", "4096"},
		{phone + "/guest/ctr", "pids.max", "4096", "pids.max", "4096"},
		{phone + "/display", "memory.limit_in_bytes", "536870912", "memory.max", "536870912"},
		{phone + "/display", "pids.max", "256", "pids.max", "256"},
	} {
		found := false
		for _, dir := range cgroupDirs(tt.cgroup) {
			for file, want := range map[string]string{tt.v1: tt.v1Value, tt.v2: tt.v2Value} {
				text, err := os.ReadFile(filepath.Join(dir, file))
				if err != nil {
					continue
				}
				found = true
				if got := strings.TrimSpace(string(text)); got != want {
					t.Errorf("%s/%s = %s, want %s", dir, file, got, want)
				}
			}
		}
		if !found {
			t.Errorf("nothing limits %s by %s", tt.cgroup, tt.v1)
		}
	}
	for pid, want := range map[uint32]string{o.Guest.PID: phone + "/guest/ctr", o.Display.PID: phone + "/display"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(strings.TrimSpace(string(text))) {
			if f := strings.SplitN(strings.TrimSpace(line), ":", 3); f[2] != want {
				t.Errorf("process %d is in %s of hierarchy %q, want %s", pid, f[2], f[1], want)
			}
		}
	}
}

// TestMemoryLimitKillsTheEater has a program in the guest take all memory: it is killed, the phone and its display live.
func TestMemoryLimitKillsTheEater(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := h.engine.Events(ctx)
	waitEvent(t, events, container.Back)
	p := h.phone("p1", 0)
	h.start(p)
	h.booted("p1")
	before := h.observe("p1")
	h.put("p1", probe(t, runtime.GOARCH), "/data/probe")
	if code, out := h.exec("p1", "/data/probe", "eat"); code != 137 {
		t.Errorf("the eater exited with %d: %s", code, out)
	}
	if e := waitEvent(t, events, container.OOM); e.PhoneID != "p1" || e.Role != container.Guest {
		t.Errorf("event = %+v", e)
	}
	if after := h.observe("p1"); after.Display.PID != before.Display.PID || after.Display.State != container.TaskRunning {
		t.Errorf("the display: %+v", after.Display)
	}
}
