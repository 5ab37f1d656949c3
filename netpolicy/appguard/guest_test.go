package appguard_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// killed is what a process met that was killed, word for an errno otherwise, or "done".
const killed = "SIGKILL"

// guest runs this program as a process of a phone, which does the steps one after another, and returns what each met: the last is SIGKILL
// when the process was killed there.
func (p phone) guest(t testing.TB, steps ...string) []string {
	t.Helper()
	return runIn(t, p.below, steps...)
}

// runIn is guest in any cgroup.
func runIn(t testing.TB, cgroup string, steps ...string) []string {
	t.Helper()
	var out, complaint bytes.Buffer
	cmd := guestCommand(t, cgroup, steps...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	met := strings.Fields(out.String())
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return append(met, killed)
	}
	if err != nil {
		t.Fatalf("a process of the phone: %v: %s", err, complaint.String())
	}
	return met
}

// guestCommand prepares a process in a cgroup.
func guestCommand(t testing.TB, cgroup string, steps ...string) *exec.Cmd {
	t.Helper()
	f, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", append([]string{argGuest}, steps...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	return cmd
}

// word is what an error is called.
func word(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	}
	return strings.ReplaceAll(err.Error(), " ", "_")
}

// guestMain does steps, "NAME ARG...", and prints what each met.
func guestMain(steps []string) int {
	runtime.LockOSThread() // uids are a thread's
	for _, step := range steps {
		words := strings.Fields(step)
		do, found := guestSteps()[words[0]]
		if !found {
			fmt.Fprintf(os.Stderr, "no step is called %q\n", words[0])
			return 2
		}
		fmt.Println(word(do(words[1:])))
	}
	return 0
}

// guestSteps are what a process of a phone can do.
func guestSteps() map[string]func(args []string) error {
	return map[string]func(args []string) error{
		"setresuid": func(a []string) error { return syscallNumbers(unix.SYS_SETRESUID, a) },
		"setreuid":  func(a []string) error { return syscallNumbers(unix.SYS_SETREUID, a) },
		"setuid":    func(a []string) error { return syscallNumbers(unix.SYS_SETUID, a) },
		"setfsuid":  setfsuid,
		"thread":    inThread,
		"exec":      func(a []string) error { return exec.Command(a[0], argGuest, strings.Join(a[1:], " ")).Run() },
		"is":        is,
		"mapped":    func(a []string) error { return mapped(a) },
		"rename":    func(a []string) error { return rename(a, 0) },
		"exchange":  func(a []string) error { return rename(a, unix.RENAME_EXCHANGE) },
		"noreplace": func(a []string) error { return rename(a, unix.RENAME_NOREPLACE) },
		"mkdir":     func(a []string) error { return unix.Mkdir(name(a[0]), 0o755) },
		"chroot":    func(a []string) error { return unix.Chroot(a[0]) },
		"bind":      bind,
		"connect":   connectStep,
		"send":      sendStep,
		"ping":      pingStep,
		"raw":       rawStep,
		"owned":     ownedStep,
		"given":     givenStep,
		"packet":    packetStep,
		"unix":      unixStep,
		"deeper":    deeperStep,
		"often":     oftenStep,
		"times":     timesStep,
		"storm":     stormStep,
		"talk":      talkStep,
		"hear":      hearStep,
		"wait":      waitStep,
		"breed":     breed,
		"cost":      costStep,
		"flood":     floodStep,
		"acting":    actingStep,
		"zygote":    zygoteStep,
		"pool":      poolStep,
		"forked":    forkedStep,
		"unshared":  unsharedStep,
		"whiteout":  func(a []string) error { return rename(a, unix.RENAME_WHITEOUT) },
		"symlink":   func(a []string) error { return unix.Symlink(a[0], name(a[1])) },
		"link":      func(a []string) error { return unix.Link(a[0], name(a[1])) },
		"tmpfile":   tmpfileStep,
		"chdir":     func(a []string) error { return unix.Chdir(a[0]) },
		"handle":    handleStep,
		"cover":     coverStep,
		"overlay":   overlayStep,
		"uring":     uringStep,
	}
}

