package appguard_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/appguard"
	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestOpenRefuses(t *testing.T) {
	testenv.Root(t)
	for _, test := range []struct {
		name   string
		change func(*appguard.Config)
		class  func(error) bool
		says   string
	}{
		{"no canary", func(c *appguard.Config) { c.Canary = nil }, errdefs.IsInvalidArgument, "no canary"},
		{"no level", func(c *appguard.Config) { c.Level = 0 }, errdefs.IsInvalidArgument, "level 0"},
		{"too many phones", func(c *appguard.Config) { c.MaxPhones = 1 << 15 }, errdefs.IsInvalidArgument, "at most 16384"},
		{"cgroups in no place", func(c *appguard.Config) { c.CgroupRoot = "phonehost" }, errdefs.IsInvalidArgument, "begin at the root"},
		{"pins in no place", func(c *appguard.Config) { c.Dir = "apps" }, errdefs.IsInvalidArgument, "begin at the root"},
		{"pins elsewhere", func(c *appguard.Config) { c.Dir = "/nonexistent/apps" }, errdefs.IsFailedPrecondition, "mount -t bpf"},
		{"cgroups elsewhere", func(c *appguard.Config) { c.CgroupRoot = filepath.Join(t.TempDir(), "root") }, errdefs.IsFailedPrecondition, "no cgroup v2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := config()
			test.change(&c)
			if g, err := appguard.Open(t.Context(), c); err == nil || !test.class(err) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v; want an error with %q", err, test.says)
				if g != nil {
					g.Close()
				}
			}
		})
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

func TestOneOwner(t *testing.T) {
	open(t)
	if _, err := appguard.Open(t.Context(), config()); !errdefs.IsUnavailable(err) {
		t.Errorf("a second guard: %v", err)
	}
}

// A root of cgroups that was removed and made anew has the programs again.
func TestRootOfCgroupsAnew(t *testing.T) {
	g := open(t)
	g.Close()
	for _, d := range []string{".canary/guest", ".canary", ""} {
		if err := os.Remove(filepath.Join(cgroupRoot(), d)); err != nil {
			t.Fatal(err)
		}
	}
	g = reopen(t)
	if !g.Status().Shown.Network {
		t.Error("the canary met no refusal")
	}
	nothing(t, g)
}

// What the verifier has to look at.
func TestVerifiedInstructions(t *testing.T) {
	verified, errs := open(t).VerifiedInstructions()
	for name, n := range verified {
		t.Logf("%s: %d instructions verified", name, n)
		if n > 50000 {
			t.Errorf("%s: the verifier looked at %d instructions", name, n)
		}
	}
	for name, err := range errs {
		// Kernels of containers take no programs on hooks and functions; machines with kernels that do are testVerifier's.
		if !strings.HasPrefix(name, "lsm_") && !strings.HasPrefix(name, "modify_") && !strings.HasPrefix(name, "kill_") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Pins of another layout stay until they are dropped.
func TestDropFormer(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	p.set(t, g, appguard.Phone{Apps: apps})
	g.Close()
	former := filepath.Join(dir, "v0")
	if err := os.Rename(filepath.Join(dir, "v1"), former); err != nil {
		t.Fatal(err)
	}
	g = reopen(t)
	if met := p.guest(t, as(appOffline)...); met[1] != "EPERM" {
		t.Errorf("by the former layout it meets %v", met)
	}
	if err := g.DropFormer(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(former); !os.IsNotExist(err) {
		t.Errorf("the former pins: %v", err)
	}
	met := p.guest(t, as(appOffline)...)
	for end := time.Now().Add(10 * time.Second); met[1] == "EPERM" && time.Now().Before(end); { // the kernel ends links in its own time
		met = p.guest(t, as(appOffline)...)
	}
	if met[1] == "EPERM" {
		t.Errorf("when they are gone it meets %v", met)
	}
}

// TestOpenWithoutClone3: a service that systemd's RestrictNamespaces= holds has no clone3(2), and its canary runs all the same.
func TestOpenWithoutClone3(t *testing.T) {
	testenv.Root(t)
	runtime.LockOSThread() // the filter is this thread's, which ends with the test
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_CLONE3},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&filter))); errno != 0 {
		t.Fatal(errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.ENOSYS {
		t.Fatalf("clone3: %v, want %v", errno, unix.ENOSYS)
	}
	if s := open(t).Status(); !s.Shown.Network {
		t.Errorf("%s, and the canary has shown %+v", s, s.Shown)
	}
}
