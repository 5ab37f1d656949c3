// Command probe tries, inside a container, what a hostile guest would, and prints a line for each try: its name and what it met.
// Every try is harmless if it is not refused: its arguments are invalid, or it asks for nothing.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		calls()
		return
	}
	switch os.Args[1] {
	case "files":
		files()
	case "android":
		android()
	case "connect":
		connect(os.Args[2])
	case "see":
		see(os.Args[2])
	case "size":
		size()
	case "eat":
		eat()
	case "fill":
		fillAll(os.Args[2:])
	}
}

// eat takes memory until it is killed.
func eat() {
	var all [][]byte
	for range 1 << 20 {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		all = append(all, block)
	}
	fmt.Println(len(all))
}

// size prints the size of the terminal, now and whenever it changes, until a line comes.
func size() {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	line := make(chan struct{})
	go func() {
		os.Stdin.Read(make([]byte, 1))
		close(line)
	}()
	for {
		ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("size", ws.Row, ws.Col)
		select {
		case <-changed:
		case <-line:
			os.Exit(3)
		}
	}
}

// call prints the error of one system call.
func call(name string, number uintptr, args ...uintptr) {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	report(name, errno)
}

func report(name string, errno syscall.Errno) {
	word := "done"
	if errno != 0 {
		word = unix.ErrnoName(errno)
	}
	fmt.Println(name, word)
}

// high puts something above the 32 bits that the kernel reads of an argument.
func high(v uint32) uintptr {
	shift := (unsafe.Sizeof(uintptr(0)) - 4) * 8 // 0 on 32 bits, where there is nothing above
	return uintptr(v) | uintptr(shift/32)<<shift
}

func text(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	return uintptr(unsafe.Pointer(p))
}

func calls() {
	zeros := make([]byte, 256)
	buf := uintptr(unsafe.Pointer(&zeros[0]))
	none := ^uintptr(0)
	call("bpf-prog-get-next-id", unix.SYS_BPF, unix.BPF_PROG_GET_NEXT_ID, buf, 128)
	call("bpf-prog-get-next-id-high", unix.SYS_BPF, high(unix.BPF_PROG_GET_NEXT_ID), buf, 128)
	call("bpf-link-detach", unix.SYS_BPF, unix.BPF_LINK_DETACH, buf, 128)
	call("bpf-link-update", unix.SYS_BPF, unix.BPF_LINK_UPDATE, buf, 128)
	call("bpf-prog-detach", unix.SYS_BPF, unix.BPF_PROG_DETACH, buf, 128)
	call("bpf-raw-tracepoint-open", unix.SYS_BPF, unix.BPF_RAW_TRACEPOINT_OPEN, buf, 128)
	call("bpf-link-create", unix.SYS_BPF, unix.BPF_LINK_CREATE, buf, 128)
	call("bpf-map-create", unix.SYS_BPF, unix.BPF_MAP_CREATE, buf, 128)
	call("kexec-load", unix.SYS_KEXEC_LOAD, 0, none, buf, 0)
	call("init-module", unix.SYS_INIT_MODULE, 0, 0, text(""))
	call("finit-module", unix.SYS_FINIT_MODULE, none, text(""), 0)
	call("delete-module", unix.SYS_DELETE_MODULE, text("no_such_module"), unix.O_NONBLOCK)
	call("open-by-handle-at", unix.SYS_OPEN_BY_HANDLE_AT, none, buf, 0)
	// On a pipe: no file system is near.
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		panic(err)
	}
	call("ioctl-shutdown", unix.SYS_IOCTL, uintptr(pipe[0]), 0x8004587d, buf)
	call("ioctl-shutdown-high", unix.SYS_IOCTL, uintptr(pipe[0]), high(0x8004587d), buf)
	call("ioctl-other", unix.SYS_IOCTL, uintptr(pipe[0]), 0x8004587e, buf)
	call("keyctl", unix.SYS_KEYCTL, none, 0, 0, 0, 0)
	call("add-key", unix.SYS_ADD_KEY, 0, 0, 0, 0, 0)
	call("request-key", unix.SYS_REQUEST_KEY, 0, 0, 0, 0)
	call("unshare-user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER|0x1) // 0x1 is no flag: invalid by itself
	call("clone-user", unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_FS|unix.CLONE_THREAD, 0, 0, 0, 0)
	call("clone3", unix.SYS_CLONE3, buf, 1)
	call("io-uring-setup", unix.SYS_IO_URING_SETUP, 0, 0)
	call("perf-event-open", unix.SYS_PERF_EVENT_OPEN, 0, none, none, none, none)
	call("swapon", unix.SYS_SWAPON, text("/nowhere"), 0)
	call("acct", unix.SYS_ACCT, text("/nowhere"))
	call("syslog", unix.SYS_SYSLOG, 99, 0, 0)
	call("clock-settime", unix.SYS_CLOCK_SETTIME, 999, buf)
	call("getpid", unix.SYS_GETPID)
	adminCalls(buf, uintptr(pipe[0]))
}

