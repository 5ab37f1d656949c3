package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Android's init, zygote and vold mount, bind and unshare all the time, so its guests have CAP_SYS_ADMIN in the host's user
// namespace, and mount(2) is open to them. A filter sees the flags of a mount and neither its type nor its paths: what is decided
// here is what the flags tell. What they do not tell, above all that a guest mounts a procfs of its own, is package guard's.

// pretended answer success and do nothing, as Waydroid's own filter has it (data/configs/waydroid.seccomp): Android does not
// expect them to fail, and none of them is a container's to make. The first three are those of keyrings, then swap, then the clock.
var pretended = []string{
	"add_key", "keyctl", "request_key",
	"swapon", "swapoff",
	"adjtimex", "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "settimeofday", "stime",
}

// mountAPI is the way to mount by descriptors, which Android does not use: its calls would go past the rules for mount(2), and past
// what older kernels let security modules see. ENOSYS is what a kernel without them says.
var mountAPI = []string{
	"fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree", "open_tree_attr", "mount_setattr",
}

// ioctls that freeze and thaw a whole file system: processes that write to a frozen one cannot be killed.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// Of an I/O priority, the bits of its class, and the real-time class (include/uapi/linux/ioprio.h).
const (
	ioprioClass    = 0xe000
	ioprioRealTime = 1 << 13
)

// androidNodes are the devices that first_stage_init makes in /dev. runc has made them before, and init takes a node that is there
// for a fatal error (Waydroid's images, of /dev/kmsg, random and urandom): so it is told that it made them.
var androidNodes = []uint64{
	unix.Mkdev(1, 11), // kmsg, which leads to the guest's log here
	unix.Mkdev(1, 8),  // random
	unix.Mkdev(1, 9),  // urandom
}

// androidRules are the rules for guests of Android's own init.
func androidRules() []specs.LinuxSyscall {
	rules := []specs.LinuxSyscall{
		pretend(nil, pretended...),
		refuse(unix.ENOSYS, nil, mountAPI...),
		refuse(unix.EPERM, nil, "pivot_root"),

		// Mounts are not moved away from over what they hide.
		refuse(unix.EPERM, bits(3, unix.MS_MOVE), "mount"),
		// A remount of a whole file system changes its superblock: the one of /sys, which is read-only, is the guest's only one, since
		// it cannot have another network namespace.
		refuse(unix.EPERM, masked(3, unix.MS_REMOUNT|unix.MS_BIND, unix.MS_REMOUNT), "mount"),
		refuse(unix.EPERM, bits(0, unix.CLONE_NEWNET), "clone", "unshare"),
		// A remount of a mount that does not say read-only makes it writable: the image's root, whose writes nothing bounds, or /proc/sys.
		refuse(unix.EPERM, masked(3, unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, unix.MS_REMOUNT|unix.MS_BIND), "mount"),

		refuse(unix.EPERM, equal32(1, fiFreeze), "ioctl"),
		refuse(unix.EPERM, equal32(1, fiThaw), "ioctl"),

		// The quota of CPU time does not hold for real-time threads, nor does the weight of block I/O for its real-time class.
		refuse(unix.EPERM, masked(1, 0xffffffff&^unix.SCHED_RESET_ON_FORK, unix.SCHED_FIFO), "sched_setscheduler"),
		refuse(unix.EPERM, masked(1, 0xffffffff&^unix.SCHED_RESET_ON_FORK, unix.SCHED_RR), "sched_setscheduler"),
		refuse(unix.EPERM, nil, "sched_setattr"),
		refuse(unix.EPERM, masked(2, ioprioClass, ioprioRealTime), "ioprio_set"),

		// The host's core_pattern gets no cores of guests: CAP_SYS_RESOURCE would raise the limit. A service of init with a line "rlimit
		// core" is not started where that fails.
		pretend(equal32(0, unix.RLIMIT_CORE), "setrlimit"),
		pretend(append(equal32(1, unix.RLIMIT_CORE), specs.LinuxSeccompArg{Index: 2, Value: 0, Op: specs.OpNotEqual}), "prlimit64"),
	}
	for _, node := range androidNodes {
		rules = append(rules,
			pretend(append(masked(1, unix.S_IFMT, unix.S_IFCHR), equal32(2, uint32(node))...), "mknod"),
			pretend(append(masked(2, unix.S_IFMT, unix.S_IFCHR), equal32(3, uint32(node))...), "mknodat"),
		)
	}
	return rules
}

// pretend makes the named calls answer success without being made, if the condition holds.
func pretend(condition []specs.LinuxSeccompArg, names ...string) specs.LinuxSyscall {
	return refuse(0, condition, names...)
}
