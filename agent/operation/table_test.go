package operation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a table over a fresh database in fake time.
type bench struct {
	*Table
	t     *testing.T
	db    *store.DB
	ended []string
}

func inBubble(t *testing.T, fn func(t *testing.T, b *bench)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(store.Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		journal, err := event.New(event.Config{DB: db, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{t: t, db: db}
		b.Table, err = New(Config{DB: db, Journal: journal, OnEnd: func(op Operation) { b.ended = append(b.ended, op.ID) }})
		if err != nil {
			t.Fatal(err)
		}
		fn(t, b)
		journal.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (b *bench) create(op Operation) Operation {
	b.t.Helper()
	err := b.db.Update(func(tx *store.Tx) (err error) { op, err = b.Create(tx, op); return err })
	if err != nil {
		b.t.Fatal(err)
	}
	return op
}

func (b *bench) end(id, phone string, state State) {
	b.t.Helper()
	var f *Failure
	if state != Succeeded {
		f = &Failure{Kind: PowerOn, Code: 9, Reason: "WHY", Message: "because", Time: time.Now()}
	}
	if err := b.db.Update(func(tx *store.Tx) error { return b.End(tx, id, phone, state, f) }); err != nil {
		b.t.Fatal(err)
	}
}

func parts(ids ...string) []Result {
	rs := make([]Result, len(ids))
	for i, id := range ids {
		rs[i].PhoneID = id
	}
	return rs
}

func TestStateFollowsItsParts(t *testing.T) {
	tests := []struct {
		name  string
		parts []State
		want  State
	}{
		{"all done", []State{Succeeded, Succeeded}, Succeeded},
		{"one failed", []State{Succeeded, Failed}, Failed},
		{"one aborted", []State{Aborted, Succeeded}, Aborted},
		{"failed goes before aborted", []State{Aborted, Failed, Succeeded}, Failed},
		{"aborted after failed", []State{Failed, Aborted}, Failed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				var ids []string
				for i := range tt.parts {
					ids = append(ids, fmt.Sprintf("p%d", i))
				}
				op := b.create(Operation{Kind: PowerOn, RequestedBy: "uid/0", Results: parts(ids...)})
				for i, state := range tt.parts {
					if got, err := b.Get(op.ID); err != nil || got.State != Running || !got.EndTime.IsZero() {
						t.Errorf("before part %d: %+v %v", i, got, err)
					}
					b.end(op.ID, ids[i], state)
				}
				got, err := b.Get(op.ID)
				if err != nil || got.State != tt.want || got.EndTime.IsZero() {
					t.Errorf("after the last part: %s %v, want %s", got.State, err, tt.want)
				}
				if len(b.ended) != 1 {
					t.Errorf("OnEnd was called for %v", b.ended)
				}
				b.end(op.ID, ids[0], Succeeded) // changes nothing
				if again, _ := b.Get(op.ID); !cmp.Equal(got, again) {
					t.Errorf("a part ended twice: %s", cmp.Diff(got, again))
				}
			})
		})
	}
}

func TestRefusedPartsHaveEnded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		rs := parts("p1", "p2")
		rs[0].State, rs[0].Failure = Failed, &Failure{Reason: "BUSY"}
		op := b.create(Operation{Kind: Restart, Results: rs})
		if op.Results[0].EndTime.IsZero() || op.Results[1].State != Running || op.State != Running {
			t.Errorf("new operation: %+v", op)
		}
		b.end(op.ID, "p2", Succeeded)
		if op, _ = b.Get(op.ID); op.State != Failed {
			t.Errorf("state %s, want failed", op.State)
		}
	})
}

func TestList(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		for i := range 5 {
			op := b.create(Operation{Kind: PowerOn, Results: parts(fmt.Sprintf("p%d", i%2))})
			if i < 3 {
				b.end(op.ID, op.Results[0].PhoneID, Succeeded)
			}
		}
		tests := []struct {
			opts ListOptions
			want []string
		}{
			{ListOptions{Limit: 10}, []string{"op-5", "op-4", "op-3", "op-2", "op-1"}},
			{ListOptions{Limit: 2}, []string{"op-5", "op-4"}},
			{ListOptions{Limit: 10, RunningOnly: true}, []string{"op-5", "op-4"}},
			{ListOptions{Limit: 10, PhoneID: "p1"}, []string{"op-4", "op-2"}},
			{ListOptions{Limit: 10, PhoneID: "p1", RunningOnly: true}, []string{"op-4"}},
			{ListOptions{Limit: 10, PhoneID: "p9"}, nil},
		}
		for _, tt := range tests {
			ops, err := b.List(tt.opts)
			var got []string
			for _, op := range ops {
				got = append(got, op.ID)
			}
			if err != nil || !cmp.Equal(got, tt.want) {
				t.Errorf("%+v: %v %v, want %v", tt.opts, got, err, tt.want)
			}
		}
		if _, err := b.List(ListOptions{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("limit 0: %v", err)
		}
	})
}

