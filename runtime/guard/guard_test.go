package guard_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/guard"
	"github.com/phonehost/phonehost/runtime/seccomp"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// tryEnv has the test binary try, as a guest would, and print what it meets.
const tryEnv = "PHONEHOST_GUARD_TEST_TRY"

func TestMain(m *testing.M) {
	if os.Getenv(tryEnv) == "" {
		os.Exit(m.Run())
	}
	try()
}

// try tries what a guest's root must not be able to do, and what it must. Files are opened and never written.
func try() {
	runtime.LockOSThread() // whose namespaces are others
	check := func(what string, err error) {
		word := "done"
		var errno syscall.Errno
		if errors.As(err, &errno) {
			word = unix.ErrnoName(errno)
		} else if err != nil {
			word = err.Error()
		}
		fmt.Println(what+":", word)
	}
	open := func(path string, flags int) {
		f, err := os.OpenFile(path, flags, 0)
		if err == nil {
			f.Close()
		}
		check(map[int]string{os.O_RDONLY: "read ", os.O_WRONLY: "write ", os.O_RDWR: "update "}[flags]+path, err)
	}
	dir, err := os.MkdirTemp("", "try")
	if err != nil {
		panic(err)
	}
	mount := func(kind string, flags uintptr) {
		check("mount "+kind, unix.Mount(kind, dir, kind, flags, ""))
		unix.Unmount(dir, 0)
	}
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		panic(err)
	}
	check("namespace", unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_NEWNET))
	tryLinks(check, host)
	check("private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for _, kind := range []string{"proc", "sysfs", "debugfs", "tracefs", "securityfs", "devtmpfs", "pstore", "ext4", "nosuchfs", "tmpfs", "devpts", "cgroup2", "bpf", "mqueue"} {
		mount(kind, 0)
	}
	check("remount", unix.Mount("", "/proc", "", unix.MS_REMOUNT, ""))
	check("bind", unix.Mount("/proc", dir, "", unix.MS_BIND, ""))
	open(dir+"/sysrq-trigger", os.O_WRONLY)
	open(dir+"/sys/kernel/core_pattern", os.O_WRONLY)
	unix.Unmount(dir, 0)
	check("mount cgroup", unix.Mount("cgroup", dir, "cgroup", 0, "devices"))
	open(dir+"/devices.allow", os.O_WRONLY)
	open(dir+"/tasks", os.O_WRONLY)
	unix.Unmount(dir, 0)
	for _, path := range []string{"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/shmmax", "/proc/irq/default_smp_affinity"} {
		open(path, os.O_WRONLY)
	}
	open("/sys/kernel/mm/transparent_hugepage/enabled", os.O_WRONLY)
	open("/proc/kallsyms", os.O_RDONLY)
	open("/proc/kpagecount", os.O_RDONLY)
	for _, path := range []string{"/proc/self/oom_score_adj", "/proc/sys/net/ipv4/ip_forward"} {
		open(path, os.O_WRONLY)
	}
	for _, path := range []string{"/proc/meminfo", "/proc/sys/kernel/core_pattern", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/self/status"} {
		open(path, os.O_RDONLY)
	}
	if _, err := os.Stat("/proc/pressure/memory"); err == nil {
		open("/proc/pressure/memory", os.O_RDWR)
	}
	check("chmod /proc/meminfo", os.Chmod("/proc/meminfo", 0o444))
	check("chmod /sys", os.Chmod("/sys/kernel/mm/transparent_hugepage/enabled", 0o644))
	check("chmod /proc/cmdline", os.Chmod("/proc/cmdline", 0o444))
	check("chown /proc/sys", os.Chown("/proc/sys/kernel/core_pattern", 0, 0))
	check("chmod a file", os.Chmod(dir, 0o700))
	unix.Rmdir(dir)
	tryBPF(check)
}

// tryBPF tries commands of bpf(2): one that makes an object, and those that reach what others have made.
func tryBPF(check func(string, error)) {
	call := func(command uint32, attr any) error {
		var b bytes.Buffer
		if err := binary.Write(&b, binary.NativeEndian, attr); err != nil {
			return err
		}
		fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(unsafe.SliceData(b.Bytes()))), uintptr(b.Len()))
		if errno != 0 {
			return errno
		}
		if command == unix.BPF_MAP_CREATE {
			unix.Close(int(fd))
		}
		return nil
	}
	const array = 2 // BPF_MAP_TYPE_ARRAY
	check("own map", call(unix.BPF_MAP_CREATE, struct{ Type, Key, Value, Entries uint32 }{array, 4, 4, 1}))
	for _, command := range seccomp.ForeignBPF {
		check(fmt.Sprintf("bpf command %d", command), call(command, [4]uint32{1 << 30, 1 << 30}))
	}
}

