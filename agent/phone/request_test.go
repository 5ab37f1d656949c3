package phone

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy"
)

func TestCreate(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		spec := Spec{ID: "p1", Image: "testphone", MemoryBytes: 256 << 20, Labels: map[string]string{"user": "u"}}
		first, err := a.Create(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if first.Status != Stopped || first.Record.Spec.Profile != "testphone" || first.Record.ImageDigest != "sha256:1" {
			t.Errorf("new phone: %+v", first)
		}
		again, err := a.Create(t.Context(), spec)
		if err != nil || again.Revision != first.Revision {
			t.Errorf("the same spec again: revision %d %v, want %d", again.Revision, err, first.Revision)
		}
		spec.MemoryBytes++
		if _, err := a.Create(t.Context(), spec); fault.Reason(err) != fault.PhoneExists || !errdefs.IsAlreadyExists(err) {
			t.Errorf("another spec under the same id: %v", err)
		}
		tests := []struct {
			name, reason, field string
			spec                Spec
		}{
			{"unknown image", fault.NoSuchImage, "", Spec{ID: "p2", Image: "nothing", MemoryBytes: 64 << 20}},
			{"bad reference", fault.InvalidField, "spec.image", Spec{ID: "p2", Image: "a b", MemoryBytes: 64 << 20}},
			{"memory 0", fault.InvalidField, "spec.memory_bytes", Spec{ID: "p2", Image: "testphone"}},
			{"unknown profile", fault.InvalidField, "spec.profile", Spec{ID: "p2", Image: "testphone", Profile: "ios", MemoryBytes: 64 << 20}},
			{"no profile", fault.InvalidField, "spec.profile", Spec{ID: "p2", Image: "bare", MemoryBytes: 64 << 20}},
			{"a property that the profile cannot set", fault.InvalidField, "spec.properties", Spec{
				ID: "p2", Image: "testphone", Profile: "redroid", MemoryBytes: 64 << 20, Properties: map[string]string{"persist.x": "1"},
			}},
		}
		a.images["bare"] = Image{Digest: "sha256:3"}
		for _, tt := range tests {
			_, err := a.Create(t.Context(), tt.spec)
			if fault.Reason(err) != tt.reason || fault.Meta(err)["field"] != tt.field {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		if n := len(a.List()); n != 1 {
			t.Errorf("%d phones after refused creations, want 1", n)
		}
	})
}

func TestSlotsAreUniqueAndReused(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		for i := range 4 {
			a.create(fmt.Sprintf("p%d", i))
		}
		a.do(operation.Delete, "p1", operation.Succeeded)
		a.create("p4")
		slots := map[string]uint32{}
		for _, snap := range a.List() {
			slots[snap.Record.Spec.ID] = snap.Record.Slot
		}
		if diff := cmp.Diff(map[string]uint32{"p0": 0, "p2": 2, "p3": 3, "p4": 1}, slots); diff != "" {
			t.Errorf("slots (-want +got):\n%s", diff)
		}
	})
}

func TestRequestsThatAreWrong(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		ids := make([]string, 101)
		for i := range ids {
			ids[i] = fmt.Sprintf("p%d", i)
		}
		long, negative := 11*time.Minute, -time.Second
		tests := []struct {
			name, field string
			q           Request
		}{
			{"no ids", "phone_ids", Request{Kind: operation.PowerOn}},
			{"101 ids", "phone_ids", Request{Kind: operation.PowerOn, IDs: ids}},
			{"an id twice", "phone_ids", Request{Kind: operation.PowerOn, IDs: []string{"a", "b", "a"}}},
			{"long request id", "request_id", Request{Kind: operation.PowerOn, IDs: []string{"a"}, RequestID: strings.Repeat("x", 65)}},
			{"long grace", "grace", Request{Kind: operation.PowerOff, IDs: []string{"a"}, Grace: &long}},
			{"negative grace", "grace", Request{Kind: operation.PowerOff, IDs: []string{"a"}, Grace: &negative}},
		}
		for _, tt := range tests {
			if _, err := a.Submit(t.Context(), tt.q); fault.Meta(err)["field"] != tt.field {
				t.Errorf("%s: %v, want an error of field %s", tt.name, err, tt.field)
			}
		}
		if _, err := a.Submit(t.Context(), Request{Kind: operation.PowerOn, IDs: []string{"a"}}); fault.Reason(err) != fault.NoSuchPhone {
			t.Errorf("unknown phone: %v", err)
		}
	})
}

