package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// android tries what root of an Android guest, with all that its profile gives, could do to the host. Files of the host are opened and
// never written.
func android() {
	if err := os.MkdirAll("/data/try", 0o755); err != nil {
		panic(err)
	}
	write("/proc/sysrq-trigger")
	sysctls("/proc/sys")
	write("/sys/kernel/mm/transparent_hugepage/enabled")
	create("/new")
	create("/system/new")
	write("/vendor/waydroid.prop")
	mounts()
	nodes()
	// What init does to files that are hidden by /dev/null must not be done to /dev/null.
	fmt.Println("chmod /proc/kmsg:", why(os.Chmod("/proc/kmsg", 0o440)))
	if info, err := os.Stat("/dev/null"); err == nil {
		fmt.Println("mode of /dev/null:", info.Mode().Perm())
	}
	limits()
	shutdown("/data")
	shutdown("/")
}

// create makes a file.
func create(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		f.Close()
	}
	fmt.Println("create", path, why(err))
}

// connect connects to a Unix socket.
func connect(path string) {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	fmt.Println("connect", path, why(err))
}

// see looks for a process.
func see(pid string) {
	_, err := os.Stat("/proc/" + pid)
	fmt.Println("see", pid, why(err))
}

// write opens a file that is there for writing.
func write(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		fmt.Println("write", path, why(err))
		return
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
		fmt.Println("write", path, "null")
		return
	}
	fmt.Println("write", path, "done")
}

// sysctls opens every value below dir for writing and prints the directories, right below it, of those that open.
func sysctls(dir string) {
	open := map[string]bool{}
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			f.Close()
			rest := strings.TrimPrefix(path, dir+"/")
			top, _, _ := strings.Cut(rest, "/")
			open[top] = true
		}
		return nil
	})
	fmt.Println("sysctls that can be written:", open)
}

// mounts tries each way to a file system that is not the guest's.
func mounts() {
	try := func(kind string, flags uintptr) (string, bool) {
		dir := "/data/try/" + kind
		_ = os.MkdirAll(dir, 0o755)
		err := unix.Mount(kind, dir, kind, flags, "")
		fmt.Println("mount", kind+":", why(err))
		return dir, err == nil
	}
	if dir, ok := try("proc", 0); ok {
		write(dir + "/sysrq-trigger")
		sysctls(dir + "/sys")
	}
	if dir, ok := try("sysfs", 0); ok {
		write(dir + "/kernel/mm/transparent_hugepage/enabled")
		fmt.Println("remount sysfs:", why(unix.Mount("", dir, "", unix.MS_REMOUNT, "")))
		fmt.Println("remount the mount of sysfs:", why(unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, "")))
		write(dir + "/kernel/mm/transparent_hugepage/enabled")
	}
	for _, kind := range []string{"debugfs", "tracefs", "securityfs", "pstore", "configfs", "bpf", "fusectl"} {
		try(kind, 0)
	}
	for _, kind := range []string{"tmpfs", "cgroup2", "binder"} {
		try(kind, unix.MS_NOSUID)
	}
	fmt.Println("mount binder where init does:", why(unix.Mount("binder", "/dev/binderfs", "binder", 0, "stats=global")))
	// What hides and what is read-only are mounts, which may be taken away, or gone round.
	fmt.Println("bind /proc:", why(unix.Mount("/proc", "/data/try/tmpfs", "", unix.MS_BIND, "")))
	write("/data/try/tmpfs/sysrq-trigger")
	write("/data/try/tmpfs/sys/kernel/core_pattern")
	fmt.Println("unmount what hides sysrq-trigger:", why(unix.Unmount("/proc/sysrq-trigger", unix.MNT_DETACH)))
	f, err := os.OpenFile("/proc/sysrq-trigger", os.O_WRONLY, 0)
	if err == nil {
		f.Close()
	}
	fmt.Println("write /proc/sysrq-trigger again:", why(err))
	fmt.Println("make the root writable:", why(unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "")))
	fmt.Println("make /proc/sys/kernel writable:", why(unix.Mount("", "/proc/sys/kernel", "", unix.MS_REMOUNT|unix.MS_BIND, "")))
	f, err = os.OpenFile("/new", os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		f.Close()
	}
	fmt.Println("create /new again:", why(err))
	writableClone("/")
	fmt.Println("a mount namespace:", why(unix.Unshare(unix.CLONE_NEWNS)))
	fmt.Println("a network namespace:", why(unix.Unshare(unix.CLONE_NEWNET)))
}

// writableClone takes a mount of its own of the file system of path that says nothing of read-only, and makes a file in it.
func writableClone(path string) {
	const (
		sysOpenTreeAttr = 467 // on amd64 and arm64
		clone           = 1   // OPEN_TREE_CLONE
	)
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		panic(err)
	}
	attributes := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	fd, _, errno := unix.Syscall6(sysOpenTreeAttr, uintptr(0xffffff9c), uintptr(unsafe.Pointer(name)), clone,
		uintptr(unsafe.Pointer(&attributes)), unsafe.Sizeof(attributes), 0)
	if errno != 0 {
		fmt.Println("create in a writable clone:", why(errno))
		return
	}
	defer unix.Close(int(fd))
	f, err := unix.Openat(int(fd), "new", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(f)
	}
	fmt.Println("create in a writable clone:", why(err))
}

// nodes tries to make devices.
func nodes() {
	mknod := func(name string, mode uint32, major, minor uint32) {
		err := unix.Mknod("/dev/"+name, mode, int(unix.Mkdev(major, minor)))
		fmt.Println("make", name+":", why(err))
		if err == nil {
			f, err := os.Open("/dev/" + name)
			fmt.Println("open", name+":", why(err))
			if err == nil {
				f.Close()
			}
		}
	}
	mknod("disk", unix.S_IFBLK|0o600, 254, 0)
	mknod("mem", unix.S_IFCHR|0o600, 1, 1)
	// As first_stage_init does, and takes any failure for the end.
	for name, minor := range map[string]uint32{"kmsg": 11, "random": 8, "urandom": 9} {
		if err := unix.Mknod("/dev/"+name, unix.S_IFCHR|0o600, int(unix.Mkdev(1, minor))); err != nil {
			fmt.Println("make", name, "as init does:", why(err))
		}
	}
	link, err := os.Readlink("/dev/kmsg")
	if err != nil {
		link = why(err)
	}
	fmt.Println("link of /dev/kmsg:", link)
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		fmt.Println("open /dev/kmsg:", why(err))
		return
	}
	defer kmsg.Close()
	if _, err := kmsg.WriteString("<6>probe: said to the kernel\n"); err != nil {
		fmt.Println("write to /dev/kmsg:", why(err))
	}
}

// limits tries to raise what bounds the guest.
func limits() {
	err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
	var core unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_CORE, &core)
	if err != nil {
		core.Cur = 1
	}
	fmt.Println("raise the limit of cores:", core.Cur)
	param := struct{ priority int32 }{1}
	_, _, errno := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&param)))
	report("real-time scheduling:", errno)
}

// shutdown is FS_IOC_SHUTDOWN, with what is no valid flag should it come through.
func shutdown(path string) {
	f, err := os.Open(path)
	if err != nil {
		fmt.Println("open", path, why(err))
		return
	}
	defer f.Close()
	flag := uint32(99)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&flag)))
	report("shut the file system of "+path+" down:", errno)
}
