package event

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start opens a database and a journal; stop closes both.
func start(t *testing.T, path string, keep int) (j *Journal, db *store.DB, stop func()) {
	t.Helper()
	db, err := store.Open(store.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	j, err = New(Config{DB: db, Keep: keep, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return j, db, func() {
		j.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// inBubble runs fn over a fresh journal in fake time.
func inBubble(t *testing.T, keep int, fn func(t *testing.T, j *Journal, db *store.DB)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		j, db, stop := start(t, path, keep)
		defer stop()
		fn(t, j, db)
	})
}

// add appends n events, one transaction each.
func add(t *testing.T, j *Journal, db *store.DB, n int) {
	t.Helper()
	for range n {
		err := db.Update(func(tx *store.Tx) error { return j.Append(tx, Event{Kind: PhoneCreated, Message: "m"}) })
		if err != nil {
			t.Fatal(err)
		}
	}
}

// settle lets the writer store what was emitted.
func settle() {
	synctest.Wait()
	time.Sleep(20 * time.Millisecond) // fake time
	synctest.Wait()
}

// seqs returns the numbers of the events that a watch sees and then ends.
func seqs(t *testing.T, j *Journal, opts WatchOptions) (got []uint64, err error) {
	t.Helper()
	opts.NoFollow = true
	err = j.Watch(t.Context(), opts, func(events []Event) error {
		if len(events) == 0 || len(events) > maxSend {
			t.Errorf("%d events at once", len(events))
		}
		for _, e := range events {
			got = append(got, e.Seq)
		}
		return nil
	})
	return got, err
}

func TestEventsSurvive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		j, db, stop := start(t, path, 0)
		want := Event{
			Seq: 1, Time: time.Now().UTC(), Kind: GuestExited, PhoneID: "p1", OperationID: "op-1", Message: "ended",
			Attributes: map[string]string{"exit_code": "129"},
		}
		if err := db.Update(func(tx *store.Tx) error { return j.Append(tx, want) }); err != nil {
			t.Fatal(err)
		}
		j.Emit(Event{Kind: AgentStopping, Message: "emitted, and the agent ends at once"})
		stop()
		j, db, stop = start(t, path, 0)
		defer stop()
		add(t, j, db, 1)
		var got []Event
		if err := j.Watch(t.Context(), WatchOptions{NoFollow: true}, func(e []Event) error { got = append(got, e...); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(got) != 3 || got[1].Kind != AgentStopping || got[2].Seq != 3 {
			t.Fatalf("journal: %+v", got)
		}
		if diff := cmp.Diff(want, got[0]); diff != "" {
			t.Errorf("event (-want +got):\n%s", diff)
		}
	})
}

func TestAppendIsPartOfItsTransaction(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, j *Journal, db *store.DB) {
		wrong := errors.New("wrong")
		err := db.Update(func(tx *store.Tx) error { return errors.Join(j.Append(tx, Event{Kind: PhoneCreated}), wrong) })
		if !errors.Is(err, wrong) {
			t.Fatal(err)
		}
		add(t, j, db, 1)
		if got, err := seqs(t, j, WatchOptions{}); err != nil || !cmp.Equal(got, []uint64{1}) {
			t.Errorf("numbers %v %v, want only 1: a transaction that fails uses none up", got, err)
		}
	})
}

func TestWatchBegins(t *testing.T) {
	inBubble(t, 5, func(t *testing.T, j *Journal, db *store.DB) {
		if got, err := seqs(t, j, WatchOptions{}); err != nil || got != nil {
			t.Errorf("an empty journal: %v %v", got, err)
		}
		add(t, j, db, 8) // 4..8 are kept
		tests := []struct {
			name   string
			opts   WatchOptions
			want   []uint64
			reason string
		}{
			{"oldest", WatchOptions{}, []uint64{4, 5, 6, 7, 8}, ""},
			{"after the one before the oldest", WatchOptions{After: 3}, []uint64{4, 5, 6, 7, 8}, ""},
			{"after one", WatchOptions{After: 6}, []uint64{7, 8}, ""},
			{"after the newest", WatchOptions{After: 8}, nil, ""},
			{"only new", WatchOptions{OnlyNew: true}, nil, ""},
			{"trimmed", WatchOptions{After: 2}, nil, fault.JournalTrimmed},
			{"ahead", WatchOptions{After: 9}, nil, fault.JournalReset},
			{"both", WatchOptions{After: 1, OnlyNew: true}, nil, fault.InvalidField},
		}
		for _, tt := range tests {
			got, err := seqs(t, j, tt.opts)
			if fault.Reason(err) != tt.reason || !cmp.Equal(got, tt.want) {
				t.Errorf("%s: %v %v, want %v %s", tt.name, got, err, tt.want, tt.reason)
			}
			if tt.reason == fault.JournalTrimmed && (!errdefs.IsOutOfRange(err) || fault.Meta(err)["oldest_seq"] != "4") {
				t.Errorf("%s: class or metadata of %v are wrong", tt.name, err)
			}
		}
	})
}

