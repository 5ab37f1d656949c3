package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// displayCalls are what phone-display calls: the Go runtime, the C library and its threads, the encoder, and Unix sockets that pass
// descriptors. It opens files (its libraries, an encoder's device nodes) but starts no program, makes no user or network
// namespace, and traces nobody.
var displayCalls = []string{
	// Memory.
	"brk", "madvise", "membarrier", "memfd_create", "mincore", "mlock", "mmap", "mmap2", "mprotect", "mremap", "msync", "munlock", "munmap",
	"get_mempolicy", "pkey_alloc", "pkey_mprotect",
	// Threads, signals and time.
	"arch_prctl", "clock_getres", "clock_gettime", "clock_nanosleep", "exit", "exit_group", "futex", "get_robust_list", "getitimer",
	"getpid", "getppid", "gettid", "gettimeofday", "nanosleep", "prctl", "prlimit64", "getrlimit", "ugetrlimit", "getrusage", "restart_syscall", "rseq",
	"rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "sched_get_priority_max",
	"sched_get_priority_min", "sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_setaffinity", "sched_yield",
	"set_robust_list", "set_thread_area", "set_tid_address", "setitimer", "sigaltstack", "sigreturn", "tgkill", "time",
	"timer_create", "timer_delete", "timer_settime", "timerfd_create", "timerfd_settime", "times", "getcpu",
	// Who and where it is.
	"capget", "getegid", "geteuid", "getgid", "getgroups", "getresgid", "getresuid", "getuid", "sysinfo", "uname", "getrandom", "getcwd",
	// Files.
	"access", "close", "close_range", "dup", "dup2", "dup3", "faccessat", "faccessat2", "fallocate", "fchmod", "fchmodat", "fcntl", "fcntl64",
	"fdatasync", "flock", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "getdents64",
	"ioctl", "lseek", "_llseek", "lstat", "lstat64", "mkdirat", "newfstatat", "open", "openat", "openat2", "pipe2", "pread64", "preadv", "preadv2",
	"pwrite64", "read", "readlink", "readlinkat", "readv", "rename", "renameat", "renameat2", "stat", "stat64", "statfs", "statfs64",
	"statx", "umask", "unlink", "unlinkat", "write", "writev", "chmod",
	// Waiting.
	"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2", "poll", "ppoll", "pselect6", "_newselect",
	// Sockets; which kinds can be made is limited below.
	"accept", "accept4", "bind", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmsg", "sendmsg", "sendto",
	"setsockopt", "shutdown",
	// The runtime loads the filter just before it executes the program.
	"execve",
}

// namespaces are the flags of clone that make namespaces.
const namespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS

// Display returns the filter of a display on the architecture arch, as GOARCH names it. What it does not allow fails with ENOSYS,
// so that libraries fall back to what they did before a call existed.
func Display(arch string) (*specs.LinuxSeccomp, error) {
	arches, err := architectures(arch)
	if err != nil {
		return nil, err
	}
	enosys := uint(unix.ENOSYS)
	return &specs.LinuxSeccomp{
		DefaultAction:   specs.ActErrno,
		DefaultErrnoRet: &enosys,
		Architectures:   arches[:1],
		Syscalls: []specs.LinuxSyscall{
			allow(nil, displayCalls...),
			allow(equal32(0, unix.AF_UNIX), "socket", "socketpair"),
			allow(noBits(0, namespaces), "clone"),
		},
	}, nil
}
