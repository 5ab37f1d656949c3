package ocispec

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/phonehost/phonehost/runtime/seccomp"
)

// Display is what a display's spec is built from.
type Display struct {
	// Group is the phone's id.
	Group string
	Arch  string // GOARCH of the host
	// UID is the user and group on the host; nobody else has it.
	UID uint32
	// Root, WaylandDir, ControlDir and CgroupsPath are paths on the host: the root directory with the program and its libraries,
	// the two directories for sockets, and the cgroup below its hierarchies.
	Root, WaylandDir, ControlDir, CgroupsPath string
	// Args are the program and its arguments, Env the environment.
	Args, Env []string
	// Devices are the encoder's device nodes.
	Devices []Device
	Limits  Limits
}

// Device is a device node of the host that a container gets.
type Device struct {
	Path         string
	Block        bool
	Major, Minor int64
}

// Where a display finds its two socket directories.
const (
	DisplayWaylandDir = "/wayland"
	DisplayControlDir = "/control"
)

// BuildDisplay returns the spec of a display: no capability, a user of its own, nothing to write but its two directories, no network.
func BuildDisplay(d Display) (*specs.Spec, error) {
	filter, err := seccomp.Display(d.Arch)
	if err != nil {
		return nil, err
	}
	spec := base(d.CgroupsPath, d.Limits)
	spec.Annotations = map[string]string{GroupAnnotation: d.Group}
	spec.Hostname = "display"
	spec.Root = &specs.Root{Path: d.Root, Readonly: true}
	spec.Process.User = specs.User{UID: d.UID, GID: d.UID}
	spec.Process.Args, spec.Process.Env = d.Args, d.Env
	spec.Process.Capabilities = &specs.LinuxCapabilities{}
	sockets := []string{"bind", "rw", "nosuid", "noexec", "nodev"}
	spec.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		tmpfs("/dev", 0o755, 64<<10, 64, "nosuid", "noexec", "ro"), // once its nodes are made
		{Destination: DisplayWaylandDir, Type: "bind", Source: d.WaylandDir, Options: sockets},
		{Destination: DisplayControlDir, Type: "bind", Source: d.ControlDir, Options: sockets},
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	spec.Linux.Seccomp = filter
	spec.Linux.MaskedPaths = displayMasked()
	spec.Linux.ReadonlyPaths = slices.Clone(readonlyPaths)
	for _, dev := range d.Devices {
		kind := "c"
		if dev.Block {
			kind = "b"
		}
		spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{Path: dev.Path, Type: kind, Major: dev.Major, Minor: dev.Minor, UID: &d.UID, GID: &d.UID})
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &dev.Major, Minor: &dev.Minor, Access: "rw"})
	}
	return spec, nil
}

// displayMasked is what is hidden from a guest, without what lies in /sys: a display has none.
func displayMasked() []string {
	var paths []string
	for _, p := range guestMasked {
		if strings.HasPrefix(p, "/proc/") {
			paths = append(paths, p)
		}
	}
	return paths
}