func TestOnePhonesRefusalNeverFailsTheOthers(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		a.create("p2")
		op, err := a.Submit(t.Context(), Request{Kind: operation.PowerOn, IDs: []string{"p1", "nobody", "p2"}, RequestedBy: "uid/0"})
		if err != nil {
			t.Fatal(err)
		}
		a.finish(op)
		op, err = a.ops.Get(op.ID)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range op.Results {
			word := r.PhoneID + " " + r.State.String()
			if r.Failure != nil {
				word += " " + r.Failure.Reason
			}
			got = append(got, word)
		}
		want := []string{"p1 failed " + fault.AlreadyOn, "nobody failed " + fault.NoSuchPhone, "p2 succeeded"}
		if diff := cmp.Diff(want, got); diff != "" || op.State != operation.Failed {
			t.Errorf("state %s, results (-want +got):\n%s", op.State, diff)
		}
		before := len(a.kinds(""))
		if _, err := a.Submit(t.Context(), Request{Kind: operation.PowerOn, IDs: []string{"p1", "nobody"}}); fault.Reason(err) != fault.AlreadyOn {
			t.Errorf("every phone refuses: %v, want the first refusal", err)
		}
		if after := len(a.kinds("")); after != before {
			t.Errorf("a call that every phone refuses made %d events", after-before)
		}
	})
}

func TestRequestIDReturnsTheFirstOperation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, nil)
		a.create("p1")
		q := Request{Kind: operation.PowerOn, IDs: []string{"p1"}, RequestID: "r1", RequestedBy: "client/fleet"}
		first, err := a.Submit(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		a.finish(first)
		a.stop()
		a = startAgent(t, w, path, nil)
		defer func() { a.stop() }()
		again, err := a.Submit(t.Context(), q)
		if err != nil || again.ID != first.ID || again.State != operation.Succeeded {
			t.Errorf("a retry, over a restart: %s %s %v, want %s", again.ID, again.State, err, first.ID)
		}
		other := q
		other.Kind = operation.PowerOff
		if _, err := a.Submit(t.Context(), other); fault.Reason(err) != fault.RequestIDReused {
			t.Errorf("another request under the same id: %v", err)
		}
		other.RequestedBy = "client/other"
		op, err := a.Submit(t.Context(), other)
		if err != nil {
			t.Errorf("the same id of another identity: %v", err)
		}
		a.finish(op)
		time.Sleep(operation.KeepFor + 2*time.Hour)
		late, err := a.Submit(t.Context(), q)
		if err != nil || late.ID == first.ID {
			t.Errorf("a retry after a day: %s %v, want a new operation", late.ID, err)
		}
	})
}

func TestLowDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		free := uint64(10 << 30)
		a := startAgent(t, phonetest.New(), path, func(c *Config) {
			c.DiskReserve, c.DiskFree = 2<<30, func() (uint64, error) { return free, nil }
		})
		defer a.stop()
		a.create("p1")
		a.on("p3")
		free = 1 << 30
		_, err := a.Create(t.Context(), Spec{ID: "p2", Image: "testphone", MemoryBytes: 64 << 20})
		if fault.Reason(err) != fault.DiskLow || !errdefs.IsResourceExhausted(err) {
			t.Errorf("create: %v", err)
		}
		if _, err = a.Submit(t.Context(), Request{Kind: operation.PowerOn, IDs: []string{"p1"}}); fault.Reason(err) != fault.DiskLow {
			t.Errorf("power on: %v", err)
		}
		if _, err = a.Submit(t.Context(), Request{Kind: operation.Reset, IDs: []string{"p1"}}); fault.Reason(err) != fault.DiskLow {
			t.Errorf("reset: %v", err)
		}
		if _, _, err = a.Clone(t.Context(), Spec{ID: "p2"}, "p1", "uid/0"); fault.Reason(err) != fault.DiskLow {
			t.Errorf("clone: %v", err)
		}
		a.refused(operation.Restart, "p3", fault.DiskLow, imaged("testphone")) // which may have to be unpacked
		a.do(operation.Restart, "p3", operation.Succeeded)
		a.do(operation.Delete, "p1", operation.Succeeded) // which makes room
	})
}

func TestGarbageIsCollected(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		w.Bodies["ghost"] = &phonetest.Body{Generations: map[uint64]bool{1: true}}
		w.Nets["ghost"], w.Nets["veil"] = netpolicy.Phone{ID: "ghost"}, netpolicy.Phone{ID: "veil"}
		a := startAgent(t, w, path, nil)
		defer func() { a.stop() }()
		a.on("p1")
		if len(w.Bodies) != 1 || len(w.Nets) != 1 || w.Bodies["p1"] == nil {
			t.Errorf("after the start: %v %v", w.Bodies, w.Nets)
		}
		w.Lock()
		w.Bodies["later"] = &phonetest.Body{}
		w.Unlock()
		time.Sleep(61 * time.Minute)
		if a.want("p1", Running); w.Bodies["later"] != nil {
			t.Error("an orphan lives longer than an hour")
		}
	})
}