func TestWatchOfOnePhone(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, j *Journal, db *store.DB) {
		for i := range 3 * maxScan {
			id := "other"
			if i%maxScan == 0 {
				id = "p1"
			}
			j.Emit(Event{Kind: PhoneStatus, PhoneID: id})
			if i%1000 == 0 {
				settle()
			}
		}
		settle()
		got, err := seqs(t, j, WatchOptions{PhoneID: "p1"})
		if want := []uint64{1, maxScan + 1, 2*maxScan + 1}; err != nil || !cmp.Equal(got, want) {
			t.Errorf("numbers %v %v, want %v", got, err, want)
		}
	})
}

// TestResume ends and begins a watch again and again while events are written by many: nothing is lost, nothing comes twice.
func TestResume(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, j *Journal, db *store.DB) {
		const writers, each = 8, 50
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					if w%2 == 0 {
						j.Emit(Event{Kind: ViewerAttached})
						time.Sleep(time.Millisecond)
						continue
					}
					if err := db.Update(func(tx *store.Tx) error { return j.Append(tx, Event{Kind: PhoneCreated, Message: fmt.Sprint(i)}) }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		enough := errors.New("enough")
		after := uint64(0)
		for after < writers*each {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := j.Watch(ctx, WatchOptions{After: after}, func(events []Event) error {
				for _, e := range events {
					if e.Seq != after+1 {
						t.Fatalf("event %d follows %d", e.Seq, after)
					}
					after = e.Seq
				}
				if after%3 == 0 {
					return enough
				}
				return nil
			})
			cancel()
			if !errors.Is(err, enough) && after < writers*each {
				t.Fatalf("watch ended at %d: %v", after, err)
			}
		}
		wg.Wait()
		if j.Dropped() != 0 {
			t.Errorf("%d events were dropped", j.Dropped())
		}
	})
}

// TestSlowWatcherHoldsNobodyUp has a watcher that never returns from its first event, until it is behind the oldest kept.
func TestSlowWatcherHoldsNobodyUp(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, j *Journal, db *store.DB) {
		add(t, j, db, 1)
		goOn, done := make(chan struct{}), make(chan error)
		go func() {
			done <- j.Watch(t.Context(), WatchOptions{}, func([]Event) error { <-goOn; return nil })
		}()
		synctest.Wait()
		add(t, j, db, 50)
		close(goOn)
		if err := <-done; fault.Reason(err) != fault.JournalTrimmed {
			t.Errorf("a watcher that fell behind: %v, want JOURNAL_TRIMMED", err)
		}
	})
}

func TestEmittedEventsShareATransaction(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, j *Journal, db *store.DB) {
		for range 1000 {
			j.Emit(Event{Kind: SessionOpened})
		}
		batches := 0
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := 0
		err := j.Watch(ctx, WatchOptions{}, func(events []Event) error {
			batches++
			if seen += len(events); seen == 1000 {
				cancel()
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) || batches > 1000/maxSend+2 {
			t.Errorf("%d events came in %d batches (%v)", seen, batches, err)
		}
	})
}

func TestEmitNeverWaits(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, j *Journal, db *store.DB) {
		release, began := make(chan struct{}), make(chan struct{})
		go func() { // holds the database's writer up
			_ = db.Update(func(*store.Tx) error { close(began); <-release; return nil })
		}()
		<-began
		for range 3 * queueLength {
			j.Emit(Event{Kind: SessionRefused})
		}
		if j.Dropped() == 0 {
			t.Error("nothing was dropped, so the queue has no bound")
		}
		close(release)
		settle()
		got, err := seqs(t, j, WatchOptions{})
		if err != nil || uint64(len(got))+j.Dropped() != 3*queueLength {
			t.Errorf("%d stored and %d dropped of %d: %v", len(got), j.Dropped(), 3*queueLength, err)
		}
	})
}

func TestEmitAfterClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	j, db, _ := start(t, path, 0)
	j.Close()
	j.Emit(Event{Kind: SessionOpened})
	if j.Dropped() != 1 {
		t.Errorf("%d dropped, want 1", j.Dropped())
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
