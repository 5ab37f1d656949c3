package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// GuestOptions loosen the guest's filter for a profile.
type GuestOptions struct {
	// BPF lets the guest use bpf(2) for objects of its own. Commands that reach objects by id, or detach or replace what somebody
	// attached, are refused all the same. Without BPF every command is refused.
	BPF bool
}

// refused are the calls that no guest may make, whatever its capabilities. They fail with EPERM.
var refused = []string{
	// Kernel code and kernel images.
	"create_module", "delete_module", "finit_module", "init_module", "query_module", "get_kernel_syms",
	"kexec_file_load", "kexec_load",
	// Files by handle reach the whole host file system that a path lies on.
	"open_by_handle_at",
	// Keyrings are not kept apart by namespaces.
	"add_key", "keyctl", "request_key",
	// The host's clock, swap, accounting, ports and log.
	"clock_settime", "clock_settime64", "settimeofday", "stime",
	"swapon", "swapoff", "acct", "ioperm", "iopl", "syslog", "quotactl", "quotactl_fd", "fanotify_init",
	// Large or old parts of the kernel that no guest needs.
	"io_uring_enter", "io_uring_register", "io_uring_setup", "perf_event_open", "lookup_dcookie", "nfsservctl", "_sysctl", "sysfs",
	"uselib", "ustat", "vm86", "vm86old",
}

// bpfCommands reach beyond the caller's own objects (include/uapi/linux/bpf.h).
var bpfCommands = []uint32{
	unix.BPF_PROG_DETACH, unix.BPF_PROG_GET_NEXT_ID, unix.BPF_MAP_GET_NEXT_ID, unix.BPF_PROG_GET_FD_BY_ID,
	unix.BPF_MAP_GET_FD_BY_ID, unix.BPF_PROG_QUERY, unix.BPF_BTF_GET_FD_BY_ID, unix.BPF_TASK_FD_QUERY, unix.BPF_BTF_GET_NEXT_ID,
	unix.BPF_LINK_UPDATE, unix.BPF_LINK_GET_FD_BY_ID, unix.BPF_LINK_GET_NEXT_ID, unix.BPF_LINK_DETACH,
}

// fsIOCShutdown is FS_IOC_SHUTDOWN, the same number in 32-bit and 64-bit programs and for ext4, f2fs and xfs.
const fsIOCShutdown = 0x8004587d

// Guest returns the filter of a guest on the architecture arch, as GOARCH names it; errdefs.ErrNotImplemented for another than
// amd64 and arm64.
func Guest(arch string, o GuestOptions) (*specs.LinuxSeccomp, error) {
	arches, err := architectures(arch)
	if err != nil {
		return nil, err
	}
	rules := []specs.LinuxSyscall{
		refuse(unix.EPERM, nil, refused...),
		refuse(unix.EPERM, equal32(1, fsIOCShutdown), "ioctl"),
		// A process in a user namespace of its own has every capability there.
		refuse(unix.EPERM, bits(0, unix.CLONE_NEWUSER), "clone", "unshare"),
		// The flags of clone3 lie in memory, where a filter cannot look; callers fall back to clone.
		refuse(unix.ENOSYS, nil, "clone3"),
	}
	if o.BPF {
		for _, command := range bpfCommands {
			rules = append(rules, refuse(unix.EPERM, equal32(0, command), "bpf"))
		}
	} else {
		rules = append(rules, refuse(unix.EPERM, nil, "bpf"))
	}
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: arches, Syscalls: rules}, nil
}
