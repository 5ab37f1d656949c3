package initd

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

type powerAction int

const (
	powerOff powerAction = iota + 1
	restart
)

// powerRequest is a value of sys.powerctl, understood.
type powerRequest struct {
	action powerAction
	detail string // reason or target, may be empty
}

// parsePowerctl understands shutdown[,reason] and reboot[,target].
func parsePowerctl(value string) (powerRequest, error) {
	verb, detail, _ := strings.Cut(value, ",")
	switch verb {
	case "shutdown":
		return powerRequest{powerOff, detail}, nil
	case "reboot":
		return powerRequest{restart, detail}, nil
	}
	return powerRequest{}, fmt.Errorf("%s=%.80q is neither shutdown nor reboot: %w", powerctl, value, errdefs.ErrInvalidArgument)
}

// String is the value of sys.powerctl that asks for it.
func (r powerRequest) String() string {
	verb := "shutdown"
	if r.action == restart {
		verb = "reboot"
	}
	if r.detail == "" {
		return verb
	}
	return verb + "," + r.detail
}

// ending is an end under way.
type ending struct {
	powerRequest
	killAt time.Time // services get SIGKILL
	overAt time.Time // nobody is waited for any longer
	killed bool
	swept  bool // everything that is not a service got SIGKILL
}

func (p *phone) powerChanged() {
	for _, change := range p.power.Take() {
		if change.Name != powerctl {
			continue
		}
		req, err := parsePowerctl(change.Value)
		if err != nil {
			p.out.printf("%v", err)
			continue
		}
		p.end(req)
	}
}

// end begins the end of the phone. A second request changes nothing.
func (p *phone) end(req powerRequest) {
	if p.ending != nil {
		return
	}
	timeout := p.shutdownTimeout()
	now := time.Now()
	p.ending = &ending{powerRequest: req, killAt: now.Add(timeout / 2), overAt: now.Add(timeout)}
	p.out.printf("%s: ending services, at most %v", req, timeout)
	reason := req.String()
	if len(reason) > 91 {
		reason = reason[:91]
	}
	p.set(bootReason, strings.ToValidUTF8(reason, ""))
	for _, s := range p.services {
		s.wanted, s.again = false, time.Time{}
		kill(s, unix.SIGTERM)
	}
}

func (p *phone) shutdownTimeout() time.Duration {
	value := p.store.Get("ro.build.shutdown_timeout")
	if value == "" {
		return defaultShutdown
	}
	seconds, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		p.out.printf("ro.build.shutdown_timeout=%q is not a number of seconds", value)
		return defaultShutdown
	}
	return time.Duration(seconds) * time.Second
}

// proceed does what is due in an end and returns when to look again.
func (p *phone) proceed(now time.Time) time.Time {
	e := p.ending
	running := false
	for _, s := range p.services {
		running = running || s.pid != 0
	}
	if running && !e.killed && now.Before(e.killAt) {
		return e.killAt
	}
	if running && !e.killed {
		e.killed = true
		for _, s := range p.services {
			if s.pid != 0 {
				p.out.printf("service %s: did not end, killed", s.Name)
				kill(s, unix.SIGKILL)
			}
		}
	}
	if running && now.Before(e.overAt) {
		return e.overAt
	}
	if !e.swept {
		e.swept = true
		_ = unix.Kill(-1, unix.SIGKILL)
		p.reap()
	}
	if !p.alone && now.Before(e.overAt) {
		return e.overAt
	}
	p.finish()
	return time.Time{}
}

// finish writes /data to the disk and ends init.
func (p *phone) finish() {
	p.out.printf("%s: done", p.ending.powerRequest)
	if d, err := os.Open(dataDir); err == nil {
		if err := unix.Syncfs(int(d.Fd())); err != nil {
			p.out.printf("sync %s: %v", dataDir, err)
		}
	}
	p.out.drain(time.Second)
	if !p.mayBoot {
		os.Exit(0)
	}
	cmd := unix.LINUX_REBOOT_CMD_POWER_OFF
	if p.ending.action == restart {
		cmd = unix.LINUX_REBOOT_CMD_RESTART
	}
	err := unix.Reboot(cmd) // does not return in a pid namespace
	p.out.printf("reboot: %v", err)
	p.out.drain(time.Second)
	os.Exit(1)
}
