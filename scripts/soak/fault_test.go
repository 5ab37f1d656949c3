package soak

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fault is one round: an action, and what disturbs it. Its words are what a failure prints, and what PHONEHOST_SOAK_ONLY takes:
//
//	ACTION kill POINT N [POINT N]   the agent is killed at the n-th arrival; its successor at that of the second point
//	ACTION time MILLISECONDS        the agent is killed so long after the request
//	ACTION fail POINT N COUNT       so many arrivals are answered with an error
//	ACTION containerd POINT N       containerd is killed while the agent is held there, and started again; likewise
//	ACTION shim POINT N             the phone's shim,
//	ACTION display POINT N          its display,
//	ACTION guest POINT N            the guest's init
//	ACTION disk POINT N             the disk below the state directory is full from there on, for a second
type fault struct {
	action action
	kind   string
	words  []string // behind the kind
}

func (f fault) String() string {
	return strings.Join(append([]string{f.action.name, f.kind}, f.words...), " ")
}

// parseFault reads the words of a fault.
func parseFault(text string) (fault, error) {
	words := strings.Fields(text)
	if len(words) < 3 || !slices.ContainsFunc(actions(), func(a action) bool { return a.name == words[0] }) {
		return fault{}, fmt.Errorf("fault %q is not ACTION KIND WORDS", text)
	}
	return fault{action: findAction(words[0]), kind: words[1], words: words[2:]}, nil
}

// play plays a round. reached is whether the point was.
func (l *lab) play(ctx context.Context, f fault) (reached bool, err error) {
	if ok, err := l.learn(ctx, f.action); err != nil || !ok {
		return false, err
	}
	switch f.kind {
	case "kill":
		o, err := l.disturbed(ctx, f.action, func() func() error {
			l.h.plan("kill " + f.words[0] + " " + f.words[1] + " 1")
			if len(f.words) == 4 {
				l.h.second = "kill " + f.words[2] + " " + f.words[3] + " 1"
			}
			return func() error { return nil }
		})
		l.h.second = ""
		l.h.plan()
		return o.killed, err
	case "time":
		ms, err := strconv.Atoi(f.words[0])
		if err != nil {
			return false, err
		}
		o, err := l.disturbed(ctx, f.action, func() func() error { return l.killAfter(time.Duration(ms) * time.Millisecond) })
		return o.killed, err
	case "fail":
		return l.wrecked(ctx, f.action, func() func() error { return l.failFor(mendTime, f.words) })
	case "containerd", "shim", "display", "guest", "disk":
		return l.wrecked(ctx, f.action, func() func() error { return l.heldThen(ctx, f) })
	}
	return false, fmt.Errorf("unknown kind of fault %q", f.kind)
}

// mendTime is how long something fails at most: longer than a start is tried. What is never given up, such as a deletion, ends when the
// world is whole again.
const mendTime = 10 * time.Second

// failFor has a point fail, for a time at most.
func (l *lab) failFor(limit time.Duration, words []string) func() error {
	l.h.plan("fail " + strings.Join(words, " "))
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-timer.C:
			l.h.plan()
		case <-over:
		}
	}()
	return func() error {
		close(over)
		<-done
		return nil
	}
}

// killAfter kills the agent of now after a time, and returns what waits until that is done.
func (l *lab) killAfter(after time.Duration) func() error {
	victim, done := l.h.cmd.Process, make(chan struct{})
	timer := time.AfterFunc(after, func() {
		defer close(done)
		_ = victim.Kill() // no error but that it has ended already
	})
	return func() error {
		if !timer.Stop() {
			<-done
		}
		return nil
	}
}

// heldThen does the harm of a fault while the agent is held at its point, and then lets the agent go on.
func (l *lab) heldThen(ctx context.Context, f fault) func() error {
	l.h.plan("hold " + f.words[0] + " " + f.words[1] + " 1")
	over, result := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(result)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for !l.h.noted("held") {
			select {
			case <-tick.C:
			case <-over:
				return // the point was not reached
			}
		}
		var err error
		l.hit, err = l.harm(ctx, f.kind)
		l.h.plan()
		if f.kind == "disk" {
			<-time.After(fullFor)
			err = errors.Join(err, l.h.free())
		}
		result <- err
	}()
	return func() error {
		close(over)
		return <-result
	}
}

// noted reports whether the agent has noted in a file of the faults' directory that something planned has come about.
func (h *host) noted(name string) bool {
	_, err := os.Stat(h.path("faults", name))
	return err == nil
}

// harm kills what a kind of fault names. hit is false where there is no such thing at this point.
func (l *lab) harm(ctx context.Context, kind string) (hit bool, err error) {
	switch kind {
	case "containerd":
		l.h.containerd.Kill()
		l.h.containerd.Restart()
		return true, nil
	case "disk":
		return true, l.h.fill()
	case "shim":
		for _, pid := range l.h.containerd.Shims() {
			hit = unix.Kill(pid, unix.SIGKILL) == nil || hit
		}
		return hit, nil
	}
	name := l.id
	if kind == "display" {
		name += ".display"
	}
	answer, err := l.h.ctrd.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: name})
	if err != nil || answer.GetProcess().GetPid() == 0 {
		return false, nil
	}
	return unix.Kill(int(answer.GetProcess().GetPid()), unix.SIGKILL) == nil, nil
}

