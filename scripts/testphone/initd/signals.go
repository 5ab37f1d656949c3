package initd

import (
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// absorbSignals keeps the signals that would end a Go program from ending init: pid 1 of Android has no handler for them, so the kernel
// drops them. They are handled, not ignored, because an ignored signal would stay ignored in the services.
func absorbSignals() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
		unix.SIGPIPE, unix.SIGABRT, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM, unix.SIGIO, unix.SIGPWR, unix.SIGSYS)
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
