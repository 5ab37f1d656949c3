package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// GuestOptions fit the guest's filter to a profile.
type GuestOptions struct {
	// BPF lets the guest use bpf(2) for objects of its own. Commands that reach objects by id, detach or replace what somebody
	// attached, or attach to what the whole kernel does, are refused all the same. Without BPF every command is refused. A guest that
	// has CAP_SYS_ADMIN besides can have its programs read the kernel's memory.
	BPF bool
	// Android is for guests that run Android's own init, which has CAP_SYS_ADMIN: see android.go.
	Android bool
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

// ForeignBPF are the commands of bpf(2) that reach beyond the caller's own objects (include/uapi/linux/bpf.h). It is not to be changed.
var ForeignBPF = []uint32{
	unix.BPF_PROG_DETACH, unix.BPF_PROG_GET_NEXT_ID, unix.BPF_MAP_GET_NEXT_ID, unix.BPF_PROG_GET_FD_BY_ID,
	unix.BPF_MAP_GET_FD_BY_ID, unix.BPF_PROG_QUERY, unix.BPF_BTF_GET_FD_BY_ID, unix.BPF_TASK_FD_QUERY, unix.BPF_BTF_GET_NEXT_ID,
	unix.BPF_LINK_UPDATE, unix.BPF_LINK_GET_FD_BY_ID, unix.BPF_LINK_GET_NEXT_ID, unix.BPF_LINK_DETACH,
	// Links and raw tracepoints attach programs to tracing and to security hooks, which see every process of the host.
	unix.BPF_RAW_TRACEPOINT_OPEN, unix.BPF_LINK_CREATE, unix.BPF_ITER_CREATE, unix.BPF_ENABLE_STATS,
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
	calls := refused
	if o.Android {
		// libseccomp takes one rule without a condition for a call.
		calls = slices.DeleteFunc(slices.Clone(refused), func(call string) bool { return slices.Contains(pretended, call) })
	}
	rules := []specs.LinuxSyscall{
		refuse(unix.EPERM, nil, calls...),
		refuse(unix.EPERM, equal32(1, fsIOCShutdown), "ioctl"),
		// A process in a user namespace of its own has every capability there.
		refuse(unix.EPERM, bits(0, unix.CLONE_NEWUSER), "clone", "unshare"),
		// The flags of clone3 lie in memory, where a filter cannot look; callers fall back to clone.
		refuse(unix.ENOSYS, nil, "clone3"),
	}
	if o.BPF {
		for _, command := range ForeignBPF {
			rules = append(rules, refuse(unix.EPERM, equal32(0, command), "bpf"))
		}
	} else {
		rules = append(rules, refuse(unix.EPERM, nil, "bpf"))
	}
	if o.Android {
		rules = append(rules, androidRules()...)
	}
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: arches, Syscalls: rules}, nil
}
