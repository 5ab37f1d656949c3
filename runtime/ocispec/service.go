package ocispec

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/phonehost/phonehost/runtime/seccomp"
)

// Service is what the spec of one of the host's own services is built from.
type Service struct {
	Name string
	Arch string // GOARCH of the host
	// UID is the user and group on the host; nobody else has it.
	UID uint32
	// Root and CgroupsPath are paths on the host: the root directory with the program, and the cgroup below its hierarchies.
	Root, CgroupsPath string
	// Args are the program and its arguments, Env the environment.
	Args, Env []string
	// Capabilities are those that the program has, "CAP_NET_BIND_SERVICE".
	Capabilities []string
	// BPF are the commands of bpf(2) that it may use.
	BPF []uint32
	// Binds are what it sees of the host's directories.
	Binds  []Bind
	Limits Limits
}

// Bind is a directory of the host that a service sees.
type Bind struct {
	// Source is the path on the host, Destination that in the container.
	Source, Destination string
	// Writable lets the service write there, as far as the file modes let its user.
	Writable bool
}

// ServiceBindDir is the directory of a service's container that is made for its binds: its root has none for each.
const ServiceBindDir = "/mnt"

// BuildService returns the spec of a service: a user of its own with the named capabilities and no way to more, nothing to write but what
// is said, and the network of the host.
func BuildService(s Service) (*specs.Spec, error) {
	filter, err := seccomp.Service(s.Arch, s.BPF)
	if err != nil {
		return nil, err
	}
	spec := base(s.CgroupsPath, s.Limits)
	spec.Hostname = s.Name
	spec.Root = &specs.Root{Path: s.Root, Readonly: true}
	spec.Process.User = specs.User{UID: s.UID, GID: s.UID}
	spec.Process.Args, spec.Process.Env = s.Args, s.Env
	caps := slices.Clone(s.Capabilities)
	// Ambient ones are what a user other than root keeps when the program is executed.
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Inheritable: caps, Effective: caps, Ambient: caps}
	spec.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		tmpfs("/dev", 0o755, 64<<10, 64, "nosuid", "noexec", "ro"),            // once its nodes are made
		tmpfs(ServiceBindDir, 0o755, 64<<10, 64, "nosuid", "noexec", "nodev"), // root's
	}
	for _, b := range s.Binds {
		access := "ro"
		if b.Writable {
			access = "rw"
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: b.Destination, Type: "bind", Source: b.Source, Options: []string{"bind", access, "nosuid", "noexec", "nodev"},
		})
	}
	spec.Linux.Seccomp = filter
	spec.Linux.MaskedPaths = displayMasked()
	spec.Linux.ReadonlyPaths = slices.Clone(readonlyPaths)
	return spec, nil
}
