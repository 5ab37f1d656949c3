package phone

import (
	"time"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/runtime/container"
)

// step is what a controller does next.
type step int

const (
	// stepIdle waits until something changes.
	stepIdle step = iota
	// stepExpire freezes a phone whose lease is over.
	stepExpire
	// stepEnd records that a guest ended, and what follows from it.
	stepEnd
	// stepDestroy removes a phone that is deleted.
	stepDestroy
	// stepShutdown asks a guest that must end to do so.
	stepShutdown
	// stepKill ends a guest that must end now.
	stepKill
	// stepQueue waits for a boot slot.
	stepQueue
	// stepStart brings up network, file systems, display and guest.
	stepStart
	// stepStarted records that a guest was started.
	stepStarted
	// stepDisplay starts a display that ended under its guest.
	stepDisplay
	// stepTrack has an adopted display connected.
	stepTrack
	// stepAskBoot asks a guest whether its boot has completed.
	stepAskBoot
	// stepBootTimeout gives up on a boot.
	stepBootTimeout
	// stepRenew makes the file systems of a reset, or those that an import lacks, while the phone is off.
	stepRenew
	// stepKeep drops the file systems of other generations.
	stepKeep
	// stepRemoveGuest and stepRemoveDisplay clear away what a phone that is off does not need, or that a start is to make elsewhere.
	stepRemoveGuest
	stepRemoveDisplay
	// stepFinish ends the operation under way.
	stepFinish
	// stepClone copies another phone's data.
	stepClone
	// stepLimits gives a running guest what it may use by now.
	stepLimits
	// stepGrow grows the data volume to the spec's size.
	stepGrow
	// stepFinishChange ends the Update under way.
	stepFinishChange
	// stepNetwork makes the network what the record says.
	stepNetwork
	// stepImport makes an archive the phone's data.
	stepImport
	// stepDropArchive removes an archive that is not needed any more.
	stepDropArchive
)

// String returns the step's name for logs.
func (s step) String() string {
	return [...]string{"idle", "expire", "end", "destroy", "shutdown", "kill", "queue", "start", "started", "display", "track", "ask_boot",
		"boot_timeout", "renew", "keep", "remove_guest", "remove_display", "finish", "clone", "limits", "grow", "finish_change", "network", "import", "drop_archive"}[s]
}

// plan is the next step. at is when to look again without being woken, where the step is stepIdle or has to wait to be tried
// again; zero means only when woken.
type plan struct {
	step step
	at   time.Time
}

// memory is what a controller knows beyond record and sight. Losing it with the agent costs a repeated question or request,
// never a wrong step.
type memory struct {
	// shutdownSent is whether the guest that must end has been asked to.
	shutdownSent bool
	// tracked is whether the running display is being connected to.
	tracked bool
	// drawn is whether the guest shows something on its display.
	drawn bool
	// nextAsk is when the guest is asked again whether it has booted; zero when it has not been asked since it was started or has drawn.
	nextAsk time.Time
	// displayAt is the earliest time at which a display that ended is started again.
	displayAt time.Time
	// slot is the phone's part in the admission of boots.
	slot slot
	// wall is the time by the host's wall clock, which leases go by.
	wall time.Time
	// renewals counts the failures in a row to make the file systems of a reset that no operation waits for any more.
	renewals int
	// networkAt is when the network has to be looked after; zero when it is as it should be.
	networkAt time.Time
	// failed is the step that failed last, and retryAt when it is tried again.
	failed  step
	retryAt time.Time
}

// next decides the next step. It is pure: everything that it goes by is given.
func next(r *Record, s sight, m memory, now time.Time, t Timing) plan {
	p := choose(r, s, m, now, t)
	p.at = earliest(p.at, r.judgeAgain(now, m.wall, t), m.networkAt)
	if p.step != stepIdle && p.step == m.failed && m.retryAt.After(now) {
		return plan{step: stepIdle, at: earliest(m.retryAt, p.at)}
	}
	return p
}

func choose(r *Record, s sight, m memory, now time.Time, t Timing) plan {
	switch {
	case r.mustExpire(m.wall):
		return plan{step: stepExpire} // whether containerd answers or not
	case !r.Deleting && !m.networkAt.IsZero() && !m.networkAt.After(now):
		return plan{step: stepNetwork} // before all that takes longer; it has its own times to be tried again
	case !s.known:
		return plan{step: stepIdle, at: m.retryAt}
	case ended(r, s):
		return plan{step: stepEnd}
	case r.Deleting:
		return plan{step: stepDestroy}
	case s.guestUp() && r.wantsGuest() && s.obs.Guest.BootGeneration == r.BootGeneration:
		return runningPlan(r, s, m, now, t)
	case s.guestUp():
		return stoppingPlan(r, m, now)
	case r.taskIs(operation.Clone):
		return plan{step: stepClone}
	case r.importing():
		return plan{step: stepImport}
	case r.Import != nil:
		return plan{step: stepDropArchive}
	}
	if step := changePlan(r); step != stepIdle {
		return plan{step: step}
	}
	if r.wantsGuest() {
		return startPlan(r, s, m, now, t)
	}
	return offPlan(r, s, m, t)
}

