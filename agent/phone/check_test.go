package phone

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/volume"
)

// finds has the next check of a phone's data find something.
func (a *agent) finds(id string, found volume.Report) {
	a.w.Lock()
	defer a.w.Unlock()
	b := a.w.Bodies[id]
	for generation, v := range b.Volumes {
		v.Found = found
		b.Volumes[generation] = v
	}
}

// checks returns the events of a phone's data.
func (a *agent) checks(id string) (all []event.Event) {
	a.t.Helper()
	a.kinds(id) // lets the journal gather
	err := a.log.Watch(a.t.Context(), event.WatchOptions{PhoneID: id, NoFollow: true}, func(events []event.Event) error {
		for _, e := range events {
			if e.Kind == event.DataChecked {
				all = append(all, e)
			}
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return all
}

func TestWhatACheckFindsIsTold(t *testing.T) {
	for _, tt := range []struct {
		found   volume.Report
		outcome string
	}{
		{volume.Report{Outcome: volume.Replayed, Reason: "it was not unmounted", Summary: "recovering journal"}, "replayed"},
		{volume.Report{Outcome: volume.Mended, Reason: "the kernel found errors in it", Summary: "Inode 12 was part of the orphaned inode list"}, "mended"},
	} {
		runAgent(t, func(t *testing.T, a *agent) {
			a.written("p1", "")
			a.finds("p1", tt.found)
			op := a.submit(operation.PowerOn, "p1", nil)
			if r := a.finish(op); r.State != operation.Succeeded {
				t.Fatalf("power on: %+v", r)
			}
			got := a.checks("p1")
			if len(got) != 1 || got[0].OperationID != op.ID || !strings.Contains(got[0].Message, tt.found.Reason) {
				t.Fatalf("events: %+v", got)
			}
			if at := got[0].Attributes; at["outcome"] != tt.outcome || at["reason"] != tt.found.Reason || at["summary"] != tt.found.Summary {
				t.Errorf("attributes: %v", at)
			}
			a.do(operation.Restart, "p1", operation.Succeeded)
			if got := a.checks("p1"); len(got) != 1 {
				t.Errorf("data that is in order made an event: %+v", got)
			}
		})
	}
}

// TestDataBeyondRepair has a phone not start, say why, and start again once it was reset.
func TestDataBeyondRepair(t *testing.T) {
	lost := volume.Report{Outcome: volume.BeyondRepair, Reason: "it has no valid superblock", Summary: "Bad magic number in super-block\nyou might try another"}
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "")
		a.finds("p1", lost)
		r := a.do(operation.PowerOn, "p1", operation.Failed)
		if f := r.Failure; f.Reason != fault.DataLoss || f.Code != int32(codes.DataLoss) || !strings.Contains(f.Message, lost.Reason) || !strings.HasSuffix(f.Message, "Bad magic number in super-block") {
			t.Errorf("failure: %+v", f)
		}
		snap := a.want("p1", Stopped)
		if h := snap.Record.Hold; h == nil || h.Reason != HoldStartFailed || snap.Record.LastFailure == nil || snap.Record.LastFailure.Reason != fault.DataLoss {
			t.Errorf("record: %+v", snap.Record)
		}
		if got := a.checks("p1"); len(got) != 1 || got[0].Attributes["outcome"] != "beyond_repair" {
			t.Errorf("events: %+v", got)
		}
		if a.w.Count("StartDisplay") != 1 { // of the time before
			t.Error("it was started all the same")
		}
		a.do(operation.Reset, "p1", operation.Succeeded)
		a.do(operation.PowerOn, "p1", operation.Succeeded)
	})
	// A guest that crashes on data that is lost is held, and says so although no operation waits.
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		a.finds("p1", lost)
		a.w.Exit("p1", container.Guest, 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		if snap := a.want("p1", Stopped); snap.Record.Hold == nil || !strings.Contains(snap.Record.Hold.Message, "beyond repair") {
			t.Errorf("record: %+v", snap.Record)
		}
	})
}

// TestCloneOfDataThatWasNotInOrder tells of the phone whose data was checked, and makes no copy of data that is lost.
func TestCloneOfDataThatWasNotInOrder(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photo")
		a.finds("p1", volume.Report{Outcome: volume.Replayed, Reason: "it was not unmounted"})
		_, op, err := a.Clone(t.Context(), Spec{ID: "p2"}, "p1", "uid/0")
		if err != nil {
			t.Fatal(err)
		}
		if r := a.finish(*op); r.State != operation.Succeeded {
			t.Errorf("clone: %+v", r)
		}
		if mine, others := a.checks("p1"), a.checks("p2"); len(mine) != 1 || len(others) != 0 {
			t.Errorf("events: %+v, %+v", mine, others)
		}
		a.finds("p1", volume.Report{Outcome: volume.BeyondRepair, Reason: "it has no valid superblock"})
		_, op, err = a.Clone(t.Context(), Spec{ID: "p3"}, "p1", "uid/0")
		if err != nil {
			t.Fatal(err)
		}
		if r := a.finish(*op); r.State != operation.Failed || r.Failure.Reason != fault.DataLoss {
			t.Errorf("clone of data that is lost: %+v", r)
		}
		if n := a.w.Count("CloneData"); n != 1 {
			t.Errorf("data was copied %d times", n)
		}
	})
}

// TestCheckOfDataThatIsLent tells what a check finds before an export, and refuses what is beyond repair.
func TestCheckOfDataThatIsLent(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photos")
		lent, snap, release, err := a.Lend(t.Context(), "p1", "its data is being exported")
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		for n, tt := range []struct {
			outcome volume.Outcome
			reason  string
		}{{volume.Replayed, ""}, {volume.BeyondRepair, fault.DataLoss}} {
			a.finds("p1", volume.Report{Outcome: tt.outcome, Reason: "it was not unmounted"})
			if err := a.CheckLent(lent, snap); fault.Reason(err) != tt.reason || (err != nil) != (tt.reason != "") {
				t.Errorf("%v: %v, want reason %q", tt.outcome, err, tt.reason)
			}
			if got := a.checks("p1"); len(got) != n+1 {
				t.Errorf("%v: events %+v", tt.outcome, got)
			}
		}
	})
}
