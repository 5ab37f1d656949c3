package phone

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/fault"
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
	meansOOM         = "oom"
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
	// outOfMemory tells that the kernel killed processes of it for memory just before.
	outOfMemory bool
	// at is when it ended.
	at time.Time
	// log is the last that it printed, some lines at most.
	log string
	// wish is what the guest itself asked for by its end, as its profile reads it.
	wish profile.Ending
}

// kills is what a controller knows of the processes of the present guest that the kernel killed for want of memory.
type kills struct {
	// watched is whether the guest has been seen running; then seen is how many the kernel had counted.
	watched bool
	seen    uint64
	// last is when the newest was noticed; zero for none.
	last time.Time
}

// justBefore is how long before a guest's end the kernel killed processes of it, for the end to be put down to that: what init does
// when a service is gone it does within seconds.
const justBefore = 30 * time.Second

// watch takes the kernel's count of a guest that runs.
func (k *kills) watch(count uint64, now time.Time) {
	if k.watched && count > k.seen {
		k.last = now
	}
	k.watched, k.seen = true, max(count, k.seen)
}

// explain reports whether a guest that has ended did so for want of memory. count is the kernel's count, code the exit code.
//
// The kernel's count outlives an agent that was away when it grew; it tells how many and not when. So it counts where init itself was
// killed, or where it grew since the guest was last looked at, which for a guest that was never looked at is its whole life.
func (k *kills) explain(count uint64, code uint32, at time.Time) bool {
	switch {
	case code == killedCode && count > 0, count > k.seen:
		return true
	}
	return !k.last.IsZero() && at.Sub(k.last) < justBefore
}

// killedCode is the exit code of a process that was ended by SIGKILL.
const killedCode = 128 + 9

// unasked reports whether a guest that ended should have gone on running.
func unasked(r *Record, s sight) bool {
	return r.wantsGuest() && max(s.obs.Guest.BootGeneration, r.Started.Generation) >= r.BootGeneration
}

// observedEnding reads the end of a guest for which ended is true; its log and its wish are for others to find out.
func observedEnding(r *Record, s sight, hostBoot string, memory kills, now time.Time) ending {
	g := s.obs.Guest
	if g.State == container.TaskStopped && !g.HostStopped {
		at := g.ExitedAt
		if at.IsZero() || at.After(now) {
			at = now
		}
		return ending{generation: g.BootGeneration, code: g.ExitCode, outOfMemory: memory.explain(g.OOMKills, g.ExitCode, at), at: at}
	}
	generation := r.Started.Generation
	if g.State == container.TaskStopped {
		generation = max(generation, g.BootGeneration)
	}
	return ending{
		generation: generation, gone: true, hostRestart: g.HostStopped || r.Started.HostBoot != hostBoot,
		outOfMemory: memory.explain(g.OOMKills, 0, now), at: now,
	}
}

// String describes the end for people.
func (e ending) String() string {
	memory := ""
	if e.outOfMemory {
		memory = " after the kernel had killed processes of it for want of memory"
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
	}
	switch e.wish {
	case profile.Rebooted:
		return meansReboot
	case profile.PoweredOff:
		return meansPowerOff
	}
	if e.outOfMemory {
		return meansOOM
	}
	return meansCrash
}

// applyEnding changes desired state by what a guest's end means, and returns the meaning. It is pure but for the record.
func applyEnding(r *Record, e ending, t Timing) string {
	meaning := e.meaning(r)
	policy := r.Spec.RestartPolicy
	crashed := meaning == meansCrash || meaning == meansOOM
	r.Ended = e.generation
	if meaning == meansOOM {
		f := failure(codes.ResourceExhausted, fault.OutOfMemory, e.String(), e.at)
		r.LastFailure = &f
	}
	switch {
	case meaning == meansRequested:
	case meaning == meansPowerOff:
		r.fail(failure(codes.Aborted, "GUEST_POWERED_OFF", "the guest powered itself off before its boot had completed", e.at))
		r.turnOff(true, "powered off inside the guest")
	case policy == Never, policy == OnGuestReboot && crashed:
		r.fail(failure(codes.Aborted, failureReason(meaning, "GUEST_EXITED"), e.String(), e.at))
		r.turnOff(false, e.String()+", and the restart policy leaves the phone off")
	case meaning == meansHostRestart, meaning == meansReboot && r.booted():
		r.boot(e.at)
	default:
		// A guest that reboots before its boot has completed counts as one that crashed, or it could go on for ever.
		countCrash(r, e, meaning, t)
	}
	// Only a database restored from a back-up is behind a guest; generations must grow from what has really run.
	r.BootGeneration = max(r.BootGeneration, r.Ended)
	if r.wantsGuest() && r.BootGeneration == r.Ended {
		r.boot(e.at)
	}
	return meaning
}

// failureReason is the reason of an operation's failure by an end of this meaning: OUT_OF_MEMORY, or another.
func failureReason(meaning, other string) string {
	if meaning == meansOOM {
		return fault.OutOfMemory
	}
	return other
}

// recent returns those times that lie within a window before now.
func recent(times []time.Time, now time.Time, window time.Duration) []time.Time {
	return slices.DeleteFunc(slices.Clone(times), func(at time.Time) bool { return now.Sub(at) >= window })
}

// countCrash asks for another boot, or holds the phone when it has crashed too often.
func countCrash(r *Record, e ending, meaning string, t Timing) {
	r.Crashes = append(recent(r.Crashes, e.at, t.CrashWindow), e.at)
	r.Starved = recent(r.Starved, e.at, t.CrashWindow)
	if meaning == meansOOM {
		r.Starved = append(r.Starved, e.at)
	}
	if len(r.Crashes) < t.CrashLimit {
		r.boot(e.at)
		return
	}
	message := fmt.Sprintf("%d crashes within %s", len(r.Crashes), t.CrashWindow)
	if n := len(r.Starved); n > 0 {
		message += fmt.Sprintf(", %d of them for want of memory (the limit is %d MiB)", n, r.Spec.MemoryBytes>>20)
	}
	message += "; last: " + e.String()
	if line := lastLine(e.log); line != "" {
		message += "; last log line: " + line
	}
	r.hold(HoldCrashLoop, codes.Aborted, failureReason(meaning, HoldCrashLoop), message, e.at)
}

// lastLine returns the last line of a text that is not empty.
func lastLine(text string) string {
	text = strings.TrimRight(text, "\n \t\r")
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// hold stops the phone until the next request, and has the operation under way fail.
func (r *Record) hold(hold string, code codes.Code, reason, message string, now time.Time) {
	r.Hold = &Hold{Reason: hold, Message: fault.Readable(message), Since: now}
	r.Stop = Stop{At: now}
	r.fail(failure(code, reason, message, now))
}

// failure builds a Failure; its kind is set by Record.fail.
func failure(code codes.Code, reason, message string, at time.Time) operation.Failure {
	return operation.Failure{Code: int32(code), Reason: reason, Message: fault.Readable(message), Time: at}
}
