package store

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// maxBatch bounds how many updates share a commit, and so how much work a commit that fails must do again.
const maxBatch = 128

// errClosed answers calls that come after Close.
var errClosed = fmt.Errorf("database is closed: %w", errdefs.ErrUnavailable)

// update is one caller of Update that waits for its answer.
type update struct {
	fn   func(*Tx) error
	done chan error
}

// Update runs fn in a write transaction and returns when its changes are on disk. If fn returns an error, or the commit fails,
// nothing of it is stored and none of its commit hooks runs. fn may run more than once, so it must have no effect but through
// its Tx, and it must not call Update. Update is not interrupted: once begun it ends on disk or with an error.
func (db *DB) Update(fn func(*Tx) error) error {
	u := &update{fn: fn, done: make(chan error, 1)}
	select {
	case db.updates <- u:
		return <-u.done
	case <-db.closing:
		return errClosed
	}
}

// write is the writer goroutine: it commits what is waiting, together.
func (db *DB) write() {
	defer close(db.stopped)
	for {
		select {
		case first := <-db.updates:
			db.commit(db.gather(first))
		case <-db.closing:
			return
		}
	}
}

// gather takes the updates that are waiting now.
func (db *DB) gather(first *update) []*update {
	batch := []*update{first}
	for len(batch) < maxBatch {
		select {
		case u := <-db.updates:
			batch = append(batch, u)
		default:
			return batch
		}
	}
	return batch
}

// commit stores a batch. An update that fails is taken out and tried alone afterwards, so that its error tells of the state
// that it really met, and the others are stored without it.
func (db *DB) commit(batch []*update) {
	var alone []*update
	for len(batch) > 0 {
		failed := -1
		db.committing.Lock() // the hooks of the commit run within
		broken := crashpoint.Fail("commit/before")
		err := db.bolt.Update(func(tx *bolt.Tx) error {
			for i, u := range batch {
				if err := u.fn(&Tx{bolt: tx}); err != nil {
					failed = i
					return err
				}
			}
			return broken
		})
		db.committing.Unlock()
		crashpoint.Reached("commit/after")
		if failed < 0 {
			answer(batch, commitError(err))
			break
		}
		if len(batch) == 1 {
			answer(batch, err)
			break
		}
		alone = append(alone, batch[failed])
		batch = append(batch[:failed:failed], batch[failed+1:]...)
	}
	for _, u := range alone {
		db.commit([]*update{u})
	}
}

// answer ends the wait of every caller of a batch.
func answer(batch []*update, err error) {
	for _, u := range batch {
		u.done <- err
	}
}

// commitError names the step at which a batch that all callers filled was lost.
func commitError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("commit to database: %w: %w", err, errdefs.ErrResourceExhausted)
	}
	return fmt.Errorf("commit to database: %w", err)
}
