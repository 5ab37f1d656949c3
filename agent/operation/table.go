package operation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
)

// idPrefix begins every operation's id.
const idPrefix = "op-"

// records is the bucket of the operations.
var records = store.Table[Operation]{Bucket: store.OperationsByID, What: "operation"}

// Config says what a Table works on.
type Config struct {
	// DB is the open database.
	DB *store.DB
	// Journal takes the events of operations.
	Journal *event.Journal
	// OnEnd is called after the last part of an operation has ended and is on disk; it must be quick. May be nil.
	OnEnd func(Operation)
}

// Table is the operations of this host.
type Table struct {
	db      *store.DB
	journal *event.Journal
	onEnd   func(Operation)

	mu sync.Mutex
	// live holds what is known of operations only in memory, by id; an entry exists while the operation runs or is watched.
	live map[string]*live
}

// live is the part of an operation that is not stored.
type live struct {
	// progress is what is being done, by phone.
	progress map[string]string
	// changed is closed, and replaced, at every change.
	changed chan struct{}
	// watchers counts the calls of Watch that hold the entry.
	watchers int
	// ended tells that nothing changes any more.
	ended bool
}

// New returns the table over an open database.
func New(cfg Config) (*Table, error) {
	if cfg.DB == nil || cfg.Journal == nil {
		return nil, fmt.Errorf("open operations: database and journal are required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.OnEnd == nil {
		cfg.OnEnd = func(Operation) {}
	}
	t := &Table{db: cfg.DB, journal: cfg.Journal, onEnd: cfg.OnEnd, live: map[string]*live{}}
	return t, t.load()
}

// load makes the live entries of the operations that an earlier agent left running.
func (t *Table) load() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.db.View(func(tx *store.Tx) error {
		return tx.Bucket(store.OperationsRunning).ForEach(func(k, _ []byte) error {
			t.entry(formatID(store.Number64(k)))
			return nil
		})
	})
}

// Create stores a new operation in the transaction that changes the phones. Its id, state and times are set here; parts whose
// State is zero are accepted, others must have ended already (refusals).
func (t *Table) Create(tx *store.Tx, op Operation) (Operation, error) {
	op = op.Clone()
	number, err := tx.Bucket(store.Operations).NextSequence()
	if err != nil {
		return op, fmt.Errorf("number operation: %w", err)
	}
	op.ID, op.CreateTime = formatID(number), time.Now()
	for i := range op.Results {
		r := &op.Results[i]
		if r.State != 0 {
			r.EndTime = op.CreateTime
			continue
		}
		r.State = Running
		err := t.journal.Append(tx, event.Event{
			Kind: event.OperationStarted, PhoneID: r.PhoneID, OperationID: op.ID,
			Message: fmt.Sprintf("%s of %s was accepted from %s", op.Kind, r.PhoneID, op.RequestedBy),
		})
		if err != nil {
			return op, err
		}
	}
	op.settle(op.CreateTime)
	if op.RequestID != "" {
		key := requestKey(op.RequestedBy, op.RequestID)
		if err := tx.Bucket(store.OperationsByRequest).Put(key, store.Key64(number)); err != nil {
			return op, fmt.Errorf("index %s by request: %w", op.ID, err)
		}
	}
	return op, t.put(tx, number, op)
}

// put stores an operation and keeps the indexes of running and ended ones.
func (t *Table) put(tx *store.Tx, number uint64, op Operation) error {
	if err := records.Put(tx, store.Key64(number), op); err != nil {
		return err
	}
	running := tx.Bucket(store.OperationsRunning)
	var err error
	if op.State == Running {
		err = running.Put(store.Key64(number), nil)
	} else if err = running.Delete(store.Key64(number)); err == nil {
		err = tx.Bucket(store.OperationsByEnd).Put(endKey(op.EndTime, number), nil)
	}
	if err != nil {
		return fmt.Errorf("index %s: %w", op.ID, err)
	}
	tx.OnCommit(func() { t.stored(op) })
	return nil
}

// End ends the part of an operation that concerns one phone, in the transaction that records the outcome. A part that has ended
// already, or an operation that is no longer kept, is left alone.
func (t *Table) End(tx *store.Tx, id, phoneID string, state State, failure *Failure) error {
	return t.EndWith(tx, id, Result{PhoneID: phoneID, State: state, Failure: failure})
}

