package ocispec

import (
	"fmt"
	"math"
	"os"
	"path"
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
	// CgroupsPath, NetNS, WaylandDir, FilesDir and DataDevice are paths on the host: the container's own cgroup below its hierarchies,
	// the network namespace, the directory of the display's Wayland socket, the directory of the profile's files, each by the last
	// part of its name, and the block device with the ext4 file system of /data.
	CgroupsPath, NetNS, WaylandDir, FilesDir, DataDevice string
	// RenderNode is the GPU's render node, which the guest gets as Boot.RenderNode; nil without one.
	RenderNode *Device
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

const sysctls = "/proc/sys"

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", sysctls}

// hostSysctls are all directories of /proc/sys but net. Those that a kernel does not have are passed over.
var hostSysctls = []string{
	"/proc/sys/abi", "/proc/sys/coda", "/proc/sys/crypto", "/proc/sys/debug", "/proc/sys/dev", "/proc/sys/fs", "/proc/sys/fscache",
	"/proc/sys/kernel", "/proc/sys/lnet", "/proc/sys/sunrpc", "/proc/sys/user", "/proc/sys/vm", "/proc/sys/xen",
}

// BuildGuest returns the spec of a guest. It refuses what it cannot express, and properties that its image cannot be given, with
// errdefs.ErrInvalidArgument.
func BuildGuest(g Guest) (*specs.Spec, error) {
	if g.Limits.MemoryBytes == 0 || g.Limits.CPUs <= 0 {
		return nil, fmt.Errorf("guest %s without a limit of memory or CPU: %w", g.ID, errdefs.ErrInvalidArgument)
	}
	if (g.RenderNode != nil) != (g.Boot.RenderNode != "") {
		return nil, fmt.Errorf("guest %s with a render node that its boot does not name, or the other way: %w", g.ID, errdefs.ErrInvalidArgument)
	}
	if err := g.Profile.CheckProperties(g.Boot.Properties); err != nil {
		return nil, fmt.Errorf("guest %s of profile %s: %w", g.ID, g.Profile.Name, err)
	}
	filter, err := seccomp.Guest(g.Arch, g.Profile.Seccomp)
	if err != nil {
		return nil, err
	}
	spec := base(g.CgroupsPath, g.Limits)
	spec.Annotations = map[string]string{GroupAnnotation: g.ID}
	spec.Hostname = g.ID
	spec.Root = &specs.Root{Path: "rootfs", Readonly: g.Profile.ReadonlyRoot}
	spec.Process.Terminal = g.Profile.Console
	spec.Process.Args = g.Profile.Args(g.Boot)
	spec.Process.Env = slices.Clone(g.Profile.Env)
	caps := slices.Clone(g.Profile.Capabilities)
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	spec.Mounts = guestMounts(g)
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: g.NetNS})
	spec.Linux.Seccomp = filter
	spec.Linux.MaskedPaths = append(slices.Clone(guestMasked), g.Profile.MaskedPaths...)
	spec.Linux.ReadonlyPaths = guestReadonly(g.Profile)
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, allowed(terminalDevices)...)
	addDevices(spec, g)
	addBinder(spec, g.Profile.BinderDir, g.Binder, g.Limits.Nice)
	return spec, nil
}

func guestReadonly(p *profile.Profile) []string {
	paths := slices.Clone(readonlyPaths)
	if p.Sysctls {
		paths = slices.DeleteFunc(paths, func(path string) bool { return path == sysctls })
		paths = append(paths, hostSysctls...)
	}
	return append(paths, p.ReadonlyPaths...)
}

// addDevices lets the guest have its profile's devices and its render node. The nodes are the guest's own, so that it may change their
// modes.
func addDevices(spec *specs.Spec, g Guest) {
	devices := slices.Clone(g.Profile.Devices)
	if g.RenderNode != nil {
		devices = append(devices, profile.Device{Path: g.Boot.RenderNode, Major: g.RenderNode.Major, Minor: g.RenderNode.Minor, Mode: 0o666, Access: "rw"})
	}
	for _, d := range devices {
		if d.Path != "" {
			mode, root := os.FileMode(d.Mode), uint32(0)
			spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{
				Path: d.Path, Type: "c", Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &root, GID: &root,
			})
		}
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d.Major, Minor: &d.Minor, Access: d.Access})
	}
}

// addBinder lets the guest have its binder devices: the nodes of a triple, or a binderfs of its own, which is complete only when
// binder.Allocate has been in it.
func addBinder(spec *specs.Spec, dir string, grant binder.Grant, nice uint64) {
	if grant.Label() != "" && nice > 0 {
		// The driver gives a thread the nice value of whom it works for, and writes to the host's log, for every call, what a thread may
		// not have. To have it means nothing beyond the guest's own cgroup.
		spec.Process.Rlimits = append(spec.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NICE", Hard: nice, Soft: nice})
	}
	devices := &spec.Linux.Resources.Devices
	if i := grant.Instance; i != nil {
		spec.Mounts = append(spec.Mounts, specs.Mount{
			// Without the option stats=global, which would show all phones' transactions.
			Destination: dir, Type: "binder", Source: "binder", Options: []string{"nosuid", "noexec", fmt.Sprintf("max=%d", i.Max)},
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

// The size of a guest's /dev, and its number of files, where the profile does not say.
const (
	devBytes = 4 << 20
	devFiles = 4096
)

func guestMounts(g Guest) []specs.Mount {
	p := g.Profile
	bytes, files := p.DevBytes, p.DevFiles
	if bytes == 0 {
		bytes, files = devBytes, devFiles
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: append([]string{"nosuid", "noexec", "nodev"}, p.ProcOptions...)},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		// No device node that the guest makes here opens: the device cgroup allows the listed ones only.
		tmpfs("/dev", 0o755, bytes, files, "nosuid", "noexec"),
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", "max=256"}},
		tmpfs("/dev/shm", 0o1777, 64<<20, 16384, "nosuid", "noexec", "nodev"),
	}
	for _, t := range p.Tmpfs {
		m := tmpfs(t.Path, t.Mode, t.Bytes, t.Files, "nosuid", "nodev")
		if t.UID != 0 || t.GID != 0 {
			m.Options = append(m.Options, fmt.Sprintf("uid=%d", t.UID), fmt.Sprintf("gid=%d", t.GID))
		}
		mounts = append(mounts, m)
	}
	readonly := []string{"bind", "ro", "nosuid", "noexec", "nodev"}
	for _, f := range p.Files {
		mounts = append(mounts, specs.Mount{Destination: f.Path, Type: "bind", Source: path.Join(g.FilesDir, path.Base(f.Path)), Options: readonly})
	}
	if p.WaylandDir != "" {
		mounts = append(mounts, specs.Mount{Destination: p.WaylandDir, Type: "bind", Source: g.WaylandDir, Options: readonly})
	}
	// The quota of /data is the size of its disk. Blocks that are freed are given back to the host.
	return append(mounts, specs.Mount{Destination: "/data", Type: "ext4", Source: g.DataDevice, Options: []string{"nosuid", "nodev", "noatime", "discard"}})
}
