package vm

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/phonehost/phonehost/scripts/testenv/vm/internal/replay"
	"golang.org/x/sys/unix"
)

// read returns the content of a file of the guest.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// epoch is before this was written: a machine whose clock shows an earlier day has no clock.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestVMMachines finds every kernel of the lab under its name, with the surroundings that Run promises.
func TestVMMachines(t *testing.T) {
	Run(t, On("6.1", "6.12", "7.3").And(On("6.12").System()), func(t *testing.T) {
		target, _ := Guest()
		series, rest, _ := strings.Cut(target, "-")
		if release := read(t, "/proc/sys/kernel/osrelease"); !strings.HasPrefix(release, series+".") && !strings.HasPrefix(release, series+"-") && !strings.HasPrefix(release, series+"+") {
			t.Errorf("the kernel is %s on the target %s", release, target)
		}
		if !strings.HasPrefix(rest, runtime.GOARCH) {
			t.Errorf("the architecture is %s on the target %s", runtime.GOARCH, target)
		}
		if got := read(t, "testdata/note.txt"); got != "test data reaches the machine" {
			t.Errorf("testdata holds %q", got)
		}
		if now := time.Now(); now.Before(epoch) {
			t.Errorf("the clock shows %s", now)
		}
		if strings.HasSuffix(target, "-system") != (filepath.Base(read(t, "/proc/1/comm")) == "systemd") {
			t.Errorf("init is %s on the target %s", read(t, "/proc/1/comm"), target)
		}
	})
}

// facts are what the variants change, as the guest shows them.
type facts struct {
	BPFLSM      bool // bpf is among the security modules
	PreemptFull bool
	PSI         bool
	CgroupV2    bool     // at /sys/fs/cgroup
	CgroupV1    []string // of the controllers memory and pids, those of version 1
	Codec       uint32
	Firewalls   bool // Docker, firewalld and ufw, none of which runs
	Counted     bool // one processor, by whose clock the same always takes as long
}

// expected are the facts of the target called name, of targets.
func expected(t *testing.T, targets Targets, name string) facts {
	t.Helper()
	i := slices.IndexFunc(targets, func(target Target) bool { return target.String() == name })
	if i < 0 {
		t.Fatalf("the target is %s, which is none of %v", name, targets)
	}
	target := targets[i]
	want := facts{BPFLSM: true, PSI: true, CgroupV2: true, Codec: capM2M, PreemptFull: target.Series == "7.3" && target.Arch == "arm64"}
	if target.Series == "6.1" {
		want.Codec = 0
	}
	for _, v := range target.Variants {
		switch v {
		case NoBPFLSM:
			want.BPFLSM = false
		case PreemptFull:
			want.PreemptFull = true
		case NoPSI:
			want.PSI = false
		case CgroupV1:
			want.CgroupV2, want.CgroupV1 = false, []string{"pids"}
			if target.Series == "6.1" {
				want.CgroupV1 = []string{"memory", "pids"}
			}
		case NoVicodec:
			want.Codec = 0
		case MultiPlanar:
			want.Codec = capM2MMPlane
		case Firewalls:
			want.Firewalls = true
		case Counted:
			want.Counted = true
		default:
			t.Fatalf("the test knows nothing of the variant %s", v)
		}
	}
	return want
}

// observe reads the facts from the machine.
func observe(t *testing.T) facts {
	t.Helper()
	var f facts
	f.BPFLSM = slices.Contains(strings.Split(read(t, "/sys/kernel/security/lsm"), ","), "bpf")
	f.PreemptFull = preemptible(t)
	// With psi=0 the files are missing, or there and refused, as the kernel's version has it.
	_, err := os.ReadFile("/proc/pressure/memory")
	f.PSI = err == nil
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		t.Fatal(err)
	}
	f.CgroupV2 = fs.Type == unix.CGROUP2_SUPER_MAGIC
	for _, controller := range []string{"memory", "pids"} {
		if _, err := os.Stat("/sys/fs/cgroup/" + controller + "/tasks"); err == nil {
			f.CgroupV1 = append(f.CgroupV1, controller)
		}
	}
	if err := modprobe("vicodec"); err == nil {
		f.Codec = codec(t)
	} else if caps := codec(t); caps != 0 {
		t.Errorf("vicodec could not be loaded, and has nodes: %#x", caps)
	}
	f.Firewalls = firewalled(t)
	f.Counted = runtime.NumCPU() == 1 && counted(t)
	return f
}

// counted tells whether a loop that is over before anything interrupts it takes the same time again and again, within a thousandth.
func counted(t *testing.T) bool {
	t.Helper()
	loop := func() time.Duration {
		least, sum := time.Hour, 0
		for range 50 {
			began := time.Now()
			for i := range 100_000 {
				sum ^= i
			}
			least = min(least, time.Since(began))
		}
		runtime.KeepAlive(sum)
		return least
	}
	first, second := loop(), loop()
	t.Logf("a hundred thousand rounds take %v, and %v", first, second)
	return (first - second).Abs() < first/1000
}

