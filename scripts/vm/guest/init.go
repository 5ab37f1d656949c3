package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// driveTime is how long a drive may take to appear; the host's own deadline ends a boot before that where it is shorter.
const driveTime = 2 * time.Minute

// environment is that of process 1 and of what the host starts.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux", "LANG=C.UTF-8"}

// boot is one boot under way.
type boot struct {
	line     commandLine
	problems []string
}

// Init is process 1 of a machine, begun by the kernel as /init of the initrd. It returns only with an error that keeps the
// machine from booting; what to do then is the caller's.
func Init() error {
	os.Clearenv()
	for _, pair := range environment {
		key, value, _ := strings.Cut(pair, "=")
		os.Setenv(key, value)
	}
	if err := mountAll("/", []mountPoint{
		{"proc", "proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "devtmpfs", "/dev", unix.MS_NOSUID, "mode=755"},
		{"tmpfs", "tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=755,size=75%"},
	}); err != nil {
		return err
	}
	line, err := readCommandLine()
	if err != nil {
		return err
	}
	b := &boot{line: line}
	if err := loadInitial("/modules.order-of-load", "/modules", line.options); err != nil {
		b.problem(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), driveTime)
	defer cancel()
	if line.kind == kindSystem {
		return b.system(ctx)
	}
	return b.kernel(ctx)
}

// problem keeps what does not end the boot, for the host and the console.
func (b *boot) problem(err error) {
	b.problems = append(b.problems, strings.ReplaceAll(err.Error(), "\n", "; "))
	fmt.Fprintln(os.Stderr, "vm-guest:", err)
}

// common does what both kinds of machine need under the new root, whose modules are mounted there.
func (b *boot) common(ctx context.Context, root string) error {
	if err := b.mountModules(ctx, root); err != nil {
		return err
	}
	m := modules{dir: filepath.Join(root, "usr/lib/modules", b.line.release), options: b.line.options}
	if err := m.load("virtio_rng", nil); err != nil {
		b.problem(err)
	}
	if err := m.load("virtio_net", nil); err != nil {
		b.problem(err)
	} else if err := startNetwork(ctx); err != nil {
		b.problem(err)
	}
	if err := os.MkdirAll("/run/vm", 0o755); err != nil {
		return err
	}
	if err := unpackPayload(ctx); err != nil {
		b.problem(err)
	}
	if err := copyFile("/proc/self/exe", "/run/vm/vm-guest", 0o755); err != nil {
		return fmt.Errorf("copy the program to /run/vm: %w", err)
	}
	return os.WriteFile(problemsFile, []byte(strings.Join(b.problems, "\n")), 0o644)
}

func (b *boot) mountModules(ctx context.Context, root string) error {
	dir := filepath.Join(root, "usr/lib/modules", b.line.release)
	device, err := waitDrive(ctx, "modules")
	if err != nil {
		return err
	}
	return mountAll("/", []mountPoint{{device, "ext4", dir, unix.MS_RDONLY, ""}})
}

// kernel boots a kernel machine.
func (b *boot) kernel(ctx context.Context) error {
	const root = "/newroot"
	if err := mountAll("/", []mountPoint{{"tmpfs", "tmpfs", root, 0, "mode=755,size=75%"}}); err != nil {
		return err
	}
	if err := furnish(root); err != nil {
		return err
	}
	if err := b.common(ctx, root); err != nil {
		return err
	}
	if err := switchRoot(root); err != nil {
		return err
	}
	for _, m := range b.kernelMounts() {
		err := mountAll("/", []mountPoint{m})
		if m.kind == "cgroup" && errors.Is(err, unix.EINVAL) {
			// From 6.12 on a kernel may be built without version 1 of a controller.
			err = os.Remove(m.target)
		}
		if err != nil {
			return err
		}
	}
	// busybox complains of names that are taken, by modprobe.
	if err := exec.Command("/bin/busybox", "--install", "-s").Run(); err != nil {
		b.problem(fmt.Errorf("install busybox: %w", err))
	}
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return reap([]string{"/run/vm/vm-guest", "serve"})
}

// kernelMounts are the file systems that systemd mounts in a system machine. What a kernel or a variant lacks is left out:
// the list of file systems tells.
func (b *boot) kernelMounts() []mountPoint {
	const secure = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	all := []mountPoint{
		{"devpts", "devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=620,ptmxmode=666,gid=5"},
		{"tmpfs", "tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "mqueue", "/dev/mqueue", secure, ""},
		{"tmpfs", "tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"securityfs", "securityfs", "/sys/kernel/security", secure, ""},
		{"bpf", "bpf", "/sys/fs/bpf", secure, "mode=700"},
		{"tracefs", "tracefs", "/sys/kernel/tracing", secure, ""},
		{"debugfs", "debugfs", "/sys/kernel/debug", secure, ""},
		{"configfs", "configfs", "/sys/kernel/config", secure, ""},
	}
	if b.line.cgroup1 {
		all = append(all, mountPoint{"tmpfs", "tmpfs", "/sys/fs/cgroup", secure, "mode=755"})
		for _, name := range []string{"cpu,cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "net_cls,net_prio", "perf_event"} {
			all = append(all, mountPoint{"cgroup", "cgroup", "/sys/fs/cgroup/" + name, secure, name})
		}
	} else {
		all = append(all, mountPoint{"cgroup2", "cgroup2", "/sys/fs/cgroup", secure, "nsdelegate"})
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		b.problem(err)
		return all
	}
	var there []mountPoint
	for _, m := range all {
		if strings.Contains(string(known), "\t"+m.kind+"\n") {
			there = append(there, m)
		}
	}
	return there
}

// system boots a system machine: it becomes the root drive's systemd.
func (b *boot) system(ctx context.Context) error {
	const root = "/newroot"
	device, err := waitDrive(ctx, "root")
	if err != nil {
		return err
	}
	if err := mountAll("/", []mountPoint{{device, "ext4", root, unix.MS_RELATIME, ""}}); err != nil {
		return err
	}
	if err := b.common(ctx, root); err != nil {
		return err
	}
	if err := switchRoot(root); err != nil {
		return err
	}
	return fmt.Errorf("start systemd: %w", unix.Exec("/sbin/init", []string{"/sbin/init"}, environment))
}

// mountPoint is one call of mount(2).
type mountPoint struct {
	source, kind, target string
	flags                uintptr
	options              string
}

// mountAll makes the directories and mounts, in order. What is mounted already is no error.
func mountAll(root string, points []mountPoint) error {
	for _, m := range points {
		target := filepath.Join(root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.kind, err)
		}
		err := unix.Mount(m.source, target, m.kind, m.flags, m.options)
		if err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s (%s) at %s: %w", m.source, m.kind, target, err)
		}
	}
	return nil
}
