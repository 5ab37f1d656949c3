package initd

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// restartPeriod is the least time between two starts of a service, Android's restart_period.
const restartPeriod = 5 * time.Second

const (
	// floodProperty asks init to print that many bytes, for tests of whoever reads its output.
	floodProperty = "debug.testphone.flood"
	// floodDone is the file that says that all of it is printed.
	floodDone = "/data/flood.done"
)

// Service is a program that init runs. The property init.svc.NAME says how it does: running, stopped, restarting.
type Service struct {
	// Name of the service, a part of a property's name.
	Name string
	// Args are the path of the program and its arguments.
	Args []string
	// Oneshot says that the program is not started again when it ends.
	Oneshot bool
	// UID and group that it runs with; 0 is init's own. Another needs CAP_SETUID and CAP_SETGID.
	UID uint32
	// Disabled says that only an order (ctl.start) starts it.
	Disabled bool
}

// service is a Service and what became of it.
type service struct {
	Service
	pid     int
	started time.Time
	wanted  bool // to be started again when it ends
	again   time.Time
	// stopping says that an order ends it and it is not gone yet; pending, that another order wants it back then.
	stopping, pending bool
}

// start starts a service that does not run.
func (p *phone) start(s *service) {
	if s.Disabled || s.pid != 0 || p.ending != nil {
		return
	}
	p.launch(s)
}

func (p *phone) launch(s *service) {
	s.started, s.again, s.wanted = time.Now(), time.Time{}, !s.Oneshot
	// A process group of its own lets the end reach what the service started itself.
	attr := &syscall.ProcAttr{Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}}
	if s.UID != 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: s.UID, Gid: s.UID}
	}
	pid, err := syscall.ForkExec(s.Args[0], s.Args, attr)
	if err != nil {
		p.out.printf("service %s: start %s: %v", s.Name, s.Args[0], err)
		p.plan(s)
		return
	}
	s.pid, p.alone = pid, false
	p.out.printf("service %s: started, pid %d", s.Name, pid)
	p.state(s, "running")
}

// plan arranges the next start of a service that does not run.
func (p *phone) plan(s *service) {
	if !s.wanted || p.ending != nil {
		p.state(s, "stopped")
		return
	}
	s.again = s.started.Add(restartPeriod)
	p.state(s, "restarting")
}

func (p *phone) state(s *service, state string) {
	p.set("init.svc."+s.Name, state)
	pid := ""
	if s.pid != 0 {
		pid = strconv.Itoa(s.pid)
	}
	p.set("init.svc_debug_pid."+s.Name, pid)
}

// restartDue starts the services whose time has come and returns when the next one's comes.
func (p *phone) restartDue(now time.Time) (next time.Time) {
	for _, s := range p.services {
		if s.again.IsZero() {
			continue
		}
		if !s.again.After(now) {
			p.launch(s)
		}
		if !s.again.IsZero() && (next.IsZero() || s.again.Before(next)) {
			next = s.again
		}
	}
	return next
}

// reap collects every child that has ended, services and orphans.
func (p *phone) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil: // ECHILD
			p.alone = true
			return
		case pid == 0:
			return
		}
		for _, s := range p.services {
			if s.pid == pid {
				p.out.printf("service %s: pid %d %s", s.Name, pid, describe(status))
				p.gone(s)
			}
		}
	}
}

// gone decides what follows the end of a service.
func (p *phone) gone(s *service) {
	pending := s.pending
	s.pid, s.stopping, s.pending = 0, false, false
	if pending && p.ending == nil {
		p.launch(s)
		return
	}
	p.plan(s)
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "was ended by " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("exited with %d", status.ExitStatus())
}

// control hands an order to the loop and waits for its answer. It runs in the property service's goroutines.
func (p *phone) control(name, value string) error {
	o := order{strings.TrimPrefix(name, "ctl."), value, make(chan error, 1)}
	p.orders <- o
	return <-o.reply
}

// obey carries out an order: start, stop or restart a service.
func (p *phone) obey(o order) error {
	for _, s := range p.services {
		if s.Name != o.service {
			continue
		}
		switch {
		case p.ending != nil:
			return fmt.Errorf("the phone is shutting down: %w", errdefs.ErrFailedPrecondition)
		case o.action == "start" && s.pid == 0, o.action == "restart" && s.pid == 0:
			p.launch(s)
		case (o.action == "start" || o.action == "restart") && s.stopping:
			s.pending = true
		case o.action == "start":
		case o.action == "restart":
			s.started = time.Time{} // no waiting for the period
			kill(s, unix.SIGKILL)
		case o.action == "stop":
			s.wanted, s.again, s.stopping, s.pending = false, time.Time{}, s.pid != 0, false
			kill(s, unix.SIGKILL)
			p.state(s, "stopped")
		default:
			return fmt.Errorf("order %s: %w", o.action, errdefs.ErrNotImplemented)
		}
		return nil
	}
	return fmt.Errorf("service %.40q: %w", o.service, errdefs.ErrNotFound)
}

// kill sends a signal to a service's processes, as Android does for stop: SIGKILL.
func kill(s *service, sig unix.Signal) {
	if s.pid != 0 {
		_ = unix.Kill(-s.pid, sig)
	}
}

// debugChanged starts the flood when its property asks for one.
func (p *phone) debugChanged() {
	for _, change := range p.debug.Take() {
		if change.Name != floodProperty || change.Value == "" {
			continue
		}
		for _, s := range p.services {
			if s.Name == "flood" && s.pid == 0 && p.ending == nil {
				s.Args = []string{s.Args[0], change.Value, floodDone}
				p.launch(s)
			}
		}
	}
}
