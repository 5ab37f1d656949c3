package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// serviceCalls are what a service of the host calls besides what a display does: sockets of the network, and changes of files.
var serviceCalls = []string{"connect", "recvmmsg", "sendmmsg", "inotify_init1", "inotify_add_watch", "inotify_rm_watch"}

// Service returns the filter of one of the host's own services on the architecture arch: a Go program that speaks TCP and UDP and uses
// the named commands of bpf(2). What it does not allow fails with ENOSYS.
func Service(arch string, bpf []uint32) (*specs.LinuxSeccomp, error) {
	filter, err := Display(arch)
	if err != nil {
		return nil, err
	}
	filter.Syscalls = append(filter.Syscalls,
		allow(nil, serviceCalls...),
		allow(equal32(0, unix.AF_INET), "socket"),
		allow(equal32(0, unix.AF_INET6), "socket"),
	)
	for _, command := range bpf {
		filter.Syscalls = append(filter.Syscalls, allow(equal32(0, command), "bpf"))
	}
	return filter, nil
}