// foreignCommands are what tryBPF calls the commands that reach others' objects.
func foreignCommands() (list []string) {
	for _, command := range seccomp.ForeignBPF {
		list = append(list, fmt.Sprintf("bpf command %d", command))
	}
	return list
}

// tryLinks tries messages about links of another network namespace, which is given a number here as one has it in which the other end of a
// veth pair is.
func tryLinks(check func(string, error), host *os.File) {
	const number = 7
	naming := nl.NewNetlinkRequest(unix.RTM_NEWNSID, unix.NLM_F_ACK)
	naming.AddData(head{0, 0, 0, 0})                                  // struct rtgenmsg
	naming.AddData(nl.NewRtAttr(1, nl.Uint32Attr(number)))            // NETNSA_NSID
	naming.AddData(nl.NewRtAttr(3, nl.Uint32Attr(uint32(host.Fd())))) // NETNSA_FD
	_, err := naming.Execute(unix.NETLINK_ROUTE, 0)
	check("number", err)
	send := func(what string, kind, flags int, data ...nl.NetlinkRequestData) {
		r := nl.NewNetlinkRequest(kind, flags)
		for _, d := range data {
			r.AddData(d)
		}
		_, err := r.Execute(unix.NETLINK_ROUTE, 0)
		check(what, err)
	}
	loopback := &nl.IfInfomsg{IfInfomsg: unix.IfInfomsg{Index: 1, Flags: unix.IFF_UP, Change: unix.IFF_UP}}
	there := nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(number))
	name := nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("lo"))
	send("link", unix.RTM_NEWLINK, unix.NLM_F_ACK, loopback, name)
	send("link moved elsewhere", unix.RTM_NEWLINK, unix.NLM_F_ACK, loopback, there)
	send("link moved elsewhere, behind its name", unix.RTM_SETLINK, unix.NLM_F_ACK, loopback, name, there)
	send("removal elsewhere", unix.RTM_DELLINK, unix.NLM_F_ACK, nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("nosuch0")), there)
	send("links elsewhere", unix.RTM_GETLINK, unix.NLM_F_DUMP, nl.NewIfInfomsg(unix.AF_UNSPEC), there)
	send("links", unix.RTM_GETLINK, unix.NLM_F_DUMP, nl.NewIfInfomsg(unix.AF_UNSPEC))
	send("addresses elsewhere", unix.RTM_GETADDR, unix.NLM_F_DUMP, nl.NewIfAddrmsg(unix.AF_UNSPEC), nl.NewRtAttr(10, nl.Uint32Attr(number)))
	send("addresses", unix.RTM_GETADDR, unix.NLM_F_DUMP, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	check("link elsewhere, the second of two messages", twoMessages(loopback, there))
}

// head is the head of a message behind struct nlmsghdr.
type head []byte

func (h head) Len() int          { return len(h) }
func (h head) Serialize() []byte { return h }

// twoMessages sends a message about a link here and one about a link elsewhere in one go, and returns the error of that.
func twoMessages(loopback *nl.IfInfomsg, there *nl.RtAttr) error {
	first, second := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0), nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	first.AddData(loopback)
	second.AddData(loopback)
	second.AddData(there)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, append(first.Serialize(), second.Serialize()...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// otherLinks are messages about another network namespace, and what they meet without the programs: what there is can be read, there is no
// such link to remove, and loopback goes nowhere.
var otherLinks = map[string]string{
	"links elsewhere": "done", "addresses elsewhere": "done", "removal elsewhere": "ENODEV", "link moved elsewhere": "EINVAL", "link moved elsewhere, behind its name": "EINVAL",
	"link elsewhere, the second of two messages": "done", // whose answer is not awaited
}

// refused are what fails for a guest with EPERM, and would not fail so without the programs.
var refused = slices.Concat([]string{
	"mount proc", "mount sysfs", "mount debugfs", "mount tracefs", "mount securityfs", "mount devtmpfs", "mount pstore", "mount ext4", "mount nosuchfs", "remount",
	"write devices.allow", "write sysrq-trigger", "write sys/kernel/core_pattern", "write /proc/sysrq-trigger", "write /proc/sys/kernel/core_pattern", "write /proc/sys/vm/drop_caches",
	"write /proc/sys/user/max_user_namespaces", "write /proc/sys/kernel/shmmax", "write /proc/irq/default_smp_affinity",
	"write /sys/kernel/mm/transparent_hugepage/enabled", "read /proc/kallsyms", "read /proc/kpagecount", "chmod /proc/meminfo", "chmod /sys",
}, slices.Collect(maps.Keys(otherLinks)), foreignCommands())

// tried runs try in a cgroup and returns what it met.
func tried(t *testing.T, cgroup string) map[string]string {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), tryEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	met := map[string]string{}
	for line := range strings.Lines(string(out)) {
		what, result, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if i := strings.Index(what, "/try"); i >= 0 { // the directory has a name of its own
			what = strings.Fields(what)[0] + " " + what[strings.IndexByte(what[i+1:], '/')+i+2:]
		}
		met[what] = result
	}
	return met
}

