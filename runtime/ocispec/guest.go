package ocispec

import (
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/profile"
	"github.com/phonehost/phonehost/runtime/seccomp"
)

// GroupAnnotation makes the runc shim serve all containers of one group by one process.
const GroupAnnotation = "io.containerd.runc.v2.group"

// Guest is what a guest's spec is built from.
type Guest struct {
	ID      string
	Arch    string // GOARCH of the host
	Profile *profile.Profile
	Boot    profile.Boot
	// CgroupsPath, NetNS, WaylandDir and DataDevice are paths on the host: the container's own cgroup below its hierarchies, the
	// network namespace, the directory of the display's Wayland socket, and the block device with the ext4 file system of /data.
	CgroupsPath, NetNS, WaylandDir, DataDevice string
	// Binder is what the guest gets of the kernel's binder driver; the zero value is nothing.
	Binder binder.Grant
	Limits Limits
}

// Limits bound a container. Zero values of the first two mean no limit.
type Limits struct {
	// CPUs is CPU time in cores.
	CPUs float64
	// MemoryBytes bounds memory; swap is not allowed on top of it if the kernel accounts it.
	MemoryBytes uint64
	// SwapAccounting tells that the kernel can limit swap.
	SwapAccounting bool
	// PIDs bounds processes and threads.
	PIDs int64
	// Files is the number of open files of one process.
	Files uint64
	// Nice is RLIMIT_NICE of a guest with binder devices: 40 lets threads have every nice value, 20 those from 0 on, and 0, which is also
	// the kernel's default, none of their own. More than containerd has needs CAP_SYS_RESOURCE there.
	Nice uint64
}

// CPUPeriod is the period of CPU quotas in microseconds.
const CPUPeriod = 100_000

// CPUQuota returns the CPU time of one CPUPeriod in microseconds, at least what the kernel accepts.
func (l Limits) CPUQuota() int64 {
	return max(1000, int64(math.Round(l.CPUs*CPUPeriod)))
}

// guestMasked are hidden from every guest: what reaches the host's kernel, its other file systems, or tells about them.
var guestMasked = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/kpagecgroup",
	"/proc/kpagecount", "/proc/kpageflags", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/sysrq-trigger",
	"/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
	"/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/bpf", "/sys/fs/fuse/connections", "/sys/fs/pstore", "/sys/kernel/debug",
	"/sys/kernel/security", "/sys/kernel/tracing", "/sys/power",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"}

// BuildGuest returns the spec of a guest. It refuses what it cannot express with errdefs.ErrInvalidArgument.
func BuildGuest(g Guest) (*specs.Spec, error) {
	if g.Limits.MemoryBytes == 0 || g.Limits.CPUs <= 0 {
		return nil, fmt.Errorf("guest %s without a limit of memory or CPU: %w", g.ID, errdefs.ErrInvalidArgument)
	}
	filter, err := seccomp.Guest(g.Arch, g.Profile.Seccomp)
	if err != nil {
		return nil, err
	}
	spec := base(g.CgroupsPath, g.Limits)
	spec.Annotations = map[string]string{GroupAnnotation: g.ID}
	spec.Hostname = g.ID
	spec.Root = &specs.Root{Path: "rootfs", Readonly: g.Profile.ReadonlyRoot}
	spec.Process.Args = g.Profile.Args(g.Boot)
	spec.Process.Env = slices.Clone(g.Profile.Env)
	caps := slices.Clone(g.Profile.Capabilities)
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	spec.Mounts = guestMounts(g)
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: g.NetNS})
	spec.Linux.Seccomp = filter
	spec.Linux.MaskedPaths = append(slices.Clone(guestMasked), g.Profile.MaskedPaths...)
	spec.Linux.ReadonlyPaths = slices.Clone(readonlyPaths)
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, allowed(terminalDevices)...)
	addBinder(spec, g.Binder, g.Limits.Nice)
	return spec, nil
}

// addBinder lets the guest have its binder devices: the nodes of a triple, or a binderfs of its own, which is complete only when
// binder.Allocate has been in it.
func addBinder(spec *specs.Spec, grant binder.Grant, nice uint64) {
	if grant.Label() != "" && nice > 0 {
		// The driver gives a thread the nice value of whom it works for, and writes to the host's log, for every call, what a thread may
		// not have. To have it means nothing beyond the guest's own cgroup.
		spec.Process.Rlimits = append(spec.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NICE", Hard: nice, Soft: nice})
	}
	devices := &spec.Linux.Resources.Devices
	if i := grant.Instance; i != nil {
		spec.Mounts = append(spec.Mounts, specs.Mount{
			// Without the option stats=global, which would show all phones' transactions.
			Destination: binder.MountPoint, Type: "binder", Source: "binder", Options: []string{"nosuid", "noexec", fmt.Sprintf("max=%d", i.Max)},
		})
		*devices = append(*devices, allowed([]number{{int64(i.Major), -1}})...)
	}
	if grant.Triple == nil {
		return
	}
	mode, root := os.FileMode(binder.Mode), uint32(0)
	for i, d := range grant.Triple.Devices() {
		major, minor := int64(d.Major), int64(d.Minor)
		spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{
			Path: "/dev/" + binder.Names[i], Type: "c", Major: major, Minor: minor, FileMode: &mode, UID: &root, GID: &root,
		})
		*devices = append(*devices, allowed([]number{{major, minor}})...)
	}
}

func guestMounts(g Guest) []specs.Mount {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		// No device node that the guest makes here opens: the device cgroup allows the listed ones only.
		tmpfs("/dev", 0o755, 4<<20, 4096, "nosuid", "noexec"),
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", "max=256"}},
		tmpfs("/dev/shm", 0o1777, 64<<20, 16384, "nosuid", "noexec", "nodev"),
	}
	for _, t := range g.Profile.Tmpfs {
		mounts = append(mounts, tmpfs(t.Path, t.Mode, t.Bytes, t.Files, "nosuid", "nodev"))
	}
	return append(mounts,
		specs.Mount{Destination: g.Profile.WaylandDir, Type: "bind", Source: g.WaylandDir, Options: []string{"bind", "ro", "nosuid", "noexec", "nodev"}},
		// The quota of /data is the size of its disk. Blocks that are freed are given back to the host.
		specs.Mount{Destination: "/data", Type: "ext4", Source: g.DataDevice, Options: []string{"nosuid", "nodev", "noatime", "discard"}},
	)
}