func syscallNumbers(trap uintptr, args []string) error {
	var n [3]uintptr
	for i, arg := range args {
		v, err := strconv.ParseInt(arg, 10, 64)
		if err != nil {
			return err
		}
		n[i] = uintptr(v)
	}
	if _, _, errno := unix.RawSyscall(trap, n[0], n[1], n[2]); errno != 0 {
		return errno
	}
	return nil
}

// setfsuid says by what the next call returns whether it changed anything.
func setfsuid(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0) // returns the former one, always
	now, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0)
	if int(now) != uid {
		return unix.EPERM
	}
	return nil
}

// inThread does a step in another thread than the main one.
func inThread(args []string) error {
	met := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		met <- guestSteps()[args[0]](args[1:])
	}()
	return <-met
}

// mapped makes a process in a new user namespace, in which it is root and uid 5 is what is given outside, and has it become that.
func mapped(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", argGuest, "setresuid 5 5 5")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: 5, HostID: uid, Size: 1}},
	}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return errors.New(killed)
	}
	if err != nil {
		return err
	}
	if met := strings.TrimSpace(string(out)); met != "done" {
		return errors.New(met)
	}
	return nil
}

// name is a path whose last part is written in Go's way, so that it may have any bytes.
func name(path string) string {
	last, err := strconv.Unquote(`"` + filepath.Base(path) + `"`)
	if err != nil {
		return path
	}
	return filepath.Join(filepath.Dir(path), last)
}

func rename(args []string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, name(args[0]), unix.AT_FDCWD, name(args[1]), flags)
}

// is fails unless the effective uid is given.
func is(args []string) error {
	if uid := strconv.Itoa(os.Geteuid()); uid != args[0] {
		fmt.Fprintln(os.Stderr, "the uid is", uid)
		os.Exit(3)
	}
	return nil
}

// bind shows a directory elsewhere, in a mount namespace of this thread's own.
func bind(args []string) error {
	if err := apart(); err != nil {
		return err
	}
	return unix.Mount(args[0], args[1], "", unix.MS_BIND, "")
}

// patience is how long a packet that nothing holds back may take.
const patience = 2 * time.Second

// ip4 and ip6 are loopback.
var (
	ip4 = [4]byte{127, 0, 0, 1}
	ip6 = [16]byte{15: 1}
)

// sockaddr is the address of a port on loopback.
func sockaddr(family string, port int) (int, unix.Sockaddr) {
	if family == "6" {
		return unix.AF_INET6, &unix.SockaddrInet6{Addr: ip6, Port: port}
	}
	return unix.AF_INET, &unix.SockaddrInet4{Addr: ip4, Port: port}
}

// socketStep makes a socket of a kind and address that arguments name: "tcp 4 PORT".
func socketStep(kind int, args []string, do func(fd int, to unix.Sockaddr) error) error {
	port, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	family, to := sockaddr(args[0], port)
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd, to)
}

func connectStep(args []string) error {
	kind := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}[args[0]]
	return socketStep(kind, args[1:], unix.Connect)
}

// sendStep sends without connect.
func sendStep(args []string) error {
	return socketStep(unix.SOCK_DGRAM, args, func(fd int, to unix.Sockaddr) error { return unix.Sendto(fd, []byte("hello"), 0, to) })
}

// pingStep sends an echo request by a ping socket, which needs no privilege.
func pingStep([]string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte{8, 0, 0, 0, 0, 0, 0, 1}, 0, &unix.SockaddrInet4{Addr: ip4})
}

// rawStep sends an echo request by a raw socket that was opened as root, as a uid given.
func rawStep(args []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := unix.Fchown(fd, uid, -1); err != nil {
		return err
	}
	return unix.Sendto(fd, []byte{8, 0, 0xf7, 0xfe, 0, 0, 0, 1}, 0, &unix.SockaddrInet4{Addr: ip4})
}

// ownedStep sends by a socket that one uid made and another uses.
func ownedStep(args []string) error {
	if err := syscallNumbers(unix.SYS_SETRESUID, []string{args[0], args[0], "0"}); err != nil {
		return err
	}
	return socketStep(unix.SOCK_DGRAM, args[2:], func(fd int, to unix.Sockaddr) error {
		if err := syscallNumbers(unix.SYS_SETRESUID, []string{args[1], args[1], "0"}); err != nil {
			return err
		}
		return unix.Sendto(fd, []byte("hello"), 0, to)
	})
}

