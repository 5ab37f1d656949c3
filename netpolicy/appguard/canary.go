package appguard

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// What the canary's phone is denied, and what not.
const (
	canaryAllowed, canaryOffline, canaryDenied = 10001, 10002, 10003
	canaryGood, canaryBad                      = "canary.allowed", "canary.denied"
)

// canaryTime is how long the canary may take.
const canaryTime = 30 * time.Second

// What the canary says, a line each; after that it tries to launch.
const (
	saidInstall = "install refused"
	saidNetwork = "network refused"
	saidLaunch  = "launch refused"
	saidAll     = "tried"
)

var errSilent = errors.New("it ended as if it had")

// setCanary makes the canary's cgroup a phone's.
func (g *Guard) setCanary() error {
	id, err := cgroupID(g.canary)
	if err != nil {
		return err
	}
	return g.setPhone(id, Phone{
		Slot: g.canarySlot(), Names: []Name{{Name: canaryGood}, {Name: canaryBad, Deny: true}},
		Apps: map[uint32]Bits{canaryAllowed: 0, canaryOffline: DenyNetwork, canaryDenied: DenyRun},
	})
}

// show runs the canary and returns what it met. An error says that it could not be tried.
func (g *Guard) show(ctx context.Context) (Shown, error) {
	if err := g.setCanary(); err != nil {
		return Shown{}, fmt.Errorf("canary: %w", err)
	}
	procs, err := os.OpenFile(filepath.Join(canaryCgroup(g.config.CgroupRoot), "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return Shown{}, fmt.Errorf("canary: %w", err)
	}
	defer procs.Close()
	ctx, cancel := context.WithTimeout(ctx, canaryTime)
	defer cancel()
	var said, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, g.config.Canary[0], g.config.Canary[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &complaint
	// It goes there by itself: clone3(2), which could start it there, is refused to services by systemd's RestrictNamespaces=.
	cmd.ExtraFiles = []*os.File{procs}
	err = cmd.Run()
	if ctx.Err() != nil {
		return Shown{}, fmt.Errorf("canary: %w", context.Cause(ctx))
	}
	lines := strings.Split(said.String(), "\n")
	var exit *exec.ExitError
	killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if !slices.Contains(lines, saidAll) || err != nil && !killed {
		return Shown{}, fmt.Errorf("canary: %s: %w", cmp.Or(strings.TrimSpace(complaint.String()), "it has not tried all"), cmp.Or(err, errSilent))
	}
	s := Shown{Launch: killed || slices.Contains(lines, saidLaunch), Install: slices.Contains(lines, saidInstall), Network: slices.Contains(lines, saidNetwork)}
	return s, g.forgetCanary()
}

// forgetCanary takes the canary's denials, which nobody else reads.
func (g *Guard) forgetCanary() error {
	return g.DrainDenials(g.canarySlot(), func([]Denial) error { return nil })
}

// choose finds the best mechanism that is obeyed. The caller has the lock, or is alone.
//
// Where another version of a mechanism is in force, better ones are not tried: the canary would be refused by what is in force, and a kernel does not
// learn to obey before it is started again, when there are no pins.
func (g *Guard) choose(ctx context.Context) error {
	former, err := g.former()
	if err != nil {
		return err
	}
	var why []string
	for _, m := range g.config.Mechanisms {
		if former != "" && m != former {
			why = append(why, string(m)+": an earlier process of this boot had it not obeyed")
			continue
		}
		former = ""
		shown, reason, err := g.take(ctx, m)
		if err != nil {
			return err
		}
		if reason == "" {
			g.record(m, shown, append(why, slips(m)...))
			return nil
		}
		why = append(why, string(m)+": "+reason)
		g.log.Info("a mechanism for app lists is not used", "mechanism", m, "reason", reason)
	}
	shown, err := g.show(ctx)
	if err != nil {
		return err
	}
	g.record(MechanismNone, shown, why)
	return nil
}

// take uses a mechanism, or says why not. An error ends the search.
func (g *Guard) take(ctx context.Context, m Mechanism) (shown Shown, reason string, err error) {
	if m == MechanismModify {
		if full, how := preemptible(); full {
			return Shown{}, "kernel code can be preempted (" + how + ")", nil
		}
	}
	links, err := g.attachMechanism(m)
	if err != nil {
		return Shown{}, pinned.Classed(err).Error(), nil
	}
	if shown, err = g.show(ctx); err != nil {
		closeLinks(links) // pinned: they hold, and the next one finds them
		return Shown{}, "", err
	}
	if want := promised(m); !shown.keeps(want) {
		return Shown{}, "attached, but not obeyed: the canary met no refusal of " + shown.missing(want), g.detach(links)
	}
	closeLinks(g.links)
	g.links = links
	return shown, "", nil
}

// slips says what a mechanism may miss that the canary cannot show. A kprobe runs no program on a processor where somebody's bpf(2) call on a hash map was
// preempted in the middle (bpf_prog_active, read by trace_call_bpf).
func slips(m Mechanism) []string {
	if m != MechanismKill {
		return nil
	}
	full, how := preemptible()
	if !full {
		return nil
	}
	return []string{string(m) + ": a denied launch can slip through now and then, without a network, since kernel code can be preempted (" + how + ")"}
}

// record notes what is enforced.
func (g *Guard) record(m Mechanism, s Shown, why []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.status = Status{Mechanism: m, Tier: tiers[m], Shown: s, Checked: time.Now(), Why: why}
}

// Try runs the canary again. Where something is not refused any more that the Status promises, all is attached anew, and the Status says what is
// enforced then. The error says what was missing and whether it is back; Status.Checked tells when that was.
func (g *Guard) Try(ctx context.Context) error {
	g.choosing.Lock()
	defer g.choosing.Unlock()
	was := g.Status()
	shown, err := g.show(ctx)
	if err != nil {
		return fmt.Errorf("appguard: %w", pinned.Classed(err))
	}
	if want := promised(was.Mechanism); !shown.keeps(want) {
		err := fmt.Errorf("appguard: %s was not refused", shown.missing(want))
		if again := g.again(ctx); again != nil {
			return errors.Join(err, again)
		}
		return fmt.Errorf("%w; attached anew, it is %s", err, g.Status())
	}
	g.record(was.Mechanism, shown, was.Why)
	return nil
}

// again attaches all anew.
func (g *Guard) again(ctx context.Context) error {
	if err := g.detach(g.links); err != nil {
		return err
	}
	g.links = nil
	for name := range g.cgroups {
		if err := pinned.Unpin(g.pins.cgroup(name)); err != nil {
			return err
		}
	}
	closeLinks(g.cgroups)
	g.cgroups = nil
	if err := g.attachCgroups(); err != nil {
		return err
	}
	return g.choose(ctx)
}