// wrecked does an action while the world breaks. The operation must end, and what it says must be so: after a success the phone is as
// asked for, after a failure it is at rest and the failure says why. Nothing is left of the phone when it is deleted.
func (l *lab) wrecked(ctx context.Context, a action, start func() func() error) (reached bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, roundLimit)
	defer cancel()
	if _, err := l.learn(ctx, findAction("delete")); err != nil {
		return false, err
	}
	var c call
	err = l.during("bring the phone to where the action begins", func() (err error) { c, err = l.begin(ctx, a); return err })
	if err != nil {
		return false, err
	}
	l.at = running // whatever it is: it is deleted in the end
	l.hit = false
	for _, name := range []string{"held", "failed"} {
		_ = os.Remove(l.h.path("faults", name)) // of an earlier round
	}
	var o outcome
	err = l.during("the action", func() error {
		join := start()
		return l.attempt(ctx, a, c, &o, func() error {
			if plain := l.known[a.name].plain; plain || o.op.GetState() == phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
				l.linger(ctx, a, c)
			}
			return join()
		})
	})
	l.h.plan()
	reached = l.hit || l.h.noted("failed")
	if refused := status.Code(err); err != nil && o.op == nil && refused != codes.DeadlineExceeded && refused != codes.Canceled {
		err = nil // refused with a reason, and nothing was begun
	} else if err == nil {
		err = l.during("wait for phone and host", func() error { return l.truthful(ctx, a, c, o.op) })
	}
	if err == nil && a.always != nil {
		err = a.always(ctx, c, o.op)
	}
	if err != nil {
		return reached, err
	}
	if err := l.during("delete a phone", func() error { return l.drop(ctx) }); err != nil {
		return reached, err
	}
	return reached, l.during("wait for phone and host", func() error {
		return l.settle(ctx, findAction("delete"), c, &outcome{}, l.known["delete"])
	})
}

// lingerLimit and lingerTime bound how long a fault is waited for that lies behind the end of an operation: until the phone is what was
// asked for, and a moment longer.
const (
	lingerLimit = 5 * time.Second
	lingerTime  = 250 * time.Millisecond
)

// linger waits until the planned fault has come about or will not come any more.
func (l *lab) linger(ctx context.Context, a action, c call) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	var there time.Time // since when
	for began := time.Now(); time.Since(began) < lingerLimit && ctx.Err() == nil; <-tick.C {
		if l.h.noted("held") || l.h.noted("failed") {
			return
		}
		p, err := c.phone(ctx)
		switch {
		case err == nil && !a.to.is(p), status.Code(err) == codes.Unavailable:
			there = time.Time{}
		case there.IsZero():
			there = time.Now()
		case time.Since(there) > lingerTime:
			return
		}
	}
}

// truthful waits until the phone is as an operation says.
func (l *lab) truthful(ctx context.Context, a action, c call, op *phonehostv1.Operation) error {
	succeeded := op == nil || op.GetState() == phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED
	if f := op.GetResults(); !succeeded && (len(f) == 0 || f[0].GetFailure().GetMessage() == "") {
		return fmt.Errorf("the operation failed without a word: %v", op)
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		p, err := c.phone(ctx)
		if status.Code(err) == codes.NotFound {
			if a.to == absent || !succeeded && a.from == absent {
				return nil
			}
			return fmt.Errorf("the phone is gone after %v", op)
		}
		if err != nil && status.Code(err) != codes.Unavailable {
			return err
		}
		if succeeded && a.to != absent && a.to.is(p) || !succeeded && p.GetOperationId() == "" && restful(p.GetStatus()) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), fmt.Errorf("after %v the phone is %v", op, p))
		}
	}
}

// restful reports whether a phone with this status stays as it is.
func restful(s phonehostv1.PhoneStatus) bool {
	return s == phonehostv1.PhoneStatus_PHONE_STATUS_RUNNING || s == phonehostv1.PhoneStatus_PHONE_STATUS_STOPPED ||
		s == phonehostv1.PhoneStatus_PHONE_STATUS_POWERED_OFF
}

// arrival is a point and which arrival at it.
type arrival struct {
	point string
	n     int
}

// failures lists the failures of an action: what follows a point that can fail fails once, and, inside compound work, again and again.
func (r *reference) failures() (all [][]string) {
	for _, at := range r.arrivals() {
		if !r.fallible[at.point] {
			continue
		}
		all = append(all, []string{at.point, strconv.Itoa(at.n), "1"})
		if kind, _, _ := strings.Cut(at.point, "/"); at.n == 1 && kind != "call" && kind != "commit" {
			all = append(all, []string{at.point, "1", "1000"})
		}
	}
	return all
}

// arrivals lists where an action is to be disturbed: at the first and the last arrival at each point that it passes, and at every commit.
func (r *reference) arrivals() []arrival {
	count := map[string]int{}
	var all []arrival
	for _, point := range r.points {
		count[point]++
		if n := count[point]; n == 1 || strings.HasPrefix(point, "commit/") {
			all = append(all, arrival{point, n})
		}
	}
	for _, point := range slices.Sorted(maps.Keys(count)) {
		if n := count[point]; n > 1 && !strings.HasPrefix(point, "commit/") {
			all = append(all, arrival{point, n})
		}
	}
	return all
}