// EndWith is End with all that a part may leave: of the result, PhoneID, State, Failure and Output are taken.
func (t *Table) EndWith(tx *store.Tx, id string, result Result) error {
	phoneID, state, failure := result.PhoneID, result.State, result.Failure
	number, ok := parseID(id)
	if !ok {
		return fmt.Errorf("end operation %q: %w", id, errdefs.ErrInvalidArgument)
	}
	op, err := records.Get(tx, store.Key64(number))
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r := op.Result(phoneID)
	if r == nil || r.State != Running {
		return nil
	}
	r.State, r.Failure, r.Output, r.EndTime = state, failure, result.Output, time.Now()
	op.settle(r.EndTime)
	message := fmt.Sprintf("%s of %s %s", op.Kind, phoneID, state)
	if failure != nil {
		message += ": " + failure.Message
	}
	err = t.journal.Append(tx, event.Event{
		Kind: event.OperationEnded, PhoneID: phoneID, OperationID: id, Message: message,
		Attributes: map[string]string{"state": state.String()},
	})
	if err != nil {
		return err
	}
	return t.put(tx, number, op)
}

// Read returns an operation as it is in a transaction; ErrNotFound when it is no longer kept.
func (t *Table) Read(tx *store.Tx, id string) (Operation, error) {
	number, ok := parseID(id)
	if !ok {
		return Operation{}, fmt.Errorf("read operation %q: %w", id, errdefs.ErrInvalidArgument)
	}
	return records.Get(tx, store.Key64(number))
}

// Retry returns the operation that an identity's request id made before, or nil. Another request under the same id is a fault of
// class ErrInvalidArgument with reason REQUEST_ID_REUSED.
func (t *Table) Retry(tx *store.Tx, identity, requestID, fingerprint string) (*Operation, error) {
	op, err := t.Known(tx, identity, requestID)
	if op == nil || err != nil {
		return nil, err
	}
	if op.Fingerprint != fingerprint {
		return nil, fault.New(errdefs.ErrInvalidArgument, fault.RequestIDReused,
			"request_id: %q named another request before: %s", requestID, op.ID).With("operation_id", op.ID)
	}
	return op, nil
}

// Known returns the operation that an identity's request id names, whatever the request was, or nil.
func (t *Table) Known(tx *store.Tx, identity, requestID string) (*Operation, error) {
	if requestID == "" {
		return nil, nil
	}
	key := tx.Bucket(store.OperationsByRequest).Get(requestKey(identity, requestID))
	if key == nil {
		return nil, nil
	}
	op, err := records.Get(tx, bytes.Clone(key))
	if err != nil {
		return nil, err
	}
	if expired(op) {
		return nil, nil
	}
	return &op, nil
}

// Expire forgets the operations that ended more than KeepFor ago, and returns how many those were.
func (t *Table) Expire() (int, error) {
	n := 0
	err := t.db.Update(func(tx *store.Tx) error {
		n = 0
		byEnd := tx.Bucket(store.OperationsByEnd)
		limit := endKey(time.Now().Add(-KeepFor), 0)
		c := byEnd.Cursor()
		for k, _ := c.First(); k != nil && bytes.Compare(k, limit) < 0; k, _ = c.First() {
			if err := forget(tx, bytes.Clone(k[8:])); err != nil {
				return err
			}
			if err := c.Delete(); err != nil {
				return fmt.Errorf("expire operations: %w", err)
			}
			n++
		}
		return nil
	})
	return n, err
}

// forget removes an operation and its request id, unless the request id names a newer one.
func forget(tx *store.Tx, key []byte) error {
	op, err := records.Get(tx, key)
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
		return err
	}
	if op.RequestID != "" {
		b := tx.Bucket(store.OperationsByRequest)
		rk := requestKey(op.RequestedBy, op.RequestID)
		if bytes.Equal(b.Get(rk), key) {
			if err := b.Delete(rk); err != nil {
				return fmt.Errorf("forget request of %s: %w", op.ID, err)
			}
		}
	}
	return records.Delete(tx, key)
}

// expired reports whether an operation must no longer be seen, even if Expire has not come to it.
func expired(op Operation) bool {
	return !op.EndTime.IsZero() && time.Since(op.EndTime) > KeepFor
}

func formatID(number uint64) string { return idPrefix + strconv.FormatUint(number, 10) }

// parseID reads what formatID wrote, and nothing else.
func parseID(id string) (uint64, bool) {
	digits, ok := strings.CutPrefix(id, idPrefix)
	number, err := strconv.ParseUint(digits, 10, 64)
	return number, ok && err == nil && formatID(number) == id
}

func requestKey(identity, requestID string) []byte { return []byte(identity + "\x00" + requestID) }

func endKey(end time.Time, number uint64) []byte {
	return append(store.Key64(uint64(end.UnixNano())), store.Key64(number)...)
}

// decode reads a stored operation under a cursor.
func decode(key, data []byte) (Operation, error) {
	var op Operation
	if err := json.Unmarshal(data, &op); err != nil {
		return op, fmt.Errorf("decode operation %d: %w: %w", store.Number64(key), err, errdefs.ErrDataLoss)
	}
	return op, nil
}
