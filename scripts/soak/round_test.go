package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// roundLimit bounds a round, and settleLimit the time from an operation's end until the phone and the host are as they should be.
const (
	roundLimit  = 2 * time.Minute
	settleLimit = 15 * time.Second
	lookAgain   = 20 * time.Millisecond
)

// learn does an action undisturbed and remembers what it passes and leaves. It returns false where the agent cannot do it.
func (l *lab) learn(ctx context.Context, a action) (bool, error) {
	if l.known[a.name] != nil {
		return true, nil
	}
	c, err := l.begin(ctx, a)
	if err != nil {
		return false, err
	}
	l.h.plan("record * 1 1")
	began := time.Now()
	op, err := a.ask(ctx, c)
	if err == nil && op != nil {
		op, err = l.h.finish(ctx, op.GetId())
	}
	if err != nil {
		return false, err
	}
	ref := &reference{took: time.Since(began), plain: op == nil}
	if op != nil && op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		l.h.plan()
		l.h.reached()
		// Without CAP_SYS_RESOURCE the kernel lets no file system grow while it is mounted.
		switch code := codes.Code(op.GetResults()[0].GetFailure().GetCode()); {
		case code == codes.Unimplemented, code == codes.FailedPrecondition && a.name == "grow":
			return false, nil
		}
		return false, fmt.Errorf("undisturbed: %v", op)
	}
	if err := l.h.await(ctx, c.id, a.to); err != nil {
		return false, fmt.Errorf("undisturbed: %w", err)
	}
	if ref.left, err = l.quiet(ctx); err != nil {
		return false, err
	}
	l.h.plan()
	ref.points, ref.fallible = l.h.reached()
	if ref.events, err = l.events(ctx); err != nil {
		return false, err
	}
	if err := l.verify(ctx, a, c, op); err != nil {
		return false, fmt.Errorf("undisturbed: %w", err)
	}
	l.known[a.name] = ref
	return true, l.conclude(ctx, a)
}

// begin brings a phone to where an action begins.
func (l *lab) begin(ctx context.Context, a action) (call, error) {
	if err := l.bring(ctx, a.from); err != nil {
		return call{}, err
	}
	c := call{h: l.h, id: l.id, request: fmt.Sprintf("r%d", l.next())}
	l.twins = a.makes
	if a.prepare != nil {
		if err := a.prepare(ctx, c); err != nil {
			return c, fmt.Errorf("prepare %s: %w", a.name, err)
		}
	}
	if _, err := l.events(ctx); err != nil {
		return c, err
	}
	if a.from == absent {
		return c, nil
	}
	p, err := c.phone(ctx)
	c.before = p
	return c, err
}

// quiet returns the inventory once nothing has changed for half a second.
func (l *lab) quiet(ctx context.Context) (inventory, error) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	var last inventory
	same := 0
	for deadline := time.Now().Add(settleLimit); time.Duration(same)*lookAgain < 500*time.Millisecond; {
		now, err := l.h.take(ctx, l.id)
		if err != nil {
			return nil, err
		}
		if same++; !slices.Equal(now, last) {
			same = 0
		}
		if last = now; time.Now().After(deadline) {
			return nil, errors.New("the host does not come to rest")
		}
		<-tick.C
	}
	return last, nil
}

// outcome is how a round went.
type outcome struct {
	killed bool // the agent was killed as planned
	op     *phonehostv1.Operation
}

// disturbed does an action while start's doing goes on beside it, brings up another agent each time one has been killed, and compares
// what has become of the phone and the host with what the action does undisturbed.
func (l *lab) disturbed(ctx context.Context, a action, start func() (join func() error)) (o outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, roundLimit)
	defer cancel()
	ref := l.known[a.name]
	var c call
	err = l.during("bring the phone to where the action begins", func() (err error) { c, err = l.begin(ctx, a); return err })
	if err != nil {
		return o, err
	}
	if err := l.during("the action", func() error { return l.attempt(ctx, a, c, &o, start()) }); err != nil {
		return o, err
	}
	if err := l.during("wait for phone and host", func() error { return l.settle(ctx, a, c, &o, ref) }); err != nil {
		return o, err
	}
	l.at = a.to
	l.h.second = ""
	l.h.plan() // what was planned and not reached does not disturb the looking
	if l.h.isDead(0) {
		o.killed = true
		if err := l.revive(); err != nil {
			return o, err
		}
	}
	return o, l.during("look at the outcome", func() error {
		if err := l.verify(ctx, a, c, o.op); err != nil {
			return err
		}
		events, err := l.events(ctx)
		if a.to == absent { // a guest that a deletion has killed may be seen ended, or be gone at once
			delete(events, phonehostv1.EventKind_EVENT_KIND_GUEST_EXITED.String())
		}
		if err == nil && !maps.Equal(events, ref.events) {
			err = fmt.Errorf("the stored events are %v, undisturbed they are %v", events, ref.events)
		}
		if err == nil {
			err = l.conclude(ctx, a)
		}
		return err
	})
}

// revive starts another agent.
func (l *lab) revive() error { return l.during("agents that start", l.h.revive) }

// attempt asks for an action until an agent lives to see its end.
func (l *lab) attempt(ctx context.Context, a action, c call, o *outcome, join func() error) (err error) {
	defer func() { err = errors.Join(err, join()) }()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		o.op, err = a.ask(ctx, c)
		if err == nil && o.op != nil {
			o.op, err = l.h.finish(ctx, o.op.GetId())
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		away := status.Code(err) == codes.Unavailable // as without containerd, or an agent that is just ending
		switch {
		case l.h.isDead(patience(away, err)):
			o.killed = true
			if err := l.revive(); err != nil {
				return err
			}
		case !away:
			return err
		}
		<-tick.C
	}
}

