package profile

import (
	"strings"
	"time"
)

// Ending is what the end of a guest means.
type Ending int

// The endings of a guest.
const (
	// Crashed: nobody asked for it, as far as exit and evidence tell.
	Crashed Ending = iota
	// Rebooted: the guest asked to be started again.
	Rebooted
	// PoweredOff: the guest asked to be off.
	PoweredOff
)

// String returns "crashed", "rebooted" or "powered off".
func (e Ending) String() string { return [...]string{"crashed", "rebooted", "powered off"}[e] }

// Evidence is what a guest left behind that may tell why it ended. All of it comes from the guest.
type Evidence struct {
	// StartedAt is when it started; zero if that is not known.
	StartedAt time.Time
	// BootReason is what its data volume says of its last shutdown: see ReadBootReason.
	BootReason BootReason
	// Log are the last lines of its output, oldest first.
	Log []string
}

// pidNamespaceEnding reads the exit of a guest whose init calls reboot(2): in a pid namespace the kernel then ends init by SIGHUP
// for a restart and by SIGINT for a power-off (kernel/pid_namespace.c, reboot_pid_ns).
func pidNamespaceEnding(exitCode uint32, _ Evidence) Ending {
	switch exitCode {
	case 128 + 1:
		return Rebooted
	case 128 + 2:
		return PoweredOff
	default:
		return Crashed
	}
}

// cleanExitEnding reads the exit of an Android init without CAP_SYS_BOOT, which ends with exit(0) where it would call reboot(2)
// (init/reboot_utils.cpp, RebootSystem): for a reboot, for a power-off, and after a fatal error of its own, which it also ends by a
// reboot. Which of them it was stands in the persistent properties, since init stores the reason early in an orderly shutdown and
// not after a fatal error; or in its log.
func cleanExitEnding(exitCode uint32, e Evidence) Ending {
	if !cleanExit(exitCode) {
		return pidNamespaceEnding(exitCode, e)
	}
	reason := e.BootReason.Value
	if e.stale() {
		reason = ""
	}
	if reason == "" {
		reason = loggedReason(e.Log)
	}
	switch {
	case reason == "":
		return Crashed
	case reason == "shutdown" || strings.HasPrefix(reason, "shutdown,"):
		return PoweredOff
	default:
		return Rebooted // "reboot,userrequested", "reboot,bpfloader-failed", "recovery"
	}
}

// cleanExit reports whether an exit code says so little that evidence must tell.
func cleanExit(exitCode uint32) bool { return exitCode == 0 }

// stale reports whether the reason was stored before the guest started: then it tells of an end before this one.
func (e Evidence) stale() bool {
	return !e.StartedAt.IsZero() && !e.BootReason.StoredAt.IsZero() && e.BootReason.StoredAt.Before(e.StartedAt)
}

// reasonMark begins init's own word about the shutdown that it begins (init/reboot.cpp, DoReboot).
const reasonMark = "Reboot start, reason: "

// loggedReason returns the reason of the last shutdown that init logged, or "".
func loggedReason(log []string) string {
	reason := ""
	for _, line := range log {
		if _, after, ok := strings.Cut(line, reasonMark); ok {
			reason, _, _ = strings.Cut(after, ", reboot_target")
		}
	}
	return reason
}