// waitStep waits until the test says something, or is gone.
func waitStep([]string) error {
	fmt.Println("waiting")
	_, err := fmt.Scanln()
	return err
}

// givenStep sends by a socket of one uid that root has given to another.
func givenStep(args []string) error {
	if err := syscallNumbers(unix.SYS_SETRESUID, []string{args[0], args[0], "0"}); err != nil {
		return err
	}
	return socketStep(unix.SOCK_DGRAM, args[2:], func(fd int, to unix.Sockaddr) error {
		uid, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		if err := errors.Join(syscallNumbers(unix.SYS_SETRESUID, []string{"0", "0", "0"}), unix.Fchown(fd, uid, -1)); err != nil {
			return err
		}
		return unix.Sendto(fd, []byte("hello"), 0, to)
	})
}

// packetStep sends a frame on loopback by a packet socket of root's that was given to a uid.
func packetStep(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	const protocol = 0xb588 // ETH_P_802_EX1 in network order, which nobody speaks
	return errors.Join(unix.Fchown(fd, uid, -1), unix.Sendto(fd, []byte("hello"), 0, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: lo.Index, Halen: 6}))
}

// unixStep talks to itself by a pair of sockets, as processes of a phone do.
func unixStep([]string) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pair[1])
	defer unix.Close(pair[0])
	_, err = unix.Write(pair[0], []byte("hello"))
	return err
}

// oftenStep does a step again and again until it is told a line, and each time has to meet the same.
func oftenStep(args []string) error {
	fmt.Println("done") // begun
	var over atomic.Bool
	go func() {
		_, _ = fmt.Scanln()
		over.Store(true)
	}()
	for n := 0; !over.Load(); n++ {
		if met := word(guestSteps()[args[1]](args[2:])); met != args[0] {
			return fmt.Errorf("time %d it meets %s", n, met)
		}
	}
	return nil
}

// stormThreads is how many threads try at once, on however few processors: what one is in the middle of is interrupted by another.
const stormThreads = 12

// stormStep has threads try to become an app without a pause until it is told a line, and says how often they have tried and how often they
// were let.
func stormStep(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(2 * stormThreads) // else Go lets one thread at a time try
	var over atomic.Bool
	var tries, let atomic.Uint64
	var all sync.WaitGroup
	for range stormThreads {
		all.Go(func() {
			runtime.LockOSThread()
			// Whoever replaces the programs meanwhile has the processors first.
			if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 19); err != nil {
				panic(err)
			}
			for !over.Load() {
				if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != unix.EPERM {
					let.Add(1)
					_, _, _ = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
				}
				tries.Add(1)
			}
		})
	}
	fmt.Println("done") // begun
	_, err = fmt.Scanln()
	over.Store(true)
	all.Wait()
	fmt.Println(tries.Load(), let.Load())
	return err
}

// timesStep does a step a number of times, and each time has to meet the same.
func timesStep(args []string) error {
	times, err := strconv.Atoi(args[0])
	for n := 0; n < times; n++ {
		if met := word(guestSteps()[args[2]](args[3:])); met != args[1] {
			return fmt.Errorf("time %d it meets %s", n, met)
		}
	}
	return err
}

// talkStep connects to an echo server, and for each line from the test says something to it and prints what comes of it.
func talkStep(args []string) error {
	conn, err := net.Dial(args[0], args[1])
	if err != nil {
		return err
	}
	defer conn.Close()
	said := make([]byte, 1)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); said[0]++ {
		if _, err = conn.Write(said); err == nil {
			err = echoed(conn, said[0])
		}
		fmt.Println(word(err))
	}
	return nil
}

// echoed reads until what was said last comes back; what was said before may come first.
func echoed(conn net.Conn, said byte) error {
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for {
		heard := make([]byte, 1)
		if _, err := conn.Read(heard); err != nil || heard[0] == said {
			return err
		}
	}
}

// hearStep says where it listens, and what comes of a packet that is sent there.
func hearStep(args []string) error {
	conn, err := net.ListenPacket(args[0], args[1])
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Println(conn.LocalAddr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		err := conn.SetReadDeadline(time.Now().Add(patience))
		if err == nil {
			_, _, err = conn.ReadFrom(make([]byte, 1))
		}
		fmt.Println(word(err))
	}
	return nil
}