func TestUnknownIDs(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.create(Operation{Kind: PowerOn, Results: parts("p1")})
		for _, id := range []string{"", "op-", "op-2", "op-01", "op-+1", "1", "OP-1", "op-99999999999999999999", "op-1 "} {
			if _, err := b.Get(id); fault.Reason(err) != fault.NoSuchOperation {
				t.Errorf("Get(%q): %v", id, err)
			}
			if err := b.Watch(t.Context(), id, nil); !errdefs.IsNotFound(err) {
				t.Errorf("Watch(%q): %v", id, err)
			}
		}
	})
}

func TestWatchSendsEveryState(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		op := b.create(Operation{Kind: PowerOn, Results: parts("p1", "p2")})
		var got []string
		done := make(chan error)
		go func() {
			done <- b.Watch(t.Context(), op.ID, func(op Operation) error {
				got = append(got, fmt.Sprintf("%s %s:%q %s", op.State, op.Results[0].State, op.Results[0].Progress, op.Results[1].State))
				return nil
			})
		}()
		synctest.Wait()
		b.Progress(op.ID, "p1", "preparing")
		synctest.Wait()
		b.Progress(op.ID, "p1", "preparing") // no change, no message
		synctest.Wait()
		b.end(op.ID, "p1", Succeeded)
		synctest.Wait()
		b.end(op.ID, "p2", Failed)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := []string{
			`running running:"" running`, `running running:"preparing" running`, `running succeeded:"" running`, `failed succeeded:"" failed`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("watched (-want +got):\n%s", diff)
		}
		got = nil
		if err := b.Watch(t.Context(), op.ID, func(Operation) error { got = append(got, "once"); return nil }); err != nil || len(got) != 1 {
			t.Errorf("a watch of an ended operation: %v %v", got, err)
		}
		b.Progress(op.ID, "p1", "late")
		if len(b.live) != 0 {
			t.Errorf("memory keeps %d operations that have ended", len(b.live))
		}
	})
}

func TestWatchEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		op := b.create(Operation{Kind: PowerOn, Results: parts("p1")})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Watch(ctx, op.ID, func(Operation) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with its context: %v", err)
		}
		wrong := errors.New("wrong")
		if err := b.Watch(t.Context(), op.ID, func(Operation) error { return wrong }); !errors.Is(err, wrong) {
			t.Errorf("with send: %v", err)
		}
	})
}

func TestExpiry(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		old := b.create(Operation{Kind: PowerOn, RequestID: "r", RequestedBy: "a", Fingerprint: "f", Results: parts("p1")})
		slow := b.create(Operation{Kind: PowerOn, Results: parts("p2")})
		b.end(old.ID, "p1", Succeeded)
		time.Sleep(KeepFor - time.Minute)
		if n, err := b.Expire(); n != 0 || err != nil {
			t.Errorf("a minute early %d were forgotten: %v", n, err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := b.Get(old.ID); !errdefs.IsNotFound(err) {
			t.Errorf("Get before Expire has come to it: %v", err)
		}
		if n, err := b.Expire(); n != 1 || err != nil {
			t.Errorf("%d were forgotten: %v, want 1", n, err)
		}
		if op, err := b.Get(slow.ID); err != nil || op.State != Running {
			t.Errorf("an operation that still runs: %v %v", op.State, err)
		}
		err := b.db.View(func(tx *store.Tx) error {
			for _, bucket := range []store.Bucket{store.OperationsByEnd, store.OperationsByRequest} {
				if n := tx.Bucket(bucket).Stats().KeyN; n != 0 {
					t.Errorf("%v still holds %d keys", bucket, n)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if next := b.create(Operation{Kind: PowerOn, Results: parts("p1")}); next.ID != "op-3" {
			t.Errorf("next operation is %s, want op-3", next.ID)
		}
	})
}

// TestRequestIDOfANewerOperationStays forgets an old operation whose request id names a newer one by now.
func TestRequestIDOfANewerOperationStays(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		op := Operation{Kind: PowerOn, RequestID: "r", RequestedBy: "a", Fingerprint: "f", Results: parts("p1")}
		old := b.create(op)
		b.end(old.ID, "p1", Succeeded)
		time.Sleep(KeepFor + time.Minute)
		next := b.create(op)
		if _, err := b.Expire(); err != nil {
			t.Fatal(err)
		}
		err := b.db.View(func(tx *store.Tx) error {
			got, err := b.Retry(tx, "a", "r", "f")
			if err != nil || got == nil || got.ID != next.ID {
				t.Errorf("retry: %+v %v, want %s", got, err, next.ID)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestNames(t *testing.T) {
	if got := fmt.Sprint(PowerOn, PowerOff, Restart, Reset, Delete, Kind(0), Running, Aborted, State(9)); got !=
		"power on power off restart reset delete unknown operation running aborted unknown" {
		t.Error(got)
	}
}
