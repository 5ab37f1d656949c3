package phone

import (
	"fmt"
	"time"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/runtime/container"
)

// sight is what a controller saw last.
type sight struct {
	// known is false while containerd cannot be asked; then obs is what was seen before.
	known bool
	obs   container.Observation
}

// guestUp reports whether a guest runs.
func (s sight) guestUp() bool { return s.obs.Guest.State == container.TaskRunning }

// statusOf joins what should be with what is. The text says why where the status does not speak for itself.
func statusOf(r *Record, s sight, now time.Time, t Timing) (Status, string) {
	switch {
	case !s.known:
		return Unknown, "containerd does not answer"
	case r.Deleting:
		return Stopping, "being deleted"
	case s.guestUp():
		return statusUp(r, s)
	case r.wantsGuest():
		if next := nextStart(r, now, t); next.After(now) {
			return Starting, fmt.Sprintf("the guest crashed; next start at %s", next.UTC().Format(time.RFC3339))
		}
		return Starting, ""
	case s.obs.Guest.Container || s.obs.Display.Container:
		return Stopping, ""
	case r.taskIs(operation.Clone):
		return Stopped, "being cloned from " + r.CloneOf
	case r.taskIs(operation.ImportData) && r.OffAsked:
		return PoweredOff, "an archive is being imported"
	case r.taskIs(operation.ImportData):
		return Stopped, "an archive is being imported"
	case r.frozen() && r.OffAsked:
		return PoweredOff, "frozen: " + r.freezeWords()
	case r.frozen():
		return Stopped, "frozen: " + r.freezeWords()
	case r.Hold != nil:
		return Stopped, r.Hold.Reason + ": " + r.Hold.Message
	case r.OffAsked:
		return PoweredOff, r.OffReason
	}
	return Stopped, r.OffReason
}

// statusUp is the status of a phone whose guest runs.
func statusUp(r *Record, s sight) (Status, string) {
	switch {
	case !r.wantsGuest() || s.obs.Guest.BootGeneration != r.BootGeneration:
		return Stopping, ""
	case r.booted():
		return Running, ""
	}
	return Starting, "booting"
}

// nextStart returns when a guest that crashed may be started again: the back-off doubles with every crash that is remembered. A crash
// that is ahead of the clock, since that was set back, makes nobody wait.
func nextStart(r *Record, now time.Time, t Timing) time.Time {
	n := len(r.Crashes)
	if n == 0 || r.Crashes[n-1].After(now) {
		return time.Time{}
	}
	return r.Crashes[n-1].Add(t.crashDelay(n))
}

// Snapshot is one phone as readers see it, at one moment.
type Snapshot struct {
	// Record is what is stored of the phone; it must not be changed.
	Record Record
	// Status is what the phone is doing.
	Status Status
	// Reason says why, for people; empty where the status speaks for itself.
	Reason string
	// InitPID is the guest's init in the host's pid namespace; 0 when it does not run.
	InitPID uint32
	// Boot is the boot generation of the guest that runs; 0 when none does.
	Boot uint64
	// StartTime is when the guest's init started, by the wall clock as it is now; zero when it does not run.
	StartTime time.Time
	// BootTime is when the present run reported boot completed; zero before.
	BootTime time.Time
	// DisplayOn is whether the display's process runs.
	DisplayOn bool
	// DisplayVersion is the version of the display's files.
	DisplayVersion string
	// PendingRestart names the fields of the spec that take effect at the next start only.
	PendingRestart []string
	// QueuePosition is the phone's place among those that wait to boot, from 1; 0 when it does not.
	QueuePosition int
	// NetworkInForce is whether the network is what the record says, as far as this agent has made it, and NetworkProblem why it could not be
	// made so.
	NetworkInForce bool
	NetworkProblem string
	// Outside is whether the guest runs below another cgroup root than the present one, until its next start.
	Outside bool
	// Revision grows with every change of any phone, but for those of QueuePosition alone.
	Revision uint64

	queued bool // waits for a boot slot
}

// SameRun reports whether the same run of the guest, or none, is seen in both. When it began does not tell: the wall clock is set now and then.
func (s Snapshot) SameRun(o Snapshot) bool { return s.InitPID == o.InitPID && s.Boot == o.Boot }

// OperationID returns the operation that is under way, an Update only while no other is; or "".
func (s Snapshot) OperationID() string {
	if s.Record.Task == nil && s.Record.Change != nil {
		return s.Record.Change.OperationID
	}
	return s.Record.operationID()
}

// snapshot joins a record and a sight; the revision is the supervisor's to set.
func snapshot(r *Record, s sight, now time.Time, t Timing) Snapshot {
	snap := Snapshot{Record: r.clone()}
	snap.Status, snap.Reason = statusOf(r, s, now, t)
	if !s.known {
		return snap
	}
	if s.guestUp() {
		snap.InitPID, snap.Boot, snap.StartTime, snap.Outside = s.obs.Guest.PID, s.obs.Guest.BootGeneration, s.obs.Guest.StartedAt, s.obs.Guest.Outside
		if r.Booted.Generation == s.obs.Guest.BootGeneration {
			snap.BootTime = r.Booted.Time
		}
		snap.PendingRestart = r.Spec.pendingRestart(s.obs.Guest)
	}
	snap.DisplayOn = s.obs.Display.State == container.TaskRunning
	snap.DisplayVersion = s.obs.Display.Version
	return snap
}