// patience is how long the end of an agent is waited for after an error: not at all where it was the agent that said why, and for a
// moment where the call is made again anyway.
func patience(away bool, err error) time.Duration {
	switch {
	case len(status.Convert(err).Details()) > 0:
		return 0
	case away:
		return lookAgain
	default:
		return time.Second
	}
}

// settle waits until the phone and the host are as they should be. Points that lie behind the end of an operation are passed meanwhile.
func (l *lab) settle(ctx context.Context, a action, c call, o *outcome, ref *reference) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for deadline := time.Now().Add(settleLimit); ; <-tick.C {
		if l.h.isDead(0) {
			o.killed = true
			if err := l.revive(); err != nil {
				return err
			}
		}
		left, err := l.h.take(ctx, c.id)
		if err != nil {
			return err
		}
		diff := ref.left.differs(left)
		p, err := c.phone(ctx)
		switch {
		case status.Code(err) == codes.Unavailable:
			continue // it has just been killed
		case err != nil && (a.to != absent || status.Code(err) != codes.NotFound):
			return err
		case err == nil && a.to == absent:
			diff += "\n  the phone exists"
		case err == nil && !a.to.is(p):
			diff += fmt.Sprintf("\n  the phone is %s with operation %q, reason %q, freezes %v, want %s", p.GetStatus(), p.GetOperationId(), p.GetReason(), p.GetFreezes(), a.to)
		}
		if diff == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s after %v, %v:%s", c.id, settleLimit, o.op, diff)
		}
	}
}

// verify compares an operation that has ended, and the phone, with what was asked for.
func (l *lab) verify(ctx context.Context, a action, c call, op *phonehostv1.Operation) error {
	if op != nil {
		f := op.GetResults()[0].GetFailure()
		truthful := op.GetState() == phonehostv1.OperationState_OPERATION_STATE_FAILED && slices.Contains(a.mayEnd, f.GetReason())
		if op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED && !truthful {
			return fmt.Errorf("the operation ended %v", op)
		}
	}
	if a.to != absent {
		p, err := c.phone(ctx)
		if err != nil {
			return err
		}
		boots, resets := p.GetBootGeneration()-c.before.GetBootGeneration(), p.GetDataGeneration()-c.before.GetDataGeneration()
		if a.from != absent && (boots != a.boots || resets != a.resets) {
			return fmt.Errorf("the boot generation grew by %d and the data generation by %d, want %d and %d", boots, resets, a.boots, a.resets)
		}
	}
	if a.check != nil {
		if err := a.check(ctx, c, op); err != nil {
			return err
		}
	}
	return nil
}

// events counts the stored events of the present phone since the last call, by kind; those that are only gathered, and may be lost with
// an agent, are left out.
func (l *lab) events(ctx context.Context) (map[string]int, error) {
	watch, err := phonehostv1.NewEventServiceClient(l.h.api.Control()).Watch(ctx, &phonehostv1.EventServiceWatchRequest{AfterSeq: l.h.seq, NoFollow: true})
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for {
		m, err := watch.Recv()
		if errors.Is(err, io.EOF) {
			return count, nil
		}
		if err != nil {
			return nil, err
		}
		for _, e := range m.GetEvents() {
			l.h.seq = e.GetSeq()
			switch kind := e.GetKind(); {
			case !slices.Contains(stored, kind):
			case e.GetPhoneId() == l.id:
				count[kind.String()]++
			case e.GetPhoneId() == twin(l.id):
				count["twin's "+kind.String()]++
			}
		}
	}
}

// stored are the kinds of events that are stored with the change that they tell of, and so exactly once.
var stored = []phonehostv1.EventKind{
	phonehostv1.EventKind_EVENT_KIND_PHONE_CREATED, phonehostv1.EventKind_EVENT_KIND_PHONE_DELETED,
	phonehostv1.EventKind_EVENT_KIND_GUEST_STARTED, phonehostv1.EventKind_EVENT_KIND_GUEST_BOOTED, phonehostv1.EventKind_EVENT_KIND_GUEST_EXITED,
	phonehostv1.EventKind_EVENT_KIND_OPERATION_STARTED, phonehostv1.EventKind_EVENT_KIND_OPERATION_ENDED,
	phonehostv1.EventKind_EVENT_KIND_PHONE_FROZEN, phonehostv1.EventKind_EVENT_KIND_PHONE_UNFROZEN, phonehostv1.EventKind_EVENT_KIND_PHONE_UPDATED,
}

// abandon brings an agent back after a round that failed, and deletes what phones there are.
func (l *lab) abandon() {
	l.h.second = ""
	l.h.plan()
	l.twins = false
	if l.h.isDead(0) {
		if err := l.h.revive(); err != nil {
			l.h.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(l.h.t.Context(), roundLimit)
	defer cancel()
	l.at = absent
	err := l.h.importImage(ctx, images[2], l.h.archives[2]) // it may have been what failed
	left, listed := l.h.phones().ListPhones(ctx, &phonehostv1.ListPhonesRequest{})
	err = errors.Join(err, listed)
	for _, p := range left.GetPhones() {
		err = errors.Join(err, l.h.remove(ctx, p.GetSpec().GetId()))
	}
	for _, pid := range l.h.containerd.Shims() { // no phone is left: what one has left behind is told of once
		_ = unix.Kill(pid, unix.SIGKILL) // no error but that it has ended already
	}
	if err != nil {
		l.h.t.Errorf("after a failure: %v", err)
	}
}
