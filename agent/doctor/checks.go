package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"

	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/runtime/binder"
)

// Least values of the host's limits. A guest's Android userspace uses some 40 inotify instances and 1500 tasks, and all
// guests whose root is the host's root share the limits of one user.
const (
	leastInotifyInstances = 1024
	leastInotifyWatches   = 65536
	leastPidMax           = 131072
)

// read returns a file of the host without white space around.
func (h *Host) read(name string) (string, error) {
	b, err := fs.ReadFile(h.Root, name)
	return strings.TrimSpace(string(b)), err
}

func (h *Host) exists(name string) bool {
	_, err := fs.Stat(h.Root, name)
	return err == nil
}

// number returns the number that a file holds.
func (h *Host) number(name string) (int64, error) {
	text, err := h.read(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

var numbers = regexp.MustCompile(`(\d+)\.(\d+)`)

// version finds the first MAJOR.MINOR in a text.
func version(text string) (major, minor int, found bool) {
	m := numbers.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, false
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return 0, 0, false
	}
	minor, err = strconv.Atoi(m[2])
	return major, minor, err == nil
}

// older tells whether a version is before another.
func older(major, minor, thanMajor, thanMinor int) bool {
	return major < thanMajor || major == thanMajor && minor < thanMinor
}

func checkKernel(_ context.Context, h *Host) Finding {
	release, err := h.Release()
	if err != nil {
		return bad("", "the kernel's release cannot be read: %v", err)
	}
	major, minor, found := version(release)
	switch {
	case !found:
		return warn("use Linux 6.1 or later", "the kernel's release %q is not understood", release)
	case older(major, minor, 5, 15):
		return bad("use Linux 6.1 or later", "Linux %s is too old", release)
	case older(major, minor, 6, 1):
		return warn("use Linux 6.1 or later", "Linux %s should work and is not verified", release)
	}
	return ok("Linux %s", release)
}

func checkCgroups(_ context.Context, h *Host) Finding {
	const remedy = "boot with systemd.unified_cgroup_hierarchy=1, or without cgroup_disable="
	needed := []string{"cpu", "memory", "pids"}
	if text, err := h.read("sys/fs/cgroup/cgroup.controllers"); err == nil {
		if missing := missingFrom(strings.Fields(text), needed); len(missing) > 0 {
			return bad(remedy, "the cgroup v2 hierarchy lacks the controllers %s", strings.Join(missing, ", "))
		}
		return ok("cgroup v2 with %s", text)
	}
	var missing []string
	for _, c := range needed {
		if !h.exists("sys/fs/cgroup/" + c) {
			missing = append(missing, c)
		}
	}
	switch {
	case len(missing) > 0:
		return bad(remedy, "no cgroup v2 hierarchy at /sys/fs/cgroup, and no v1 hierarchies of %s", strings.Join(missing, ", "))
	case !h.exists("sys/fs/cgroup/unified/cgroup.controllers"):
		return warn(remedy, "cgroup v1 alone: policies, which are attached to cgroup v2, cannot be enforced")
	}
	return ok("cgroup v1 hierarchies, and v2 at /sys/fs/cgroup/unified")
}

// missingFrom returns what of needed is not in have.
func missingFrom(have, needed []string) (missing []string) {
	set := make(map[string]bool, len(have))
	for _, name := range have {
		set[name] = true
	}
	for _, name := range needed {
		if !set[name] {
			missing = append(missing, name)
		}
	}
	return missing
}

func checkContainerd(ctx context.Context, h *Host) Finding {
	if h.Containerd == nil {
		return warn("", "no containerd is configured")
	}
	v, err := h.Containerd(ctx)
	if err != nil {
		return bad("apt-get install containerd && systemctl start containerd, or set containerd.address in phonehostd.toml",
			"containerd does not answer at %s: %v", h.ContainerdAddress, err)
	}
	switch major, minor, found := version(v); {
	case !found:
		return warn("use containerd 1.6 to 2.x", "containerd's version %q is not understood", v)
	case older(major, minor, 1, 6):
		return bad("use containerd 1.6 to 2.x", "containerd %s is too old", v)
	case major > 2:
		return warn("use containerd 1.6 to 2.x", "containerd %s is newer than what is verified", v)
	}
	return ok("containerd %s answers at %s", v, h.ContainerdAddress)
}

func checkRunc(ctx context.Context, h *Host) Finding {
	out, err := h.Command(ctx, "runc", "--version")
	if err != nil {
		return bad("apt-get install runc", "runc cannot be run: %v", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	switch major, minor, found := version(first); {
	case !found:
		return warn("use runc 1.1 or later", "runc's version %q is not understood", first)
	case older(major, minor, 1, 1):
		return bad("use runc 1.1 or later", "%s is too old", first)
	}
	return ok("%s", first)
}

func checkLoop(_ context.Context, h *Host) Finding {
	info, err := fs.Stat(h.Root, "dev/loop-control")
	if err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		return bad("modprobe loop (and add loop to /etc/modules)", "there is no /dev/loop-control: phones' data volumes cannot be attached")
	}
	return ok("loop devices can be made")
}

func checkExt4(_ context.Context, h *Host) Finding {
	for _, tool := range []string{"mkfs.ext4", "e2fsck", "resize2fs", "tune2fs"} {
		if _, err := h.LookPath(tool); err != nil {
			return bad("apt-get install e2fsprogs", "%s is not there: %v", tool, err)
		}
	}
	text, err := h.read("proc/filesystems")
	if err != nil {
		return warn("", "the kernel's file systems cannot be read: %v", err)
	}
	for _, name := range strings.Fields(text) {
		if name == "ext4" {
			return ok("the kernel mounts ext4, and its tools are there")
		}
	}
	return warn("modprobe ext4 (and add ext4 to /etc/modules)", "the kernel has not loaded ext4: it must be able to load it by itself")
}

func checkInotify(_ context.Context, h *Host) Finding {
	const remedy = "sysctl -w fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=1048576 (and write both to /etc/sysctl.d/90-phonehost.conf)"
	instances, err := h.number("proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return warn("", "fs.inotify.max_user_instances cannot be read: %v", err)
	}
	watches, err := h.number("proc/sys/fs/inotify/max_user_watches")
	if err != nil {
		return warn("", "fs.inotify.max_user_watches cannot be read: %v", err)
	}
	if instances < leastInotifyInstances || watches < leastInotifyWatches {
		return warn(remedy, "a user may have %d inotify instances and %d watches: too few for more than some guests", instances, watches)
	}
	return ok("%d inotify instances and %d watches for a user", instances, watches)
}

func checkPidMax(_ context.Context, h *Host) Finding {
	n, err := h.number("proc/sys/kernel/pid_max")
	if err != nil {
		return warn("", "kernel.pid_max cannot be read: %v", err)
	}
	if n < leastPidMax {
		return warn("sysctl -w kernel.pid_max=4194304 (and write it to /etc/sysctl.d/90-phonehost.conf)", "%d tasks at most on this host: enough for few guests", n)
	}
	return ok("%d tasks at most", n)
}

// checkCorePattern warns of a pipe: RLIMIT_CORE 0 does not keep the kernel from starting the helper for a guest's crash.
func checkCorePattern(_ context.Context, h *Host) Finding {
	text, err := h.read("proc/sys/kernel/core_pattern")
	if err != nil {
		return warn("", "kernel.core_pattern cannot be read: %v", err)
	}
	if strings.HasPrefix(text, "|") {
		return warn("sysctl -w kernel.core_pattern=core (and keep systemd-coredump or apport from setting it)",
			"crashes inside guests start a program on the host: core_pattern is %q", text)
	}
	return ok("core_pattern is %q", text)
}

func checkBinder(_ context.Context, h *Host) Finding {
	const pool = "modprobe binder_linux devices=binder,hwbinder,vndbinder,binder1,hwbinder1,vndbinder1,... (and write it to /etc/modprobe.d/)"
	s, err := binder.Read(h.Root)
	if err != nil {
		return warn("", "what the kernel offers of binder is not known: %v", err)
	}
	switch s.Kind {
	case binder.FS:
		return ok("the kernel has binderfs: every phone gets binder devices of its own")
	case binder.Pool:
		return warn("use a kernel with CONFIG_ANDROID_BINDERFS, or "+pool,
			"no binderfs: the binder devices in /dev are enough for %d phones at a time", len(s.Triples))
	}
	return warn("use a kernel with CONFIG_ANDROID_BINDERFS, or "+pool, "no binder: Android images cannot run (testphone can)")
}

func checkEncoder(ctx context.Context, h *Host) Finding {
	if h.DisplayBinary == "" {
		return warn("set display.binary in phonehostd.toml", "no phone-display is configured")
	}
	out, err := h.Command(ctx, h.DisplayBinary, "encoders")
	text := strings.TrimSpace(string(out))
	if errors.Is(err, fs.ErrNotExist) {
		return bad("install phone-display, or set display.binary in phonehostd.toml", "%s is not installed", h.DisplayBinary)
	}
	if err != nil {
		return bad("apt-get install libavcodec59 libyuv0, and look at what phone-display encoders prints",
			"%s cannot encode: %v: %s", h.DisplayBinary, err, clip(text))
	}
	if text == "" {
		return bad("apt-get install libavcodec59 (with libx264)", "%s knows no encoder", h.DisplayBinary)
	}
	return ok("encoders: %s", clip(strings.Join(strings.Split(text, "\n"), "; ")))
}

// clip keeps a program's output short.
func clip(text string) string {
	if len(text) > 400 {
		return text[:400] + "..."
	}
	return text
}

func checkDisk(_ context.Context, h *Host) Finding {
	if h.StateDir == "" {
		return warn("", "no directory for phones' data is configured")
	}
	size, free, err := h.Free(h.StateDir)
	if err != nil {
		return bad("create "+h.StateDir, "the file system of the phones' data cannot be asked: %v", err)
	}
	message := fmt.Sprintf("%d MiB of %d MiB free in %s, %d MiB must stay free", free>>20, size>>20, h.StateDir, h.DiskReserveBytes>>20)
	switch {
	case free < h.DiskReserveBytes:
		return bad("delete phones or images, or give "+h.StateDir+" more room", "%s: phones are not created or started", message)
	case free < 2*h.DiskReserveBytes:
		return warn("delete phones or images, or give "+h.StateDir+" more room", "%s", message)
	}
	return ok("%s", message)
}

func checkClock(_ context.Context, h *Host) Finding {
	const remedy = "apt-get install chrony (or systemd-timesyncd)"
	if year := h.Now().Year(); year < 2024 || year > 2100 {
		return bad(remedy, "the clock says that it is %d: certificates will be refused", year)
	}
	synchronised, err := h.ClockSynchronised()
	if err != nil {
		return warn("", "the kernel's clock cannot be asked: %v", err)
	}
	if !synchronised {
		return warn(remedy, "nothing keeps the clock right: certificates and latencies depend on it")
	}
	return ok("the clock is kept right")
}

func checkGroup(_ context.Context, h *Host) Finding {
	if h.SocketGroup == "" {
		return ok("the socket has no group: only root may connect")
	}
	if err := h.Group(h.SocketGroup); err != nil {
		return warn("groupadd --system "+h.SocketGroup+" && systemctl restart phonehostd", "only root may connect to the socket: %v", err)
	}
	return ok("members of the group %s may connect to the socket", h.SocketGroup)
}

func checkHealth(_ context.Context, h *Host) Finding {
	if h.Health == nil {
		return ok("no register of warnings")
	}
	standing := h.Health.List()
	if len(standing) == 0 {
		return ok("no warning stands")
	}
	worst, texts := Warning, make([]string, 0, len(standing))
	for _, f := range standing {
		if f.Severity == health.Error {
			worst = Error
		}
		texts = append(texts, f.Name+": "+f.Message)
	}
	return Finding{Severity: worst, Message: strings.Join(texts, "; "), Remedy: "see each warning, and phonectl host"}
}
