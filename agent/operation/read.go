package operation

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
)

// ListOptions say which operations List returns.
type ListOptions struct {
	// PhoneID leaves out operations that do not concern this phone; empty means all.
	PhoneID string
	// RunningOnly leaves out operations that have ended.
	RunningOnly bool
	// Limit is the most that are returned, at least 1.
	Limit int
}

// Get returns one operation with the progress of its parts. It fails with ErrNotFound when there is none of that id, or it ended
// more than KeepFor ago.
func (t *Table) Get(id string) (Operation, error) {
	unknown := fault.New(errdefs.ErrNotFound, fault.NoSuchOperation, "no operation %q", id)
	number, ok := parseID(id)
	if !ok {
		return Operation{}, unknown
	}
	var op Operation
	err := t.db.View(func(tx *store.Tx) (err error) {
		op, err = records.Get(tx, store.Key64(number))
		return err
	})
	if errdefs.IsNotFound(err) || err == nil && expired(op) {
		return Operation{}, unknown
	}
	if err != nil {
		return Operation{}, err
	}
	if op.State != Running {
		t.db.Settle() // whoever hears of the end finds its phones as it left them
	}
	t.overlay(&op)
	return op, nil
}

// List returns operations, newest first.
func (t *Table) List(opts ListOptions) ([]Operation, error) {
	if opts.Limit < 1 {
		return nil, fmt.Errorf("list operations: limit %d: %w", opts.Limit, errdefs.ErrInvalidArgument)
	}
	var ops []Operation
	err := t.db.View(func(tx *store.Tx) error {
		index := tx.Bucket(store.OperationsByID)
		if opts.RunningOnly {
			index = tx.Bucket(store.OperationsRunning)
		}
		c := index.Cursor()
		for k, _ := c.Last(); k != nil && len(ops) < opts.Limit; k, _ = c.Prev() {
			op, err := decode(k, tx.Bucket(store.OperationsByID).Get(k))
			if err != nil {
				return err
			}
			if !expired(op) && (opts.PhoneID == "" || op.Result(opts.PhoneID) != nil) {
				ops = append(ops, op)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range ops {
		t.overlay(&ops[i])
	}
	return ops, nil
}

// Progress says what is being done for one phone of a running operation; of one that has ended it says nothing. It is kept in
// memory alone.
func (t *Table) Progress(id, phoneID, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.live[id]
	if l == nil || l.ended || l.progress[phoneID] == text {
		return
	}
	l.progress[phoneID] = text
	l.wake()
}

// Watch calls send with the operation as it is and then after every change, and returns nil after it has sent the ended
// operation. A slow caller sees the newest state and may miss some in between. Errors are those of Get, of send and of ctx.
func (t *Table) Watch(ctx context.Context, id string, send func(Operation) error) error {
	op, err := t.Get(id)
	if err != nil {
		return err
	}
	if op.State != Running {
		return send(op)
	}
	t.hold(id)
	defer func() { t.release(id, op.State != Running) }()
	for {
		changed := t.changed(id)
		op, err = t.Get(id)
		if err != nil {
			return err
		}
		if err := send(op); err != nil || op.State != Running {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stored is the commit hook of every operation that was put.
func (t *Table) stored(op Operation) {
	t.mu.Lock()
	l := t.entry(op.ID)
	l.wake()
	if op.State != Running {
		l.ended = true
		t.drop(op.ID, l)
	}
	t.mu.Unlock()
	if op.State != Running {
		t.onEnd(op)
	}
}

// overlay adds what only memory knows.
func (t *Table) overlay(op *Operation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.live[op.ID]
	if l == nil {
		return
	}
	for i := range op.Results {
		if r := &op.Results[i]; r.State == Running {
			r.Progress = l.progress[r.PhoneID]
		}
	}
}

// entry returns the live part of an operation, made at need. t.mu is held.
func (t *Table) entry(id string) *live {
	l := t.live[id]
	if l == nil {
		l = &live{progress: map[string]string{}, changed: make(chan struct{})}
		t.live[id] = l
	}
	return l
}

// drop removes an entry that nothing needs any more. t.mu is held.
func (t *Table) drop(id string, l *live) {
	if l.watchers == 0 && l.ended {
		delete(t.live, id)
	}
}

func (t *Table) hold(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entry(id).watchers++
}

func (t *Table) release(id string, ended bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.entry(id)
	l.watchers--
	l.ended = l.ended || ended
	t.drop(id, l)
}

func (t *Table) changed(id string) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.entry(id).changed
}

// wake tells the watchers of a change. The table's mu is held.
func (l *live) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}
