package phone

import (
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
)

// situation is all that decides whether a phone accepts a request.
type situation struct {
	// status is what the phone is doing.
	status Status
	// frozen is whether it must not run.
	frozen bool
	// task is the kind of the operation that is under way, 0 for none; change tells that an Update is.
	task   operation.Kind
	change bool
	// read is whether its data is being copied.
	read bool
}

// verdict is what a request meets: one of the words below, or a reason of package fault that refuses it.
type verdict string

const (
	// ok lets a request through; where something is under way, the two go on beside each other.
	ok verdict = ""
	// wins lets a request through and ends what is under way as ABORTED.
	wins verdict = "wins"

	lost   verdict = fault.ContainerdLost
	busy   verdict = fault.Busy
	on     verdict = fault.AlreadyOn
	off    verdict = fault.NotRunning
	up     verdict = fault.NotOff
	frozen verdict = fault.Frozen
)

// asked is a request as the rules know it. Clone is the one to copy the phone's data to another, ImportData the one to replace it.
type asked struct {
	kind  operation.Kind
	force bool
}

// byStatus is which request is allowed in which status when nothing is in its way: one column per status in the order of their
// numbers.
var byStatus = map[asked][6]verdict{
	//                        UNKNOWN STOPPED RUNNING STOPPING STARTING POWERED_OFF
	{operation.PowerOn, false}:    {lost, ok, on, busy, on, ok},
	{operation.PowerOff, false}:   {lost, off, ok, busy, ok, off},
	{operation.PowerOff, true}:    {lost, off, ok, ok, ok, off},
	{operation.Restart, false}:    {lost, off, ok, busy, busy, off},
	{operation.Reset, false}:      {lost, ok, ok, busy, busy, ok},
	{operation.Delete, false}:     {lost, ok, up, busy, up, ok},
	{operation.Delete, true}:      {ok, ok, ok, ok, ok, ok},
	{operation.Freeze, false}:     {ok, ok, ok, ok, ok, ok},
	{operation.Unfreeze, false}:   {ok, ok, ok, ok, ok, ok},
	{operation.Update, false}:     {ok, ok, ok, ok, ok, ok},
	{operation.Clone, false}:      {lost, ok, up, busy, up, ok},
	{operation.ImportData, false}: {lost, ok, up, busy, up, ok},
}

// obstacles are the columns of byObstacle: the operations that can be under way, and that the phone's data is being copied.
var obstacles = [...]operation.Kind{
	operation.PowerOn, operation.PowerOff, operation.Restart, operation.Reset, operation.Delete, operation.Freeze, operation.Clone,
	operation.ImportData, operation.Update, beingCopied,
}

// beingCopied is the column for a phone whose data is being copied.
const beingCopied operation.Kind = -1

// byObstacle is what a request that the status does not refuse meets in what is under way.
var byObstacle = map[asked][len(obstacles)]verdict{
	//                           PowerOn PowerOff Restart Reset Delete Freeze Clone ImportData Update being copied
	{operation.PowerOn, false}:    {busy, busy, busy, busy, busy, busy, busy, busy, ok, busy},
	{operation.PowerOff, false}:   {wins, busy, wins, wins, busy, busy, busy, wins, ok, ok},
	{operation.PowerOff, true}:    {wins, wins, wins, wins, busy, wins, busy, wins, ok, ok},
	{operation.Restart, false}:    {busy, busy, busy, busy, busy, busy, busy, busy, ok, busy},
	{operation.Reset, false}:      {busy, busy, busy, busy, busy, busy, busy, busy, ok, busy},
	{operation.Delete, false}:     {busy, busy, busy, busy, busy, busy, busy, busy, busy, busy},
	{operation.Delete, true}:      {wins, wins, wins, wins, busy, wins, wins, wins, wins, wins},
	{operation.Freeze, false}:     {wins, wins, wins, wins, busy, busy, busy, wins, ok, ok},
	{operation.Freeze, true}:      {wins, wins, wins, wins, busy, wins, busy, wins, ok, ok},
	{operation.Unfreeze, false}:   {ok, ok, ok, ok, busy, busy, ok, ok, ok, ok},
	{operation.Update, false}:     {ok, ok, ok, ok, busy, ok, busy, ok, busy, ok},
	{operation.Clone, false}:      {busy, busy, busy, busy, busy, busy, busy, busy, busy, ok},
	{operation.ImportData, false}: {busy, busy, busy, busy, busy, busy, busy, busy, busy, busy},
}