// startPlan is for a phone that is off and should boot.
func startPlan(r *Record, s sight, m memory, now time.Time, t Timing) plan {
	if at := nextStart(r, now, t); at.After(now) {
		return plan{step: stepIdle, at: at}
	}
	if d := s.obs.Display; d.State == container.TaskRunning && d.Outside {
		return plan{step: stepRemoveDisplay} // the phone moves as a whole
	}
	switch m.slot {
	case slotNone:
		return plan{step: stepQueue}
	case slotQueued:
		return plan{step: stepIdle}
	}
	return plan{step: stepStart}
}

// changePlan is what remains to be done of an Update, or stepIdle.
func changePlan(r *Record) step {
	switch {
	case r.LimitsSet != r.LimitsAsked:
		return stepLimits
	case r.GrowFrom != 0:
		return stepGrow
	case r.Change != nil:
		return stepFinishChange
	}
	return stepIdle
}

// ended reports whether a guest ended that has not been dealt with: its task shows an exit, or it was started and is not there.
func ended(r *Record, s sight) bool {
	g := s.obs.Guest
	if g.State == container.TaskStopped {
		return g.BootGeneration > r.Ended
	}
	return !s.guestUp() && r.Started.Generation > r.Ended
}

// runningPlan is for a guest that runs and should.
func runningPlan(r *Record, s sight, m memory, now time.Time, t Timing) plan {
	if r.Started.Generation != r.BootGeneration {
		return plan{step: stepStarted}
	}
	var wake time.Time
	if s.obs.Display.State != container.TaskRunning {
		if !m.displayAt.After(now) {
			return plan{step: stepDisplay}
		}
		wake = m.displayAt
	} else if !m.tracked {
		return plan{step: stepTrack}
	}
	if step := changePlan(r); step != stepIdle {
		return plan{step: step, at: wake}
	}
	switch {
	case !r.booted():
		return bootPlan(s, m, now, t, wake)
	case r.KeptGeneration != r.DataGeneration:
		return plan{step: stepKeep}
	case r.Task != nil:
		return plan{step: stepFinish}
	}
	return plan{step: stepIdle, at: wake}
}

// bootPlan is for a guest whose boot has not completed. A guest that shows nothing yet has hardly booted, and each question is a process in
// it, which a host where many guests boot has no time for: it is asked seldom until it draws, and then at once.
func bootPlan(s sight, m memory, now time.Time, t Timing, wake time.Time) plan {
	deadline, ask := s.obs.Guest.StartedAt.Add(t.BootTimeout), m.nextAsk
	if ask.IsZero() && !m.drawn {
		ask = s.obs.Guest.StartedAt.Add(t.BootPoll[1])
	}
	switch {
	case !now.Before(deadline):
		return plan{step: stepBootTimeout}
	case now.Before(ask):
		return plan{step: stepIdle, at: earliest(ask, deadline, wake)}
	}
	return plan{step: stepAskBoot, at: deadline}
}

// stoppingPlan is for a guest that runs and must end.
func stoppingPlan(r *Record, m memory, now time.Time) plan {
	deadline := r.Stop.deadline()
	switch {
	case r.Stop.Grace == 0 || !now.Before(deadline) || r.Stop.At.After(now): // the clock was set back
		return plan{step: stepKill}
	case !m.shutdownSent:
		return plan{step: stepShutdown, at: deadline}
	}
	return plan{step: stepIdle, at: deadline}
}

// offPlan is for a phone that is off and should be.
func offPlan(r *Record, s sight, m memory, t Timing) plan {
	switch {
	case s.obs.Guest.Container:
		return plan{step: stepRemoveGuest}
	case s.obs.Display.Container:
		return plan{step: stepRemoveDisplay}
	case r.KeptGeneration != r.DataGeneration && mustRenew(r, m, t):
		return plan{step: stepRenew}
	case r.Task != nil:
		return plan{step: stepFinish}
	}
	return plan{step: stepIdle}
}

// mustRenew reports whether it is time to make the file systems of a reset or an import, of a phone that is off. What a reset destroys goes also if
// its operation has been given up, once nothing else is under way; where it cannot be had the phone is left alone.
func mustRenew(r *Record, m memory, t Timing) bool {
	if r.taskIs(operation.Reset) && r.Task.Failure == nil || r.imported() {
		return true
	}
	return r.Task == nil && m.renewals < t.StartAttempts
}

// earliest returns the earliest of the times that are not zero, or zero.
func earliest(times ...time.Time) time.Time {
	var least time.Time
	for _, at := range times {
		if !at.IsZero() && (least.IsZero() || at.Before(least)) {
			least = at
		}
	}
	return least
}
