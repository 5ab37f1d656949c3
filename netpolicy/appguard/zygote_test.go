package appguard_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// child is a process that was forked and not started, as Android's zygote makes apps: it becomes an app, and may then try its network.
type child struct {
	uid uint32
	// from is a file that the uid is read from, in the machine's order, when somebody writes it there; or -1.
	from int
	// connects has it connect to a port of loopback.
	connects bool
	// unshared is where it writes a byte when it has gone into a user namespace of its own, in which the uid counts; or -1.
	unshared int
}

// What a child exits with: the number of the error that it met when it became the app, statusConnect and the number of that which it met when it
// connected, statusLost when nobody told it whom to become.
const (
	statusConnect = 128
	statusLost    = 127
)

// fork makes a child. In it there is one thread and nothing of Go's that could run: it makes system calls and ends.
//
//go:norace
//go:nosplit
func fork(c *child, to *unix.RawSockaddrInet4) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	// Children hold each other's pipes: none would see the end of its own.
	_, _, _ = syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	status := uintptr(0)
	if c.unshared >= 0 {
		if _, _, errno = syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0); errno == 0 {
			_, _, errno = syscall.RawSyscall(unix.SYS_WRITE, uintptr(c.unshared), uintptr(unsafe.Pointer(to)), 1)
		}
		status = uintptr(errno)
	}
	if status == 0 && c.from >= 0 {
		if n, _, _ := syscall.RawSyscall(unix.SYS_READ, uintptr(c.from), uintptr(unsafe.Pointer(&c.uid)), 4); n != 4 {
			status = statusLost
		}
	}
	if status == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_SETRESUID, uintptr(c.uid), uintptr(c.uid), uintptr(c.uid))
		status = uintptr(errno)
	}
	if status == 0 && c.connects {
		var fd uintptr
		fd, _, errno = syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, 0)
		if errno == 0 {
			_, _, errno = syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(to)), unix.SizeofSockaddrInet4)
		}
		if errno != 0 {
			status = statusConnect + uintptr(errno)
		}
	}
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	}
}

// begin makes the child.
func (c *child) begin() (pid int, err error) {
	to := &unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: ip4}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&to.Port))[:], 9)
	n, errno := fork(c, to)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// childMet is what a child met that has ended.
func childMet(s syscall.WaitStatus) string {
	switch n := s.ExitStatus(); {
	case s.Signaled() && s.Signal() == syscall.SIGKILL:
		return killed
	case s.Signaled():
		return s.Signal().String()
	case n == 0:
		return "done"
	case n == statusLost:
		return "nobody"
	case n > statusConnect:
		return "connect:" + unix.ErrnoName(syscall.Errno(n-statusConnect))
	default:
		return unix.ErrnoName(syscall.Errno(n))
	}
}

// ended waits for a child, and fails unless it became what it was to be.
func ended(pid int) error {
	var s syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &s, 0, nil); err != nil {
		return err
	}
	if met := childMet(s); met != "done" {
		return errors.New(met)
	}
	return nil
}

// forkedStep has a child that is not started become a uid.
func forkedStep(args []string) error {
	uid, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return err
	}
	pid, err := (&child{uid: uint32(uid), from: -1, unshared: -1}).begin()
	if err != nil {
		return err
	}
	return ended(pid)
}

// unsharedStep is mapped for a process that goes into its user namespace later.
func unsharedStep(args []string) error {
	from, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer from.Close()
	defer tell.Close()
	hear, unshared, err := os.Pipe()
	if err != nil {
		return err
	}
	defer hear.Close()
	pid, err := (&child{from: int(from.Fd()), unshared: int(unshared.Fd())}).begin()
	unshared.Close()
	if err != nil {
		return err
	}
	if _, err := hear.Read(make([]byte, 1)); err != nil {
		return errors.Join(err, ended(pid))
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/uid_map", pid), []byte("0 0 1\n5 "+args[0]+" 1\n"), 0); err != nil {
		return err
	}
	if _, err := tell.Write(binary.NativeEndian.AppendUint32(nil, 5)); err != nil {
		return err
	}
	return ended(pid)
}

// abreast is how many children of a zygote are there at once.
const abreast = 16

// zygoteStep forks a number of children, which become what is given, "UID=WORD", one after another; each has to meet the word.
func zygoteStep(args []string) error {
	times, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	wanted := map[int]string{}
	reap := func() error {
		var s syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &s, 0, nil)
		if err != nil {
			return err
		}
		uid, want, _ := strings.Cut(wanted[pid], "=")
		delete(wanted, pid)
		if met := childMet(s); met != want {
			return fmt.Errorf("a child that becomes %s meets %s", uid, met)
		}
		return nil
	}
	for n := range times {
		role := args[1+n%(len(args)-1)]
		text, _, _ := strings.Cut(role, "=")
		uid, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return err
		}
		pid, err := (&child{uid: uint32(uid), from: -1, unshared: -1}).begin()
		if err != nil {
			return err
		}
		wanted[pid] = role
		if len(wanted) == abreast {
			if err := reap(); err != nil {
				return err
			}
		}
	}
	for len(wanted) > 0 {
		if err := reap(); err != nil {
			return err
		}
	}
	return nil
}

