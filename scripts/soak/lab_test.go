package soak

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// lab is a host with one phone after the other, and what is known of undisturbed operations.
type lab struct {
	h *host
	// id is the present phone, in state at; at is absent where there is none.
	id string
	at state
	// number makes the names of phones and requests.
	number int
	// twins is whether the present phone may have a twin.
	twins bool
	// hit is whether the harm of the present round was done.
	hit bool
	// known holds what each action does when nothing disturbs it, by name.
	known map[string]*reference
	// spent is how long each part of the rounds took.
	spent map[string]time.Duration
}

// reference is an operation that nothing disturbed.
type reference struct {
	points   []string        // in the order of arrival
	fallible map[string]bool // those that can fail
	left     inventory
	events   map[string]int
	took     time.Duration // from the request to the operation's end
	plain    bool          // the request is answered when all is done: there is no operation
}

// during adds the time that something takes to a part of the rounds.
func (l *lab) during(part string, do func() error) error {
	began := time.Now()
	defer func() { l.spent[part] += time.Since(began) }()
	return do()
}

// newLab starts a host. What all phones share is made by a first phone, which is gone then.
func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{h: newHost(t), known: map[string]*reference{}, spent: map[string]time.Duration{}}
	if err := l.bring(t.Context(), running); err != nil {
		t.Fatal(err)
	}
	if err := l.drop(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// bring brings the present phone, or a new one, to a state. Nothing is disturbed.
func (l *lab) bring(ctx context.Context, want state) error {
	if l.at == absent || want == absent || want == created && l.at != created {
		if err := l.renew(ctx); err != nil {
			return err
		}
	}
	for l.at != want {
		c, next := call{h: l.h, id: l.id, request: fmt.Sprintf("b%d", l.next())}, action{}
		if l.at != absent {
			p, err := c.phone(ctx)
			if err != nil {
				return err
			}
			c.before = p
		}
		switch {
		case l.at == absent:
			if _, err := askCreate(ctx, c); err != nil {
				return err
			}
			l.at = created
			continue
		case l.at == frozen:
			next = findAction("unfreeze")
		case l.at == expired:
			next = findAction("renew")
		case l.at != running:
			next = findAction("power_on")
		case want == frozen:
			next = findAction("freeze")
		case want == expired:
			next = findAction("lease_ends")
		default:
			next = findAction("power_off")
		}
		if err := l.plainly(ctx, next, c); err != nil {
			return err
		}
	}
	return nil
}

// renew drops the present phone, if there is one, and chooses another name.
func (l *lab) renew(ctx context.Context) error {
	if l.at != absent {
		if err := l.drop(ctx); err != nil {
			return err
		}
	}
	l.id = fmt.Sprintf("phone-%04dx", l.next())
	return nil
}

// plainly does one undisturbed operation that must succeed.
func (l *lab) plainly(ctx context.Context, a action, c call) error {
	op, err := a.ask(ctx, c)
	if err == nil {
		op, err = l.h.finish(ctx, op.GetId())
	}
	if err == nil && op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		err = fmt.Errorf("%v", op)
	}
	if err == nil {
		err = l.h.await(ctx, c.id, a.to)
	}
	if err != nil {
		return fmt.Errorf("bring %s from %s to %s: %w", c.id, l.at, a.to, err)
	}
	l.at = a.to
	return nil
}

// await waits until a phone is in a state, which may be later than the end of the operation that brings it there.
func (h *host) await(ctx context.Context, id string, want state) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for deadline := time.Now().Add(settleLimit); want != absent; <-tick.C {
		answer, err := h.phones().GetPhone(ctx, &phonehostv1.GetPhoneRequest{PhoneId: id})
		if err != nil || want.is(answer.GetPhone()) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v the phone is %v, want %s", settleLimit, answer.GetPhone(), want)
		}
	}
	return nil
}

// drop deletes the present phone, and its twin if it may have one.
func (l *lab) drop(ctx context.Context) error {
	l.at = absent
	ids := []string{l.id}
	if l.twins {
		ids = append(ids, twin(l.id))
	}
	for _, id := range ids {
		if err := l.h.remove(ctx, id); err != nil && status.Code(err) != codes.NotFound {
			return fmt.Errorf("delete %s: %w", id, err)
		}
	}
	l.twins = false
	return nil
}

// conclude says what the phone is after an action that has succeeded. Of twins the first is deleted, which is refused if anything still
// reads its data, and the second is the present phone.
func (l *lab) conclude(ctx context.Context, a action) error {
	l.at = a.to
	if !a.makes {
		return nil
	}
	answer, err := l.h.phones().Delete(ctx, &phonehostv1.DeleteRequest{PhoneIds: []string{l.id}})
	if err != nil {
		return fmt.Errorf("delete the phone that was copied: %w", err)
	}
	if op, err := l.h.finish(ctx, answer.GetOperation().GetId()); err != nil || op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		return fmt.Errorf("delete the phone that was copied: %v, %w", op, err)
	}
	l.id, l.at, l.twins = twin(l.id), copied, false
	return nil
}

func (l *lab) next() int { l.number++; return l.number }

func findAction(name string) action {
	all := actions()
	return all[slices.IndexFunc(all, func(a action) bool { return a.name == name })]
}