// firewalled tells whether the machine has Docker, firewalld and ufw, with a module that the last of them needs. That one of them runs is an error.
func firewalled(t *testing.T) bool {
	t.Helper()
	for _, program := range []string{"dockerd", "firewalld", "ufw"} {
		if _, err := exec.LookPath(program); err != nil {
			return false
		}
	}
	if out, err := exec.Command("systemctl", "is-active", "docker.service", "docker.socket", "firewalld.service", "ufw.service").Output(); err == nil {
		t.Errorf("one of them runs: %s", out)
	}
	return modprobe("xt_hl") == nil
}

// preemptible reports whether the kernel is fully preemptible: as it was told at boot or, if it can be told nothing, as it was built.
func preemptible(t *testing.T) bool {
	t.Helper()
	choice, err := os.ReadFile("/sys/kernel/debug/sched/preempt")
	if err == nil {
		return strings.Contains(string(choice), "(full)")
	}
	if !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return slices.Contains(strings.Fields(read(t, "/proc/version")), "PREEMPT")
}

// TestVMVariants finds each variant in force, and nothing else changed by it.
func TestVMVariants(t *testing.T) {
	amd64, arm64 := On("6.12").Arch("amd64"), On("6.12").Arch("arm64")
	targets := On("6.12").And(
		amd64.With(NoBPFLSM), arm64.With(NoBPFLSM),
		amd64.With(PreemptFull), On("7.3").Arch("arm64"),
		amd64.With(NoPSI), arm64.With(NoPSI).Nightly(),
		amd64.With(CgroupV1), On("6.1").Arch("arm64").With(CgroupV1), amd64.System().With(CgroupV1),
		amd64.With(NoVicodec), arm64.With(NoVicodec).Nightly(),
		amd64.With(MultiPlanar), arm64.With(MultiPlanar).Nightly(),
		On("6.1").Arch("amd64").System().With(Firewalls), On("6.12").System().With(Firewalls).Nightly(),
		arm64.With(Counted), amd64.With(Counted).Nightly(),
		On("7.3").With(NoPSI, NoBPFLSM, NoVicodec).Nightly(),
	)
	Run(t, targets, func(t *testing.T) {
		name, _ := Guest()
		if diff := cmp.Diff(expected(t, targets, name), observe(t)); diff != "" {
			t.Errorf("the machine (-want +got):\n%s\nbooted with %s", diff, read(t, "/proc/cmdline"))
		}
	})
}

// Capabilities of video nodes, from linux/videodev2.h.
const (
	vidiocQuerycap = 0x80685600
	capM2MMPlane   = 0x00004000
	capM2M         = 0x00008000
)

// codec returns which of the two capabilities all video nodes of the driver vicodec have, 0 if there is no such node.
func codec(t *testing.T) uint32 {
	t.Helper()
	nodes, err := filepath.Glob("/dev/video*")
	if err != nil {
		t.Fatal(err)
	}
	found := uint32(0)
	for _, node := range nodes {
		fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var capability [104]byte
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), vidiocQuerycap, uintptr(unsafe.Pointer(&capability)))
		unix.Close(fd)
		if errno != 0 {
			t.Fatalf("VIDIOC_QUERYCAP of %s: %v", node, errno)
		}
		if strings.HasPrefix(string(capability[:]), "vicodec") {
			found |= binary.NativeEndian.Uint32(capability[88:]) & (capM2M | capM2MMPlane)
		}
	}
	return found
}

// TestVMBadEndings finds that what ends badly in a machine is told here: a panic, an exit, a hang, and a kernel that dies.
func TestVMBadEndings(t *testing.T) {
	gate(t)
	for _, tt := range []struct{ mode, text string }{
		{"panic", "panic: as it was told"},
		{"exit", "exited with code 5 in the middle of this test"},
		{"hang", "panic: test timed out"},
		{"crash", "unavailable: Kernel panic - not syncing: sysrq triggered crash"},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			t.Setenv(realEnv, "1")
			results, out := runLocal(t, tt.mode, "subset", "-test.run=^TestLocal$/^6.12-amd64$")
			const target = "6.12-amd64"
			want := map[string]replay.Kind{"": replay.Fail, target: replay.Fail, target + "/place": replay.Pass, target + "/end": replay.Fail}
			if tt.mode == "crash" {
				unheard(want, results)
			}
			if diff := cmp.Diff(want, results); diff != "" || !strings.Contains(out, tt.text) || !strings.Contains(out, "serial log is kept") {
				t.Errorf("results (-want +got):\n%s\nwant %q in the output:\n%s", diff, tt.text, out)
			}
		})
	}
}

// unheard takes out of want what a machine whose kernel died need not have told: a program's last words are in a pipe until another
// process of the guest has read them, and that gets no processor any more. What was told must be right.
func unheard(want, told map[string]replay.Kind) {
	for name, kind := range want {
		got, heard := told[name]
		switch {
		case !strings.Contains(name, "/"): // of the target itself the host tells
		case !heard:
			delete(want, name)
		case kind == replay.Pass && got == replay.Fail: // its end was not heard
			want[name] = got
		}
	}
}
