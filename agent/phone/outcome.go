package phone

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/profile"
)

// Meanings of a guest's end, as the event GUEST_EXITED carries them.
const (
	meansRequested   = "requested"
	meansReboot      = "reboot"
	meansPowerOff    = "power_off"
	meansCrash       = "crash"
	meansHostRestart = "host_restart"
)

// ending is the end of a guest as it was observed.
type ending struct {
	// generation is the boot generation that ended.
	generation uint64
	// code is its exit code; gone tells that it vanished without one.
	code uint32
	gone bool
	// hostRestart tells that it vanished with another boot of the host, or that the host ended it in order to stop.
	hostRestart bool
	// outOfMemory tells that the kernel killed processes of it for memory.
	outOfMemory bool
	// at is when it ended.
	at time.Time
}

// observedEnding reads the end of a guest for which ended is true.
func observedEnding(r *Record, s sight, hostBoot string, outOfMemory bool, now time.Time) ending {
	g := s.obs.Guest
	if g.State == container.TaskStopped && !g.HostStopped {
		at := g.ExitedAt
		if at.IsZero() || at.After(now) {
			at = now
		}
		return ending{generation: g.BootGeneration, code: g.ExitCode, outOfMemory: outOfMemory, at: at}
	}
	generation := r.Started.Generation
	if g.State == container.TaskStopped {
		generation = max(generation, g.BootGeneration)
	}
	return ending{
		generation: generation, gone: true, hostRestart: g.HostStopped || r.Started.HostBoot != hostBoot,
		outOfMemory: outOfMemory, at: now,
	}
}

// String describes the end for people.
func (e ending) String() string {
	memory := ""
	if e.outOfMemory {
		memory = " after the kernel ended processes of it for want of memory"
	}
	switch {
	case e.hostRestart:
		return "the host stopped or restarted"
	case e.gone:
		return "the guest and its shim are gone without an exit code" + memory
	}
	return fmt.Sprintf("the guest's init ended with code %d%s", e.code, memory)
}

// meaning says what the end means for a record that it has not been applied to.
func (e ending) meaning(r *Record) string {
	switch {
	case !r.wantsGuest() || e.generation != r.BootGeneration:
		return meansRequested
	case e.hostRestart:
		return meansHostRestart
	case e.gone:
		return meansCrash
	}
	kind, err := profile.Get(r.Spec.Profile)
	if err != nil {
		return meansCrash
	}
	switch kind.Ending(e.code, profile.Evidence{}) {
	case profile.Rebooted:
		return meansReboot
	case profile.PoweredOff:
		return meansPowerOff
	}
	return meansCrash
}

// applyEnding changes desired state by what a guest's end means, and returns the meaning. It is pure but for the record.
func applyEnding(r *Record, e ending, t Timing) string {
	meaning := e.meaning(r)
	policy := r.Spec.RestartPolicy
	r.Ended = e.generation
	switch {
	case meaning == meansRequested:
	case meaning == meansPowerOff:
		r.fail(failure(codes.Aborted, "GUEST_POWERED_OFF", "the guest powered itself off before its boot had completed", e.at))
		r.turnOff(true, "powered off inside the guest")
	case policy == Never, policy == OnGuestReboot && meaning == meansCrash:
		r.fail(failure(codes.Aborted, "GUEST_EXITED", e.String(), e.at))
		r.turnOff(false, e.String()+", and the restart policy leaves the phone off")
	case meaning == meansHostRestart, meaning == meansReboot && r.booted():
		r.boot()
	default:
		// A guest that reboots before its boot has completed counts as one that crashed, or it could go on for ever.
		crashed(r, e, t)
	}
	// Only a database restored from a back-up is behind a guest; generations must grow from what has really run.
	r.BootGeneration = max(r.BootGeneration, r.Ended)
	if r.wantsGuest() && r.BootGeneration == r.Ended {
		r.boot()
	}
	return meaning
}

// crashed asks for another boot, or holds the phone when it has crashed too often.
func crashed(r *Record, e ending, t Timing) {
	var recent []time.Time
	for _, at := range r.Crashes {
		if e.at.Sub(at) < t.CrashWindow {
			recent = append(recent, at)
		}
	}
	r.Crashes = append(recent, e.at)
	if len(r.Crashes) < t.CrashLimit {
		r.boot()
		return
	}
	message := fmt.Sprintf("%d crashes within %s; last: %s", len(r.Crashes), t.CrashWindow, e)
	r.hold(HoldCrashLoop, codes.Aborted, HoldCrashLoop, message, e.at)
}

// hold stops the phone until the next request, and has the operation under way fail.
func (r *Record) hold(hold string, code codes.Code, reason, message string, now time.Time) {
	r.Hold = &Hold{Reason: hold, Message: readable(message), Since: now}
	r.Stop = Stop{At: now}
	r.fail(failure(code, reason, message, now))
}

// failure builds a Failure; its kind is set by Record.fail.
func failure(code codes.Code, reason, message string, at time.Time) operation.Failure {
	return operation.Failure{Code: int32(code), Reason: reason, Message: readable(message), Time: at}
}

// maxMessage bounds a message that is stored, since part of it may be what a guest printed.
const maxMessage = 1024

// readable makes a text short and valid UTF-8, whatever a guest put into it.
func readable(text string) string {
	if len(text) > maxMessage {
		text = text[:maxMessage] + "..."
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
