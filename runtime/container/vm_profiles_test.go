package container_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/cgroup"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/guard"
	"github.com/phonehost/phonehost/runtime/profile"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// androidProbe is the probe's package, which is built before where there is no Go.
const androidProbe = "runtime/container/testdata/probe"

// TestVMAndroidProfiles runs testphone's userland under the specs of Android's profiles: not as Android, but to show what those specs
// mean to a kernel. A program with all that the guest's root has tries what it must not be able to do, guarded where the kernel can.
func TestVMAndroidProfiles(t *testing.T) {
	vm.Run(t, vm.On("6.1", "6.12", "7.3").System().Nightly(), func(t *testing.T) {
		vm.Modprobe(t, "binder_linux", "devices=binder,hwbinder,vndbinder")
		vm.Modprobe(t, "fuse")
		for slot, name := range []string{"redroid", "redroid-sysboot", "waydroid"} {
			t.Run(name, func(t *testing.T) { runAndroid(t, name, uint32(slot)) })
		}
	}, vm.Testphone(), vm.Programs("encoder/cmd/phone-display", "runtime/cmd/phone-log", androidProbe), vm.Require("all"), vm.Timeout(20*time.Minute))
}

// sysOpenTreeAttr is open_tree_attr(2), of Linux 6.15.
const sysOpenTreeAttr = 467

// androidGuest is a guest that runs under one of Android's profiles.
type androidGuest struct {
	*host
	id, profile string
	guarded     bool
}

func runAndroid(t *testing.T, name string, slot uint32) {
	guarded := openGuard(t)
	g := androidGuest{host: newHost(t), id: "p1", profile: name, guarded: guarded != nil}
	if g.guarded {
		g.config.Guard = guarded
	}
	g.config.AllowUnguarded = !g.guarded
	g.reopen()
	p := g.phone(g.id, slot)
	p.Profile = name
	g.start(p)
	g.logLine(g.id, container.Guest, "testphone ")
	g.reaches(t)
	g.calls(t)
	g.modes(t)
	g.apart(t)
	if name == "waydroid" {
		g.composes(t)
	}
	g.ends(t, p)
}

