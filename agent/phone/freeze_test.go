package phone

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
)

// freezing returns an edit that asks for a reason.
func freezing(reason FreezeReason, force bool) func(*Request) {
	return func(q *Request) { q.Freeze, q.Force = reason, force }
}

// refused fails the test unless a request is refused for a reason.
func (a *agent) refused(kind operation.Kind, id, reason string, edit func(*Request)) error {
	a.t.Helper()
	q := Request{Kind: kind, IDs: []string{id}, RequestedBy: "uid/0"}
	if edit != nil {
		edit(&q)
	}
	_, err := a.Submit(a.t.Context(), q)
	if fault.Reason(err) != reason {
		a.t.Errorf("%s of %s: %v, want %s", kind, id, err, reason)
	}
	return err
}

func TestFreezes(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		if r := a.finish(a.submit(operation.Freeze, "p1", freezing(FrozenPolice, false))); r.State != operation.Succeeded {
			t.Fatalf("freeze: %+v", r)
		}
		snap := a.want("p1", Stopped)
		if snap.Reason != "frozen: POLICE" || snap.Record.On || a.w.Count("Shutdown") != 1 || a.w.Count("Kill") != 0 {
			t.Errorf("frozen phone: %s %+v", snap.Reason, snap.Record)
		}
		if f := snap.Record.Freezes; len(f) != 1 || f[0].RequestedBy != "uid/0" || f[0].Since.IsZero() {
			t.Errorf("freezes: %+v", f)
		}
		since := snap.Record.Freezes[0].Since
		time.Sleep(time.Hour)
		a.finish(a.submit(operation.Freeze, "p1", freezing(FrozenPolice, false)))
		a.finish(a.submit(operation.Freeze, "p1", freezing(FrozenOverdue, false)))
		snap = a.want("p1", Stopped)
		if snap.Reason != "frozen: OVERDUE, POLICE" || !snap.Record.Freezes[1].Since.Equal(since) {
			t.Errorf("frozen twice: %s %+v", snap.Reason, snap.Record.Freezes)
		}
		err := a.refused(operation.PowerOn, "p1", fault.Frozen, nil)
		if !strings.Contains(err.Error(), "OVERDUE, POLICE") {
			t.Errorf("the refusal %q does not say why it is frozen", err)
		}
		a.refused(operation.Restart, "p1", fault.Frozen, nil)
		if a.Frozen() != 1 {
			t.Errorf("%d phones are frozen", a.Frozen())
		}
		a.do(operation.Reset, "p1", operation.Succeeded) // data may be wiped
		if snap := a.want("p1", Stopped); snap.Record.KeptGeneration != 2 {
			t.Errorf("a reset of a frozen phone: %+v", snap.Record)
		}
		op := a.submit(operation.Unfreeze, "p1", func(q *Request) { q.Unfreeze = []FreezeReason{FrozenOverdue, FrozenViolation} })
		if op.State != operation.Succeeded {
			t.Errorf("unfreeze is %s when it is answered", op.State)
		}
		a.refused(operation.PowerOn, "p1", fault.Frozen, nil)
		a.submit(operation.Unfreeze, "p1", nil)
		if snap := a.want("p1", Stopped); snap.Record.frozen() || snap.Reason != "" {
			t.Errorf("after all reasons are removed: %s %+v", snap.Reason, snap.Record.Freezes)
		}
		a.submit(operation.Unfreeze, "p1", nil) // there is nothing to do
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		var got []string
		for _, k := range a.kinds("p1") {
			if strings.HasPrefix(k, "21") || strings.HasPrefix(k, "22") {
				got = append(got, k)
			}
		}
		if diff := cmp.Diff([]string{"21", "21", "22", "22"}, got); diff != "" {
			t.Errorf("events of freezes (-want +got):\n%s", diff)
		}
	})
}

