package initd

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// startedVariable carries the time of init's first instruction, in nanoseconds since the host booted, from the first start to the second.
const startedVariable = "TESTPHONE_INIT_STARTED"

// BlockTerm makes sure that SIGTERM is blocked in every thread. If it is not, it blocks it and executes the program once more, so it is to
// be called before anything else and returns only when there is nothing to do, or with an error.
func BlockTerm() error {
	if termBlocked() {
		return nil
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	started := startedVariable + "=" + strconv.FormatInt(now.Nano(), 10)
	return execWithMask(unix.SIG_BLOCK, append(os.Environ(), started))
}

// RestoreTerm undoes BlockTerm in a process that init started: if SIGTERM is blocked, it lets it through and executes the program once more.
func RestoreTerm() error {
	if !termBlocked() {
		return nil
	}
	return execWithMask(unix.SIG_UNBLOCK, os.Environ())
}

func termBlocked() bool {
	var set unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &set); err != nil {
		return false
	}
	return set.Val[0]&(1<<(unix.SIGTERM-1)) != 0
}

func execWithMask(how int, env []string) error {
	runtime.LockOSThread()
	set := termSet()
	if err := unix.PthreadSigmask(how, &set, nil); err != nil {
		return fmt.Errorf("change the signal mask: %w", err)
	}
	path := os.Args[0]
	if !strings.Contains(path, "/") {
		path = "/proc/self/exe"
	}
	return fmt.Errorf("execute %s again: %w", path, unix.Exec(path, os.Args, env))
}

func termSet() unix.Sigset_t {
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGTERM - 1)
	return set
}

// absorbSignals keeps the signals that would end a Go program from ending init: pid 1 of Android has no handler for them, so the kernel
// drops them. They are handled, not ignored, because an ignored signal would stay ignored in the services.
func absorbSignals() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
		unix.SIGPIPE, unix.SIGABRT, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM, unix.SIGIO, unix.SIGPWR, unix.SIGSYS)
}

// openTerm returns a channel that receives when SIGTERM came from outside the pid namespace. SIGTERM must be blocked.
func openTerm(out *output) (<-chan struct{}, error) {
	set := termSet()
	fd, err := unix.Signalfd(-1, &set, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("signalfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "signalfd")
	term := make(chan struct{}, 1)
	go func() {
		const pidOffset, size = 12, 128 // struct signalfd_siginfo
		info := make([]byte, size)
		for {
			if _, err := f.Read(info); err != nil {
				out.printf("signalfd: %v", err)
				return
			}
			pid := binary.NativeEndian.Uint32(info[pidOffset:])
			if pid != 0 {
				out.printf("SIGTERM from pid %d inside the phone has no effect", pid)
				continue
			}
			select {
			case term <- struct{}{}:
			default:
			}
		}
	}()
	return term, nil
}

// hasCapability says whether a capability is in the bounding and the effective set of this process.
func hasCapability(capability int) bool {
	data := make([]unix.CapUserData, 2)
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	bound, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(capability), 0, 0, 0)
	return err == nil && bound == 1 && data[capability/32].Effective&(1<<(capability%32)) != 0
}

// terminated handles SIGTERM from outside, which Android obeys only when it cannot reboot.
func (p *phone) terminated() {
	if p.mayBoot {
		p.out.printf("SIGTERM from outside has no effect, because this phone has CAP_SYS_BOOT: use sys.powerctl")
		return
	}
	p.end(powerRequest{action: powerOff, detail: "container"})
}

// schedule sets the timer to the next moment at which something is due, and does what is due.
func (p *phone) schedule() {
	now := time.Now()
	p.timer.Stop()
	var next time.Time
	if p.ending != nil {
		next = p.proceed(now)
	} else {
		next = p.restartDue(now)
	}
	if !next.IsZero() {
		p.timer.Reset(time.Until(next))
	}
}
