package event

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/store"
)

const (
	// defaultKeep is how many events the journal keeps.
	defaultKeep = 100_000
	// defaultDelay is how long emitted events may gather before they are stored.
	defaultDelay = 5 * time.Millisecond
	// queueLength bounds the emitted events that wait to be stored.
	queueLength = 8192
	// maxGather bounds the emitted events of one transaction.
	maxGather = 1024
)

// Config says how the journal works.
type Config struct {
	// DB is the open database; the journal does not close it.
	DB *store.DB
	// Keep is how many events are kept; zero means 100 000.
	Keep int
	// Delay is how long emitted events may gather; zero means 5 ms.
	Delay time.Duration
	// Logger takes events that could not be stored.
	Logger *slog.Logger
}

// Journal is the durable list of events. Its methods may be called by many goroutines at once.
type Journal struct {
	db      *store.DB
	keep    uint64
	delay   time.Duration
	logger  *slog.Logger
	queue   chan Event
	closing chan struct{}
	stopped chan struct{}
	dropped atomic.Uint64

	mu sync.Mutex
	// changed is closed, and replaced, when events have been stored.
	changed chan struct{}
}

// New starts the journal's writer; Close ends it.
func New(cfg Config) (*Journal, error) {
	if cfg.DB == nil || cfg.Logger == nil {
		return nil, fmt.Errorf("start journal: database and logger are required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Keep <= 0 {
		cfg.Keep = defaultKeep
	}
	if cfg.Delay <= 0 {
		cfg.Delay = defaultDelay
	}
	j := &Journal{
		db: cfg.DB, keep: uint64(cfg.Keep), delay: cfg.Delay, logger: cfg.Logger,
		queue: make(chan Event, queueLength), closing: make(chan struct{}), stopped: make(chan struct{}),
		changed: make(chan struct{}),
	}
	go j.write()
	return j, nil
}

// Close stores what has been emitted and ends the writer. It must be called once, before the database is closed; events that are
// emitted later are dropped.
func (j *Journal) Close() {
	close(j.closing)
	<-j.stopped
}

// Dropped returns how many emitted events were lost because the queue was full or the database refused them.
func (j *Journal) Dropped() uint64 { return j.dropped.Load() }

// Emit stores an event soon. It never waits: when thousands of events are waiting already the event is dropped and counted.
func (j *Journal) Emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	select {
	case <-j.closing:
		j.dropped.Add(1)
		return
	default:
	}
	select {
	case j.queue <- e:
	default:
		j.dropped.Add(1)
	}
}

// Append stores an event in a transaction: it is in the journal exactly if the transaction is on disk.
func (j *Journal) Append(tx *store.Tx, e Event) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b := tx.Bucket(store.Events)
	b.FillPercent = 0.95 // keys only grow
	seq, err := b.NextSequence()
	if err != nil {
		return fmt.Errorf("number event: %w", err)
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event %d: %w", seq, err)
	}
	if err := b.Put(store.Key64(seq), data); err != nil {
		return fmt.Errorf("store event %d: %w", seq, err)
	}
	c := b.Cursor()
	for k, _ := c.First(); k != nil && store.Number64(k)+j.keep <= seq; k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return fmt.Errorf("trim journal: %w", err)
		}
	}
	tx.OnCommit(j.wake)
	return nil
}

// wake tells the watchers that there is more.
func (j *Journal) wake() {
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.changed)
	j.changed = make(chan struct{})
}

// wait returns a channel that is closed when more events have been stored after this call.
func (j *Journal) wait() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// write is the writer goroutine: it stores emitted events, those of a few milliseconds together.
func (j *Journal) write() {
	defer close(j.stopped)
	told := uint64(0)
	for {
		select {
		case e := <-j.queue:
			j.store(j.gather(e))
			if n := j.Dropped(); n != told {
				j.logger.Error("events were dropped", "count", n-told)
				told = n
			}
		case <-j.closing:
			j.drain()
			return
		}
	}
}

// gather waits for the delay and takes what has come.
func (j *Journal) gather(first Event) []Event {
	events := []Event{first}
	timer := time.NewTimer(j.delay)
	defer timer.Stop()
	for len(events) < maxGather {
		select {
		case e := <-j.queue:
			events = append(events, e)
		case <-timer.C:
			return events
		case <-j.closing:
			return events
		}
	}
	return events
}

// drain stores what is left in the queue.
func (j *Journal) drain() {
	var events []Event
	for {
		select {
		case e := <-j.queue:
			events = append(events, e)
		default:
			if len(events) > 0 {
				j.store(events)
			}
			return
		}
	}
}

// store puts events into the database in one transaction. What the database refuses is logged, so that it is not lost silently.
func (j *Journal) store(events []Event) {
	err := j.db.Update(func(tx *store.Tx) error {
		for _, e := range events {
			if err := j.Append(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return
	}
	j.dropped.Add(uint64(len(events)))
	for _, e := range events {
		j.logger.Error("event not stored", "error", err, "event_kind", int(e.Kind), "phone_id", e.PhoneID, "message", e.Message)
	}
}

// bounds reads the numbers of the oldest kept and of the newest event.
func bounds(tx *store.Tx) (oldest, newest uint64) {
	b := tx.Bucket(store.Events)
	if k, _ := b.Cursor().First(); k != nil {
		oldest = store.Number64(k)
	}
	return oldest, b.Sequence()
}