// openGuard opens the guard, if this kernel can have it, before there is a host: it must outlive the host's phones.
func openGuard(t *testing.T) *guard.Guard {
	const (
		dir  = "/sys/fs/bpf/container-test"
		root = "/one-level-deep" // as the cgroup root of every host of these tests
	)
	guarded, err := guard.Open(guard.Config{Dir: dir, Level: cgroup.GuestLevel(root)})
	if err != nil {
		if runtime.GOARCH == "amd64" {
			t.Errorf("every amd64 machine of the lab can have the guard: %v", err)
		}
		t.Logf("unguarded: %v", err)
		return nil
	}
	t.Cleanup(func() {
		if all, err := guarded.Protected(); err != nil || len(all) != 0 {
			t.Errorf("protected after the end: %v, %v", all, err)
		}
		guarded.Close()
		if err := guard.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return guarded
}

// reaches has the probe try to reach what is the host's.
func (g androidGuest) reaches(t *testing.T) {
	g.put(g.id, testenv.Binary(t, androidProbe), "/data/probe")
	code, out := g.exec(g.id, "/data/probe", "android")
	if code != 0 {
		t.Fatalf("the probe exited with %d: %s", code, out)
	}
	met := map[string]string{}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		i := strings.LastIndexByte(line, ' ')
		met[strings.TrimSuffix(line[:i], ":")] = line[i+1:]
	}
	want := maps.Clone(androidMeets)
	if g.guarded {
		maps.Copy(want, androidMeetsGuarded)
	}
	if g.profile != "waydroid" {
		want["write /vendor/waydroid.prop"] = "ENOENT"
	}
	if support, err := binder.Probe(); err != nil {
		t.Fatal(err)
	} else if support.Kind == binder.Pool {
		// Only beside a binderfs of the guest's own something lies where init would mount another.
		want["mount binder where init does"] = "ENOENT"
	}
	if _, _, errno := unix.Syscall6(sysOpenTreeAttr, 0, 0, 0, 0, 0, 0); errno != unix.ENOSYS {
		// The filter's library may not know the call; then the file system itself is what is read-only.
		want["create in a writable clone"] = "EROFS"
	}
	for what, result := range want {
		if met[what] != result {
			t.Errorf("%s meets %q, want %q", what, met[what], result)
		}
	}
	if t.Failed() {
		t.Logf("guarded %v: %s", g.guarded, out)
	}
	g.logLine(g.id, container.Guest, "probe: said to the kernel")
	if strings.Contains(kernelLog(t), "said to the kernel") {
		t.Error("what a guest writes to /dev/kmsg is in the host's log")
	}
}

var (
	// androidMeets is what the probe meets without the guard. Where a file of the host's opens, nothing but the guard is between the guest
	// and it: docs/profiles.md.
	androidMeets = map[string]string{
		"write /proc/sysrq-trigger":                         "null",
		"sysctls that can be written":                       "map[net:true]",
		"write /sys/kernel/mm/transparent_hugepage/enabled": "EROFS",
		"create /new":                        "EROFS",
		"create /system/new":                 "EROFS",
		"write /vendor/waydroid.prop":        "EROFS",
		"mount proc":                         "done",
		"write /data/try/proc/sysrq-trigger": "done",
		"mount sysfs":                        "done",
		"write /data/try/sysfs/kernel/mm/transparent_hugepage/enabled": "EROFS",
		"remount sysfs":                                 "EPERM",
		"remount the mount of sysfs":                    "EPERM",
		"mount debugfs":                                 "done",
		"mount securityfs":                              "done",
		"mount tmpfs":                                   "done",
		"mount cgroup2":                                 "done",
		"mount binder where init does":                  "ENOTDIR",
		"bind /proc":                                    "done",
		"write /data/try/tmpfs/sysrq-trigger":           "done",
		"write /data/try/tmpfs/sys/kernel/core_pattern": "done",
		"unmount what hides sysrq-trigger":              "done",
		"write /proc/sysrq-trigger again":               "done",
		"make the root writable":                        "EPERM",
		"make /proc/sys/kernel writable":                "EPERM",
		"create /new again":                             "EROFS",
		"create in a writable clone":                    "ENOSYS",
		"a mount namespace":                             "done",
		"a network namespace":                           "EPERM",
		"make disk":                                     "EPERM",
		"make mem":                                      "EPERM",
		"link of /dev/kmsg":                             "console",
		"chmod /proc/kmsg":                              "done",
		"mode of /dev/null":                             "-rw-rw-rw-",
		"raise the limit of cores":                      "0",
		"real-time scheduling":                          "EPERM",
		"shut the file system of /data down":            "EPERM",
		"shut the file system of / down":                "EPERM",
	}
	// androidMeetsGuarded is what is otherwise with the guard.
	androidMeetsGuarded = map[string]string{
		"mount proc":                         "EPERM",
		"write /data/try/proc/sysrq-trigger": "",
		"mount sysfs":                        "EPERM",
		"remount sysfs":                      "",
		"remount the mount of sysfs":         "",
		"write /data/try/sysfs/kernel/mm/transparent_hugepage/enabled": "",
		"mount debugfs":                                 "EPERM",
		"mount securityfs":                              "EPERM",
		"mount binder where init does":                  "EPERM",
		"write /data/try/tmpfs/sysrq-trigger":           "EPERM",
		"write /data/try/tmpfs/sys/kernel/core_pattern": "EPERM",
		"write /proc/sysrq-trigger again":               "EPERM",
	}
)

// kernelLog reads the kernel's log.
func kernelLog(t *testing.T) string {
	t.Helper()
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(3, buf) // SYSLOG_ACTION_READ_ALL
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// calls has the probe make the calls that the filter refuses, with the capabilities that the profile gives.
func (g androidGuest) calls(t *testing.T) {
	prof, err := profile.Get(g.profile)
	if err != nil {
		t.Fatal(err)
	}
	code, out := g.exec(g.id, "/data/probe")
	if code != 0 {
		t.Fatalf("the probe exited with %d: %s", code, out)
	}
	meets := filterOf(prof.Seccomp)
	for line := range strings.Lines(out) {
		call, met, _ := strings.Cut(strings.TrimSpace(line), " ")
		if want, filtered := meets[call]; filtered && met != want {
			t.Errorf("%s met %s, want %s", call, met, want)
		}
	}
}

// modes looks at the roots of the guest's file systems in memory, which lie over directories of the image that have other modes.
func (g androidGuest) modes(t *testing.T) {
	prof, err := profile.Get(g.profile)
	if err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("/proc/%d/root", g.observe(g.id).Guest.PID)
	for _, fs := range prof.Tmpfs {
		var st unix.Stat_t
		if err := unix.Stat(root+fs.Path, &st); err != nil {
			t.Fatalf("%s: %v", fs.Path, err)
		}
		if st.Mode&0o7777 != fs.Mode || st.Uid != fs.UID || st.Gid != fs.GID {
			t.Errorf("%s has mode %#o and is of %d:%d, want %#o and %d:%d", fs.Path, st.Mode&0o7777, st.Uid, st.Gid, fs.Mode, fs.UID, fs.GID)
		}
	}
}

// as runs a program in the guest as a user of it, and returns what it printed.
func (g androidGuest) as(t *testing.T, uid uint32, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	code, err := g.engine.Exec(t.Context(), g.id, container.ExecOptions{Args: args, UID: uid, Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		t.Fatalf("%v as uid %d: exit code %d, %v: %s", args, uid, code, err, out.String())
	}
	return out.String()
}

// apart looks at what users of the guest see of each other, and who reaches the display.
func (g androidGuest) apart(t *testing.T) {
	for uid, want := range map[uint32]string{0: "see 1 done\n", 10001: "see 1 ENOENT\n"} {
		if out := g.as(t, uid, "/data/probe", "see", "1"); out != want {
			t.Errorf("uid %d: %q, want %q", uid, out, want)
		}
	}
	if g.profile != "waydroid" {
		return
	}
	const socket = "/run/xdg/wayland-0"
	for uid, want := range map[uint32]string{0: "done", 1000: "done", 10001: "EACCES"} {
		if out := g.as(t, uid, "/data/probe", "connect", socket); out != "connect "+socket+" "+want+"\n" {
			t.Errorf("uid %d: %q, want %s", uid, out, want)
		}
	}
	if out := g.as(t, 0, "cat", "/vendor/waydroid.prop"); !strings.Contains(out, "ro.sf.lcd_density=160\n") || !strings.Contains(out, "ro.test.greeting=hello\n") {
		t.Errorf("the property file: %q", out)
	}
}

// composes runs a composer as Waydroid does, as user system, until it has shown its first frame.
func (g androidGuest) composes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var output bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		_, err := g.engine.Exec(ctx, g.id, container.ExecOptions{
			Args: []string{"testphone-screen"}, UID: 1000, Env: []string{"XDG_RUNTIME_DIR=/run/xdg"}, Stdout: &output, Stderr: &output,
		})
		ended <- err
	}()
	g.booted(g.id)
	cancel()
	<-ended
	t.Logf("composer: %s", output.String())
}

// ends shuts the guest down, as its profile does, and reads what the end means.
func (g androidGuest) ends(t *testing.T, p container.Phone) {
	events := g.engine.Events(t.Context())
	waitEvent(t, events, container.Back)
	prof, err := profile.Get(g.profile)
	if err != nil {
		t.Fatal(err)
	}
	started := g.observe(g.id).Guest.StartedAt
	if err := g.engine.Shutdown(t.Context(), g.id); err != nil {
		t.Fatal(err)
	}
	exit := guestExit(t, events)
	if want := map[bool]uint32{true: 0, false: 130}[prof.Shutdown.Signal != 0]; exit.ExitCode != want {
		t.Errorf("exit %d after a shutdown, want %d", exit.ExitCode, want)
	}
	if err := g.engine.RemoveGuest(t.Context(), g.id); err != nil {
		t.Fatal(err)
	}
	reason := g.bootReason(t, p)
	if !strings.HasPrefix(reason.Value, "shutdown") {
		t.Errorf("boot reason %+v", reason)
	}
	if got := prof.Ending(exit.ExitCode, profile.Evidence{StartedAt: started, BootReason: reason}); got != profile.PoweredOff {
		t.Errorf("exit %d with %+v means %v, want powered off", exit.ExitCode, reason, got)
	}
	// The same for a reboot that the guest asks for.
	p.BootGeneration++
	if err := g.engine.StartGuest(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	started = g.observe(g.id).Guest.StartedAt
	for { // until init's property service is there
		if _, out := g.exec(g.id, "getprop", "ro.test.greeting"); out != "" {
			break
		}
	}
	if code, err := g.engine.Exec(t.Context(), g.id, container.ExecOptions{Args: []string{"setprop", "sys.powerctl", "reboot,userrequested"}, Stdout: io.Discard}); err != nil || code != 0 && code < 128 {
		t.Fatalf("ask for a reboot: %d, %v", code, err)
	}
	exit = guestExit(t, events)
	if err := g.engine.RemoveGuest(t.Context(), g.id); err != nil {
		t.Fatal(err)
	}
	if got := prof.Ending(exit.ExitCode, profile.Evidence{StartedAt: started, BootReason: g.bootReason(t, p)}); got != profile.Rebooted {
		t.Errorf("exit %d means %v, want rebooted", exit.ExitCode, got)
	}
}

// guestExit waits for the end of a guest.
func guestExit(t *testing.T, events <-chan container.Event) container.Event {
	t.Helper()
	for {
		if e := waitEvent(t, events, container.Exited); e.Role == container.Guest {
			return e
		}
	}
}

// command runs a program of the host.
func (g androidGuest) command(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%v: %v: %s", args, err, out)
	}
}

// bootReason reads the reason from the data volume of a phone that is off.
func (g androidGuest) bootReason(t *testing.T, p container.Phone) profile.BootReason {
	t.Helper()
	image := filepath.Join(g.config.StateDir, "phones", p.ID, fmt.Sprintf("data-%d.img", p.DataGeneration))
	dir := t.TempDir()
	g.command(t, "mount", "-o", "loop,ro", image, dir)
	defer g.command(t, "umount", dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	reason, err := profile.ReadBootReason(root.FS())
	if err != nil {
		t.Error(err)
	}
	return reason
}