// row returns the row of a request; force means nothing where the table has no row of its own for it.
func row[V any](table map[asked]V, kind operation.Kind, force bool) V {
	if v, has := table[asked{kind, force}]; has {
		return v
	}
	return table[asked{kind, false}]
}

// judge is the whole table: what a request meets in a situation, and in which obstacle, 0 for none. What the status alone refuses as
// BUSY or ALREADY_ON is put down to what is under way, if there is something.
func judge(kind operation.Kind, force bool, s situation) (v verdict, obstacle operation.Kind) {
	if s.frozen && (kind == operation.PowerOn || kind == operation.Restart) {
		return frozen, 0
	}
	v = row(byStatus, kind, force)[s.status]
	if v == off && kind == operation.PowerOff && s.task == operation.ImportData {
		return wins, operation.ImportData // there is no other way to give it up and keep the phone as it is
	}
	if v != ok && v != busy && v != on {
		return v, 0
	}
	met := row(byObstacle, kind, force)
	for i, what := range obstacles {
		switch {
		case !s.meets(what) || met[i] == ok:
		case met[i] == busy:
			return busy, what
		default:
			v, obstacle = wins, what
		}
	}
	return v, obstacle
}

// meets reports whether an obstacle is there.
func (s situation) meets(what operation.Kind) bool {
	switch what {
	case operation.Update:
		return s.change
	case beingCopied:
		return s.read
	}
	return s.task == what
}

// refusal returns why a request on a phone is refused, or nil. The status is what the phone is doing now.
func refusal(kind operation.Kind, force bool, status Status, r *Record) error {
	s := situation{status: status, frozen: r.frozen(), change: r.Change != nil, read: len(r.Readers) > 0}
	if r.Task != nil {
		s.task = r.Task.Kind
	}
	id := r.Spec.ID
	v, obstacle := judge(kind, force, s)
	switch v {
	case ok, wins:
		return nil
	case lost:
		return fault.New(errdefs.ErrUnavailable, fault.ContainerdLost, "phone %s: containerd does not answer, so its state is not known", id)
	case frozen:
		return fault.New(errdefs.ErrFailedPrecondition, fault.Frozen, "phone %s is frozen: %s%s", id, r.freezeWords(), r.expiryWords())
	case on:
		return fault.New(errdefs.ErrFailedPrecondition, fault.AlreadyOn, "phone %s is %s already", id, status)
	case off:
		return fault.New(errdefs.ErrFailedPrecondition, fault.NotRunning, "phone %s is %s", id, status)
	case up:
		return fault.New(errdefs.ErrFailedPrecondition, fault.NotOff, "phone %s is %s: power it off first%s", id, status, orForce(kind))
	}
	return busyWith(r, status, obstacle)
}

// orForce names the other way out of NOT_OFF, where there is one.
func orForce(kind operation.Kind) string {
	if kind == operation.Delete {
		return ", or use force"
	}
	return ""
}

// busyWith is the refusal for what is in the way, 0 where it is the status alone.
func busyWith(r *Record, status Status, obstacle operation.Kind) error {
	id, operationID, what := r.Spec.ID, "", ""
	switch {
	case obstacle == beingCopied:
		for copyID, copying := range r.Readers {
			if operationID == "" || copying < operationID {
				operationID, what = copying, "its data is being copied to "+copyID+" by "+copying
			}
		}
	case obstacle == operation.Update && r.Change != nil:
		operationID = r.Change.OperationID
	case r.Task != nil:
		obstacle, operationID = r.Task.Kind, r.Task.OperationID
	}
	if operationID == "" {
		return fault.New(errdefs.ErrFailedPrecondition, fault.Busy, "phone %s is %s", id, status)
	}
	if what == "" {
		what = obstacle.String() + " " + operationID + " is under way"
	}
	return fault.New(errdefs.ErrFailedPrecondition, fault.Busy, "phone %s is %s: %s", id, status, what).With("operation_id", operationID)
}