// TestFreezeInEveryStatus freezes what runs, boots, stops and is off, by grace and by force: the phone comes to rest, off and frozen.
func TestFreezeInEveryStatus(t *testing.T) {
	tests := []struct {
		name string
		to   func(a *agent) *operation.Operation // what is under way, or nil
		want Status
	}{
		{"running", func(a *agent) *operation.Operation { a.on("p1"); return nil }, Stopped},
		{"booting", func(a *agent) *operation.Operation {
			a.w.Set(phonetest.Manner{AsksToBoot: -1})
			a.create("p1")
			op := a.submit(operation.PowerOn, "p1", nil)
			time.Sleep(time.Second)
			return &op
		}, Stopped},
		{"held", func(a *agent) *operation.Operation {
			a.w.Set(phonetest.Manner{AsksToBoot: -1})
			a.create("p1")
			a.do(operation.PowerOn, "p1", operation.Failed)
			return nil
		}, Stopped},
		{"shutting down", func(a *agent) *operation.Operation {
			a.on("p1")
			a.w.Set(phonetest.Manner{IgnoreShutdown: true})
			op := a.submit(operation.PowerOff, "p1", nil)
			time.Sleep(time.Second)
			return &op
		}, PoweredOff},
		{"stopped", func(a *agent) *operation.Operation { a.create("p1"); return nil }, Stopped},
		{"powered off", func(a *agent) *operation.Operation {
			a.on("p1")
			a.do(operation.PowerOff, "p1", operation.Succeeded)
			return nil
		}, PoweredOff},
		{"unknown", func(a *agent) *operation.Operation {
			a.on("p1")
			a.w.SetDown(true)
			time.AfterFunc(time.Minute, func() { a.w.SetDown(false) })
			return nil
		}, Stopped},
	}
	for _, tt := range tests {
		for _, force := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				runAgent(t, func(t *testing.T, a *agent) {
					before := tt.to(a)
					began, shutdowns := time.Now(), a.w.Count("Shutdown")
					r := a.finish(a.submit(operation.Freeze, "p1", freezing(FrozenAdmin, force)))
					if r.State != operation.Succeeded {
						t.Errorf("freeze: %+v", r)
					}
					if snap := a.want("p1", tt.want); !snap.Record.frozen() || snap.InitPID != 0 || snap.DisplayOn || snap.Record.Hold != nil {
						t.Errorf("frozen phone: %+v", snap)
					}
					if took := time.Since(began); tt.name != "unknown" && force && took > time.Second {
						t.Errorf("by force it took %s", took)
					}
					if force && a.w.Count("Shutdown") != shutdowns {
						t.Error("by force the guest was asked to shut down")
					}
					if before == nil {
						return
					}
					op, err := a.ops.Get(before.ID)
					if err != nil || op.State != operation.Aborted || op.Results[0].Failure.Reason != fault.Superseded {
						t.Errorf("what was in the way: %+v %v", op, err)
					}
				})
			})
		}
	}
}

func TestFreezeOverFreeze(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		a.w.Set(phonetest.Manner{IgnoreShutdown: true})
		first := a.submit(operation.Freeze, "p1", freezing(FrozenOverdue, false))
		time.Sleep(time.Second)
		a.want("p1", Stopping)
		if err := a.refused(operation.Freeze, "p1", fault.Busy, freezing(FrozenPolice, false)); fault.Meta(err)["operation_id"] != first.ID {
			t.Errorf("the refusal %v does not name %s", err, first.ID)
		}
		a.refused(operation.Unfreeze, "p1", fault.Busy, nil)
		a.finish(a.submit(operation.Freeze, "p1", freezing(FrozenPolice, true)))
		if snap := a.want("p1", Stopped); snap.Reason != "frozen: OVERDUE, POLICE" {
			t.Errorf("reason %q", snap.Reason)
		}
		if r := a.finish(first); r.State != operation.Aborted {
			t.Errorf("the first: %+v", r)
		}
	})
}

func TestFreezeRequestsThatAreWrong(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		for _, tt := range []struct {
			field string
			q     Request
		}{
			{"reason", Request{Kind: operation.Freeze}},
			{"reason", Request{Kind: operation.Freeze, Freeze: 6}},
			{"reasons", Request{Kind: operation.Unfreeze, Unfreeze: []FreezeReason{FrozenAdmin, 0}}},
		} {
			tt.q.IDs = []string{"p1"}
			if _, err := a.Submit(t.Context(), tt.q); fault.Meta(err)["field"] != tt.field || fault.Reason(err) != fault.InvalidField {
				t.Errorf("%+v: %v, want an error of field %s", tt.q, err, tt.field)
			}
		}
	})
}

// TestFreezeOutlivesTheAgent has the agent die while it shuts a frozen phone down, and the next one finish.
func TestFreezeOutlivesTheAgent(t *testing.T) {
	path := t.TempDir() + "/db"
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, nil)
		a.on("p1")
		w.Set(phonetest.Manner{IgnoreShutdown: true})
		op := a.submit(operation.Freeze, "p1", freezing(FrozenPolice, false))
		time.Sleep(time.Second)
		a.stop()
		a = startAgent(t, w, path, nil)
		defer func() { a.stop() }()
		if r := a.finish(op); r.State != operation.Succeeded {
			t.Errorf("freeze over a restart of the agent: %+v", r)
		}
		if snap := a.want("p1", Stopped); !slices.Equal(snap.Record.freezeReasons(), []FreezeReason{FrozenPolice}) {
			t.Errorf("freezes: %v", snap.Record.Freezes)
		}
		a.refused(operation.PowerOn, "p1", fault.Frozen, nil)
	})
}
