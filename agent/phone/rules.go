package phone

import (
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
)

// verdict is what a request meets in a status: "" lets it through, any other is a reason of package fault.
type verdict string

const (
	ok   verdict = ""
	lost verdict = fault.ContainerdLost
	busy verdict = fault.Busy
	on   verdict = fault.AlreadyOn
	off  verdict = fault.NotRunning
	up   verdict = fault.NotOff
)

// rules is which request is allowed in which status: one row per request, one column per status in the order of their numbers. A
// request that meets an operation under way is refused as BUSY even where this table lets it through, unless it supersedes it.
var rules = map[operation.Kind][6]verdict{
	//                  UNKNOWN STOPPED RUNNING STOPPING STARTING POWERED_OFF
	operation.PowerOn:  {lost, ok, on, busy, on, ok},
	operation.PowerOff: {lost, off, ok, busy, ok, off},
	operation.Restart:  {lost, off, ok, busy, busy, off},
	operation.Reset:    {lost, ok, ok, busy, busy, ok},
	operation.Delete:   {lost, ok, up, busy, up, ok},
}

// forced is the same for the requests that force lets through further.
var forced = map[operation.Kind][6]verdict{
	operation.PowerOff: {lost, off, ok, ok, ok, off},
	operation.Delete:   {ok, ok, ok, ok, ok, ok},
}

// supersedes reports whether a request ends an operation in its way as ABORTED instead of being refused. Nothing supersedes a
// deletion, and only force supersedes another power-off.
func supersedes(kind operation.Kind, force bool, inTheWay operation.Kind) bool {
	switch {
	case inTheWay == operation.Delete:
		return false
	case kind == operation.PowerOff:
		return force || inTheWay != operation.PowerOff
	case kind == operation.Delete:
		return force
	}
	return false
}

// refusal returns why a request on a phone is refused, or nil. It is pure: the status is what the phone is doing now, the task the
// operation under way.
func refusal(id string, kind operation.Kind, force bool, status Status, task *Task) error {
	row := rules[kind]
	if f, has := forced[kind]; force && has {
		row = f
	}
	v := row[status]
	if task != nil && (v == ok || v == busy || v == on) && !(v == ok && supersedes(kind, force, task.Kind)) {
		return fault.New(errdefs.ErrFailedPrecondition, fault.Busy, "phone %s is %s: %s %s is under way",
			id, status, task.Kind, task.OperationID).With("operation_id", task.OperationID)
	}
	switch v {
	case ok:
		return nil
	case lost:
		return fault.New(errdefs.ErrUnavailable, fault.ContainerdLost, "phone %s: containerd does not answer, so its state is not known", id)
	case on:
		return fault.New(errdefs.ErrFailedPrecondition, fault.AlreadyOn, "phone %s is %s already", id, status)
	case off:
		return fault.New(errdefs.ErrFailedPrecondition, fault.NotRunning, "phone %s is %s", id, status)
	case up:
		return fault.New(errdefs.ErrFailedPrecondition, fault.NotOff, "phone %s is %s: power it off first, or use force", id, status)
	}
	return fault.New(errdefs.ErrFailedPrecondition, fault.Busy, "phone %s is %s", id, status)
}