// TestBrokenRecordIsLeftAlone writes rubbish in place of a record: the others go on, and what the phone has is not garbage.
func TestBrokenRecordIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, nil)
		a.on("p1")
		a.on("p2")
		err := a.db.Update(func(tx *store.Tx) error { return tx.Bucket(store.Phones).Put([]byte("p1"), []byte("{rubbish")) })
		if err != nil {
			t.Fatal(err)
		}
		a.stop()
		a = startAgent(t, w, path, nil)
		defer a.stop()
		time.Sleep(2 * time.Hour)
		a.want("p2", Running)
		if _, err := a.Get("p1"); !errdefs.IsDataLoss(err) {
			t.Errorf("Get of a broken record: %v", err)
		}
		if w.Bodies["p1"] == nil {
			t.Error("the phone of a broken record was collected as garbage")
		}
	})
}

func TestWatch(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		a.create("p2")
		all, one := a.Watch(nil), a.Watch([]string{"p2"})
		defer all.Close()
		defer one.Close()
		see := func(w *Watcher) (got []string) {
			t.Helper()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			changes, err := w.Next(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				return nil
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range changes {
				if c.Deleted {
					got = append(got, c.ID+" deleted")
				} else {
					got = append(got, c.ID+" "+c.Snapshot.Status.String())
				}
			}
			return got
		}
		check := func(got []string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		}
		check(see(all), "p1 STOPPED", "p2 STOPPED")
		check(see(one), "p2 STOPPED")
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		a.create("p3")
		check(see(all), "p1 RUNNING", "p3 STOPPED") // the states in between are not kept for a slow reader
		check(see(one))
		a.do(operation.Delete, "p2", operation.Succeeded)
		check(see(all), "p2 deleted")
		check(see(one), "p2 deleted")
		a.Refresh("p3")
		check(see(all), "p3 STOPPED")
		check(see(all))
	})
}

func TestWatchOfAnEmptyHostIsSynced(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		w := a.Watch(nil)
		defer w.Close()
		if changes, err := w.Next(t.Context()); err != nil || len(changes) != 0 {
			t.Errorf("first look at an empty host: %v %v", changes, err)
		}
	})
}

func TestCheckOnAndCounts(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		a.create("p2")
		if err := a.CheckOn("p1"); err != nil {
			t.Errorf("running phone: %v", err)
		}
		if err := a.CheckOn("p2"); fault.Reason(err) != fault.NotRunning {
			t.Errorf("stopped phone: %v", err)
		}
		if err := a.CheckOn("p3"); !errdefs.IsNotFound(err) {
			t.Errorf("no phone: %v", err)
		}
		if got, want := a.CountByStatus(), [6]int{1: 1, 2: 1}; got != want {
			t.Errorf("counts %v, want %v", got, want)
		}
		if got := a.ImageUsers("testphone"); got != 2 {
			t.Errorf("%d phones name the image, want 2", got)
		}
	})
}

func TestNothingIsAcceptedAfterClose(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		a.Close()
		if _, err := a.Submit(t.Context(), Request{Kind: operation.PowerOn, IDs: []string{"p1"}}); fault.Reason(err) != fault.ShuttingDown {
			t.Errorf("request: %v", err)
		}
		_, err := a.Create(t.Context(), Spec{ID: "p2", Image: "testphone", MemoryBytes: 64 << 20})
		if fault.Reason(err) != fault.ShuttingDown {
			t.Errorf("creation: %v", err)
		}
	})
}

// TestDatabaseThatCannotBeWritten has every commit fail: a request is refused, and memory says what disk says.
func TestDatabaseThatCannotBeWritten(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		before := a.want("p1", Running)
		if err := a.db.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Submit(t.Context(), Request{Kind: operation.PowerOff, IDs: []string{"p1"}}); err == nil {
			t.Error("a request was accepted without a database")
		}
		time.Sleep(time.Minute)
		after := a.want("p1", Running)
		if after.Record.On != before.Record.On || after.Record.Task != nil {
			t.Errorf("memory changed without disk: %+v", after.Record)
		}
	})
}

func TestNewNeedsItsParts(t *testing.T) {
	if _, err := New(Config{}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "DB") {
		t.Errorf("New without anything: %v", err)
	}
}