// cgroups makes a guest's cgroup, with one below it, and that of another, in cgroup v2.
func cgroups(t *testing.T) (guest, below, other string, id uint64) {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root += "/unified"
	}
	guest, other = filepath.Join(root, "guardtest", "p1", "guest"), filepath.Join(root, "guardtest", "p2", "guest")
	below = filepath.Join(guest, "ctr")
	for _, dir := range []string{below, other} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, dir := range []string{below, guest, filepath.Dir(guest), other, filepath.Dir(other), filepath.Join(root, "guardtest")} {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(guest, &st); err != nil {
		t.Fatal(err)
	}
	return guest, below, other, st.Ino
}

// devicesV1 keeps the hierarchy of cgroup v1's device rules mounted, which the kernel would take down and build up again.
func devicesV1(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("cgroup", dir, "cgroup", 0, "devices"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// bpffs makes sure that there is a BPF file system and returns a directory for pins.
func bpffs(t *testing.T) string {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/bpf", &st); err != nil || uint32(st.Type) != unix.BPF_FS_MAGIC {
		if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	dir := "/sys/fs/bpf/phonehost-test"
	t.Cleanup(func() {
		if err := guard.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

const level = 3 // /guardtest/p1/guest

func TestVMGuard(t *testing.T) {
	vm.Run(t, vm.On("6.1").Arch("amd64").And(vm.On("6.12"), vm.On("7.3").Nightly()), func(t *testing.T) {
		guest, below, other, id := cgroups(t)
		dir := bpffs(t)
		devicesV1(t)
		before := tried(t, below)
		for _, what := range refused {
			if before[what] == "EPERM" {
				t.Errorf("without a guard: %s meets EPERM", what)
			}
		}
		for what, want := range otherLinks {
			if before[what] != want {
				t.Errorf("without a guard: %s meets %s, want %s", what, before[what], want)
			}
		}
		g, err := guard.Open(guard.Config{Dir: dir, Level: level})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Protect(id); err != nil {
			t.Fatal(err)
		}
		for _, cgroup := range []string{guest, below} {
			guarded(t, tried(t, cgroup), before)
		}
		if met := tried(t, other); !same(met, before) {
			t.Errorf("another's processes meet %v, before %v", met, before)
		}
		// With nobody there any more it holds, and the next finds it.
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		guarded(t, tried(t, below), before)
		if g, err = guard.Open(guard.Config{Dir: dir, Level: level}); err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		if all, err := g.Protected(); err != nil || !slices.Equal(all, []uint64{id}) {
			t.Errorf("protected %v, %v, want %d", all, err, id)
		}
		guarded(t, tried(t, below), before)
		for range 2 {
			if err := g.Release(id); err != nil {
				t.Error(err)
			}
		}
		if met := tried(t, below); !same(met, before) {
			t.Errorf("released, it meets %v, before %v", met, before)
		}
	}, vm.Require("all"))
}

// guarded checks what a guest met: what is refused, and that all else is as before.
func guarded(t *testing.T, met, before map[string]string) {
	t.Helper()
	for what, result := range before {
		want := result
		if slices.Contains(refused, what) {
			want = "EPERM"
		}
		if met[what] != want {
			t.Errorf("%s meets %s, want %s", what, met[what], want)
		}
	}
	for _, what := range refused {
		if met[what] == "" {
			t.Errorf("%s was not tried", what)
		}
	}
}

func same(a, b map[string]string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// TestVMGuardIsMissed opens a guard where the kernel cannot have one, or does not obey it.
func TestVMGuardIsMissed(t *testing.T) {
	targets := vm.On("6.1").Arch("arm64").And(vm.On("6.12").Arch("amd64").With(vm.NoBPFLSM))
	vm.Run(t, targets, func(t *testing.T) {
		dir := bpffs(t)
		_, err := guard.Open(guard.Config{Dir: dir, Level: level})
		if !errdefs.IsNotImplemented(err) {
			t.Fatalf("Open: %v, want that the kernel cannot", err)
		}
		t.Log(err)
	}, vm.Require("all"))
}

func TestOpenRefuses(t *testing.T) {
	if _, err := guard.Open(guard.Config{Dir: filepath.Join(t.TempDir(), "x"), Level: level}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("outside of a BPF file system: %v", err)
	}
	if _, err := guard.Open(guard.Config{Dir: "/sys/fs/bpf/x"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without a level: %v", err)
	}
	if err := guard.Remove(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
}