// adminCalls are those that only guests with CAP_SYS_ADMIN, and so with a stricter filter, could do something with.
func adminCalls(buf, pipe uintptr) {
	none, nowhere, empty := ^uintptr(0), text("/nowhere"), text("")
	mount := func(name string, flags uintptr) { call(name, unix.SYS_MOUNT, nowhere, nowhere, text("none"), flags, 0) }
	mount("mount-new", 0)
	mount("mount-bind", unix.MS_BIND)
	mount("mount-move", unix.MS_MOVE)
	mount("mount-remount", unix.MS_REMOUNT)
	mount("mount-remount-ro", unix.MS_REMOUNT|unix.MS_RDONLY)
	mount("mount-remount-bind-rw", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NODEV)
	mount("mount-remount-bind-ro", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY)
	call("fsopen", unix.SYS_FSOPEN, nowhere, 0)
	call("move-mount", unix.SYS_MOVE_MOUNT, none, empty, none, empty, 0)
	call("open-tree", unix.SYS_OPEN_TREE, none, nowhere, none)
	call("mount-setattr", unix.SYS_MOUNT_SETATTR, none, nowhere, 0, buf, 0)
	call("pivot-root", unix.SYS_PIVOT_ROOT, nowhere, nowhere)
	call("unshare-net", unix.SYS_UNSHARE, unix.CLONE_NEWNET|0x1)
	call("clone-net", unix.SYS_CLONE, unix.CLONE_NEWNET|unix.CLONE_THREAD, 0, 0, 0, 0)
	call("ioctl-freeze", unix.SYS_IOCTL, pipe, 0xc0045877, 0)
	call("ioctl-thaw", unix.SYS_IOCTL, pipe, uintptr(high(0xc0045878)), 0)
	call("sched-fifo", unix.SYS_SCHED_SETSCHEDULER, none, unix.SCHED_FIFO, buf)
	call("sched-rr", unix.SYS_SCHED_SETSCHEDULER, none, unix.SCHED_RR|unix.SCHED_RESET_ON_FORK, buf)
	call("sched-batch", unix.SYS_SCHED_SETSCHEDULER, none, unix.SCHED_BATCH, buf)
	call("sched-setattr", unix.SYS_SCHED_SETATTR, none, buf, 0)
	call("ioprio-realtime", unix.SYS_IOPRIO_SET, 99, 0, 1<<13|4)
	call("ioprio-idle", unix.SYS_IOPRIO_SET, 99, 0, 3<<13)
	call("adjtimex", unix.SYS_ADJTIMEX, 0)
	call("prlimit-core", unix.SYS_PRLIMIT64, none, unix.RLIMIT_CORE, buf, 0)
	call("prlimit-read-core", unix.SYS_PRLIMIT64, none, unix.RLIMIT_CORE, 0, buf)
	call("prlimit-files", unix.SYS_PRLIMIT64, none, unix.RLIMIT_NOFILE, buf, 0)
	call("mknod-kmsg", unix.SYS_MKNODAT, none, text("x"), unix.S_IFCHR|0o600, uintptr(unix.Mkdev(1, 11)))
	call("mknod-ram", unix.SYS_MKNODAT, none, text("x"), unix.S_IFBLK|0o600, uintptr(unix.Mkdev(1, 11)))
	call("mknod-null", unix.SYS_MKNODAT, none, text("x"), unix.S_IFCHR|0o600, uintptr(unix.Mkdev(1, 3)))
}

// files tries to write and to open what is not the guest's.
func files() {
	for _, path := range []string{
		"/proc/sys/kernel/pid_max", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/proc/kcore",
		"/proc/irq/default_smp_affinity", "/sys/kernel/mm/transparent_hugepage/enabled", "/system/build.prop", "/new", "/run/wayland/new",
	} {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			var st unix.Stat_t
			if unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
				fmt.Println("write", path, "null") // masked: it is /dev/null
				continue
			}
			fmt.Println("write", path, "done")
			continue
		}
		fmt.Println("write", path, why(err))
	}
	entries, err := os.ReadDir("/sys/firmware")
	fmt.Println("list /sys/firmware", len(entries), err)
	// A node of the host's disk, in the only place that takes nodes.
	err = unix.Mknod("/dev/disk", unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0)))
	if err == nil {
		_, err = os.Open("/dev/disk")
	}
	fmt.Println("open the host's disk:", why(err))
	_, err = os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	fmt.Println("open /dev/kmsg:", why(err))
	err = unix.Mount("proc", "/tmp", "proc", 0, "")
	fmt.Println("mount proc:", why(err))
	err = unix.Sethostname([]byte("other"))
	fmt.Println("set the host's name:", why(err))
	_, err = exec.Command("/proc/self/exe-gone").Output()
	fmt.Println("run nothing:", why(err))
	fill("/tmp/fill", 64<<20)
	fill("/dev/fill", 64<<20)
	fill("/data/fill", 1<<30)
}

// fill writes until it is refused.
func fill(path string, limit int) {
	f, err := os.Create(path)
	if err != nil {
		fmt.Println("fill", path, why(err))
		return
	}
	defer os.Remove(path)
	defer f.Close()
	block := make([]byte, 1<<20)
	for written := 0; written < limit; written += len(block) {
		if _, err := f.Write(block); err != nil {
			fmt.Println("fill", path, why(err))
			return
		}
	}
	fmt.Println("fill", path, "done")
}

func why(err error) string {
	if err == nil {
		return "done"
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return fmt.Sprint(err)
}