// poolStep forks a number of children that wait, as Android's pool of unspecialised processes does. For each uid that it is told, one of them becomes
// that and connects, and it says what that met.
func poolStep(args []string) error {
	count, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	type member struct {
		pid  int
		tell *os.File
	}
	var pool []member
	for range count {
		from, tell, err := os.Pipe()
		if err != nil {
			return err
		}
		pid, err := (&child{from: int(from.Fd()), connects: true, unshared: -1}).begin()
		if err != nil {
			return err
		}
		from.Close()
		pool = append(pool, member{pid, tell})
	}
	fmt.Println("done") // begun
	for lines := bufio.NewScanner(os.Stdin); lines.Scan() && len(pool) > 0; pool = pool[1:] {
		uid, err := strconv.ParseUint(lines.Text(), 10, 32)
		if err != nil {
			return err
		}
		_, err = pool[0].tell.Write(binary.NativeEndian.AppendUint32(nil, uint32(uid)))
		var s syscall.WaitStatus
		if err == nil {
			_, err = syscall.Wait4(pool[0].pid, &s, 0, nil)
		}
		if err != nil {
			return err
		}
		fmt.Println(childMet(s))
	}
	for _, m := range pool {
		if err := errors.Join(syscall.Kill(m.pid, syscall.SIGKILL), m.tell.Close()); err != nil {
			return err
		}
		if _, err := syscall.Wait4(m.pid, nil, 0, nil); err != nil {
			return err
		}
	}
	return nil
}

// parallelLaunches is how many launches zygotes make in a machine, allowed and denied; TestVMBypass makes more.
const parallelLaunches = 2048

// testParallelLaunches has several zygotes of a phone launch apps at once, every second of them one that is denied, while denials are drained: every
// allowed one becomes what it is to be, every denied one meets what is given, and as many denials are told as there were, for each uid.
func testParallelLaunches(t *testing.T, g *appguard.Guard, launches int, refusal string) {
	t.Helper()
	const zygotes = 4
	p := makePhone(t, "p1")
	p.set(t, g, launchRules)
	drain(t, g, 0)
	before, err := g.Counters(0)
	if err != nil {
		t.Fatal(err)
	}
	denied := []uint32{appDenied, 1000000 + appDenied, 20002, 1005}
	step := fmt.Sprintf("zygote %d", launches/zygotes)
	for n, uid := range []uint32{appAllowed, 1000000 + appAllowed, 20001, 99002} {
		step += fmt.Sprintf(" %d=done %d=%s", uid, denied[n], refusal)
	}
	over := make(chan struct{})
	for range zygotes {
		go func() {
			defer func() { over <- struct{}{} }()
			if met := p.guest(t, step); len(met) != 1 || met[0] != "done" {
				t.Errorf("a zygote meets %v", met)
			}
		}()
	}
	told := map[uint32]uint64{}
	add := func() {
		for _, d := range drain(t, g, 0) {
			if d.Kind != appguard.KindLaunch || d.Unlisted {
				t.Errorf("a denial is %+v", d)
			}
			told[d.UID] += d.Count
		}
	}
	drains := 0
	for running := zygotes; running > 0; drains++ {
		select {
		case <-over:
			running--
		default:
		}
		add()
	}
	add()
	half := launches / 2
	for _, uid := range denied {
		if want := uint64(half / len(denied)); told[uid] != want {
			t.Errorf("uid %d: %d refusals are told; want %d", uid, told[uid], want)
		}
		delete(told, uid)
	}
	if len(told) > 0 {
		t.Errorf("others were refused: %v", told)
	}
	if c, err := g.Counters(0); err != nil || c.Denied[appguard.KindLaunch]-before.Denied[appguard.KindLaunch] != uint64(half) {
		t.Errorf("%d refusals are counted, %v; want %d", c.Denied[appguard.KindLaunch]-before.Denied[appguard.KindLaunch], err, half)
	}
	t.Logf("%d launches, %d drains", launches, drains)
}

// testParallelRefusals is the same where launches are refused and not killed.
func testParallelRefusals(t *testing.T, g *appguard.Guard, launches int) {
	if err := g.NoKill(true); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.NoKill(false); err != nil {
			t.Error(err)
		}
	}()
	testParallelLaunches(t, g, launches, "EPERM")
}
