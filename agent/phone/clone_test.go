package phone

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/runtime/container"
)

// written makes a phone that is off and has data.
func (a *agent) written(id, content string) {
	a.t.Helper()
	a.on(id)
	a.w.Lock()
	v := a.w.Bodies[id].Volumes[1]
	v.Content = content
	a.w.Bodies[id].Volumes[1] = v
	a.w.Unlock()
	a.do(operation.PowerOff, id, operation.Succeeded)
	a.want(id, PoweredOff)
}

// clone begins a copy.
func (a *agent) clone(spec Spec, from string) operation.Operation {
	a.t.Helper()
	_, op, err := a.Clone(a.t.Context(), spec, from, "uid/0")
	if err != nil {
		a.t.Fatal(err)
	}
	if op == nil {
		a.t.Fatalf("the clone of %s has no operation", from)
	}
	return *op
}

// content returns what is on a phone's data volume.
func (a *agent) content(id string) string {
	a.w.Lock()
	defer a.w.Unlock()
	if b := a.w.Bodies[id]; b != nil {
		return b.Volumes[1].Content
	}
	return ""
}

func TestClone(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.images["testphone"] = Image{Digest: "sha256:1", Profile: "testphone", AndroidVersion: "13"}
		a.written("p1", "photos")
		a.change("p1", Spec{
			VCPUs: 1, Display: Display{DPI: 240}, Properties: map[string]string{"ro.x": "1"}, Labels: map[string]string{"user": "u1"},
			Lease: Lease{ExpiresAt: time.Now().Add(time.Hour)},
		}, "vcpus", "display.dpi", "properties", "labels", "lease")
		a.images["testphone"] = Image{Digest: "sha256:2", Profile: "testphone", AndroidVersion: "14"} // p1 has the former content
		op := a.clone(Spec{ID: "p2"}, "p1")
		if op.Kind != operation.Clone || op.Results[0].PhoneID != "p2" || op.RequestedBy != "uid/0" {
			t.Errorf("operation: %+v", op)
		}
		if r := a.finish(op); r.State != operation.Succeeded {
			t.Fatalf("clone: %+v", r.Failure)
		}
		snap := a.want("p2", Stopped)
		r := snap.Record
		if s := r.Spec; s.VCPUs != 1 || s.Display.DPI != 240 || s.MemoryBytes != 256<<20 || s.Properties["ro.x"] != "1" || s.Labels != nil || !s.Lease.ExpiresAt.IsZero() {
			t.Errorf("the clone's spec: %+v", s)
		}
		if r.ImageDigest != "sha256:1" || r.DataAndroid != "13" || r.CloneOf != "p1" || r.Task != nil || snap.Reason != "" {
			t.Errorf("the clone: %+v", snap)
		}
		if got := a.content("p2"); got != "photos" {
			t.Errorf("the clone's data: %q", got)
		}
		if source := a.want("p1", PoweredOff); source.Record.Readers != nil {
			t.Errorf("the source is still held: %+v", source.Record.Readers)
		}
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		a.do(operation.PowerOn, "p2", operation.Succeeded)
		if a.w.Bodies["p2"].Guest.ImageDigest != "sha256:1" || a.content("p2") != "photos" {
			t.Errorf("the clone's guest: %+v", a.w.Bodies["p2"])
		}
		// The same again is the phone that is there.
		if again, op, err := a.Clone(t.Context(), Spec{ID: "p2"}, "p1", "uid/0"); err != nil || op != nil || again.Record.CreateTime != r.CreateTime {
			t.Errorf("a retry: %+v %v", op, err)
		}
		if _, err := a.Create(t.Context(), r.Spec); fault.Reason(err) != fault.PhoneExists {
			t.Errorf("the same spec without the data: %v", err)
		}
	})
}

// TestCloneHoldsBothPhones tries, while a copy is made, all that would disturb it.
func TestCloneHoldsBothPhones(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photos")
		a.w.Hook = hang("CloneData before")
		op := a.clone(Spec{ID: "p2", DataBytes: 8 << 30}, "p1")
		if snap := a.want("p2", Stopped); snap.Reason != "being cloned from p1" || snap.OperationID() != op.ID {
			t.Errorf("the clone under way: %+v", snap)
		}
		again, retried, err := a.Clone(t.Context(), Spec{ID: "p2", DataBytes: 8 << 30}, "p1", "uid/0")
		if err != nil || retried == nil || retried.ID != op.ID || again.Record.Spec.ID != "p2" {
			t.Errorf("a retry: %+v %v", retried, err)
		}
		for _, id := range []string{"p1", "p2"} {
			for _, kind := range []operation.Kind{operation.PowerOn, operation.Reset, operation.Delete} {
				if err := a.refused(kind, id, fault.Busy, nil); fault.Meta(err)["operation_id"] != op.ID {
					t.Errorf("%s of %s: %v does not name %s", kind, id, err, op.ID)
				}
			}
		}
		if _, _, err := a.lend("p1"); fault.Reason(err) != fault.Busy || fault.Meta(err)["operation_id"] != op.ID {
			t.Errorf("lend: %v", err)
		}
		a.refused(operation.Freeze, "p2", fault.Busy, freezing(FrozenAdmin, false))
		a.refused(operation.Update, "p2", fault.Busy, patching(Spec{}, "labels"))
		a.refused(operation.Update, "p1", fault.Busy, patching(Spec{DataBytes: 16 << 30}, "data_bytes"))
		a.change("p1", Spec{Labels: map[string]string{"a": "b"}}, "labels")
		a.finish(a.submit(operation.Freeze, "p1", freezing(FrozenAdmin, false))) // it is off anyway
		third := a.clone(Spec{ID: "p3"}, "p1")                                   // any number may read
		a.w.Lock()
		a.w.Hook = nil
		a.w.Unlock()
		time.Sleep(time.Hour) // a copy that hangs is ended by its time limit, and tried again
		time.Sleep(2 * time.Hour)
		for _, op := range []operation.Operation{op, third} {
			if r := a.finish(op); r.State != operation.Succeeded {
				t.Errorf("clone: %+v", r.Failure)
			}
		}
		if got := a.w.Bodies["p2"].Volumes[1]; got.Content != "photos" || got.Bytes != 8<<30 {
			t.Errorf("the clone's volume: %+v", got)
		}
		a.submit(operation.Unfreeze, "p1", nil)
		a.do(operation.PowerOn, "p1", operation.Succeeded)
	})
}

// TestCloneThatFails leaves no phone that looks like a copy, and lets go of the other.
func TestCloneThatFails(t *testing.T) {
	for _, point := range []string{"CloneData before", "CloneData after", "GrowData before"} {
		t.Run(point, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				a.written("p1", "photos")
				a.w.Hook = fail(point, errors.New("no luck"))
				op := a.clone(Spec{ID: "p2", DataBytes: 8 << 30}, "p1")
				r := a.finish(op)
				if r.State != operation.Failed || !strings.Contains(r.Failure.Message, "no luck") {
					t.Errorf("clone: %+v", r)
				}
				if _, err := a.Get("p2"); fault.Reason(err) != fault.NoSuchPhone {
					t.Errorf("the new phone is still there: %v", err)
				}
				if a.w.Bodies["p2"] != nil {
					t.Errorf("left behind: %+v", a.w.Bodies["p2"])
				}
				a.w.Lock()
				a.w.Hook = nil
				a.w.Unlock()
				a.do(operation.PowerOn, "p1", operation.Succeeded)
				a.create("p2") // the id is free
			})
		})
	}
}

// TestCloneIsGivenUp deletes by force what a copy needs: the new phone goes with it, and the operation names the winner.
func TestCloneIsGivenUp(t *testing.T) {
	for _, ids := range [][]string{{"p1"}, {"p2"}, {"p1", "p2"}, {"p2", "p1"}} {
		t.Run(strings.Join(ids, " "), func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				a.written("p1", "photos")
				a.w.Hook = hang("CloneData before")
				op := a.clone(Spec{ID: "p2"}, "p1")
				synctest.Wait()
				a.w.Lock()
				a.w.Hook = nil
				a.w.Unlock()
				gone, err := a.Submit(t.Context(), Request{Kind: operation.Delete, IDs: ids, Force: true})
				if err != nil {
					t.Fatal(err)
				}
				for range ids {
					if r := a.finish(gone); r.State != operation.Succeeded {
						t.Errorf("delete: %+v", r)
					}
				}
				r := a.finish(op)
				if r.State != operation.Aborted || r.Failure.Reason != fault.Superseded || !strings.Contains(r.Failure.Message, gone.ID) {
					t.Errorf("clone: %+v", r)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if _, err := a.Get("p2"); err == nil || a.w.Bodies["p2"] != nil {
					t.Error("the new phone is still there")
				}
				if snap, err := a.Get("p1"); err == nil && (snap.Record.Readers != nil || a.content("p1") != "photos") {
					t.Errorf("the source: %+v", snap.Record)
				}
				if got, err := a.ops.Get(gone.ID); err != nil || got.State != operation.Succeeded {
					t.Errorf("delete: %+v %v", got, err)
				}
			})
		})
	}
}

func TestClonesThatAreRefused(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.images["testphone"] = Image{Digest: "sha256:1", Profile: "testphone", AndroidVersion: "13"}
		a.images["old"] = Image{Digest: "sha256:0", Profile: "testphone", AndroidVersion: "12"}
		a.images["new"] = Image{Digest: "sha256:2", Profile: "testphone", AndroidVersion: "14"}
		a.images["other"] = Image{Digest: "sha256:3", Profile: "waydroid"}
		a.written("off", "photos")
		a.on("on")
		a.create("booting")
		a.w.Set(phonetest.Manner{AsksToBoot: -1})
		a.submit(operation.PowerOn, "booting", nil)
		time.Sleep(time.Second)
		for _, tt := range []struct {
			name, from, reason, field string
			spec                      Spec
		}{
			{"no such phone", "nobody", fault.NoSuchPhone, "", Spec{ID: "p2"}},
			{"itself", "off", fault.InvalidField, "clone_from", Spec{ID: "off"}},
			{"running", "on", fault.NotOff, "", Spec{ID: "p2"}},
			{"booting", "booting", fault.NotOff, "", Spec{ID: "p2"}},
			{"no id", "off", fault.InvalidField, "spec.id", Spec{}},
			{"taken", "off", fault.PhoneExists, "", Spec{ID: "on"}},
			{"less data", "off", fault.InvalidField, "spec.data_bytes", Spec{ID: "p2", DataBytes: 1 << 30}},
			{"unknown image", "off", fault.NoSuchImage, "", Spec{ID: "p2", Image: "nothing"}},
			{"older Android", "off", fault.DataNewer, "", Spec{ID: "p2", Image: "old"}},
			{"image of another profile", "off", fault.WrongProfile, "", Spec{ID: "p2", Image: "other"}},
		} {
			_, _, err := a.Clone(t.Context(), tt.spec, tt.from, "uid/0")
			if fault.Reason(err) != tt.reason || fault.Meta(err)["field"] != tt.field {
				t.Errorf("%s: %v, want %s %s", tt.name, err, tt.reason, tt.field)
			}
		}
		a.w.SetDown(true)
		synctest.Wait()
		if _, _, err := a.Clone(t.Context(), Spec{ID: "p2"}, "off", "uid/0"); fault.Reason(err) != fault.ContainerdLost || !errdefs.IsUnavailable(err) {
			t.Errorf("while containerd is away: %v", err)
		}
		a.w.SetDown(false)
		if snap := a.want("off", PoweredOff); snap.Record.Readers != nil {
			t.Errorf("a refused clone holds the phone: %+v", snap.Record.Readers)
		}
		if r := a.finish(a.clone(Spec{ID: "p2", Image: "new"}, "off")); r.State != operation.Succeeded {
			t.Errorf("a newer Android: %+v", r.Failure)
		}
	})
}

// TestCloneOfAPhoneThatWasNeverStarted has nothing to copy.
func TestCloneOfAPhoneThatWasNeverStarted(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		if r := a.finish(a.clone(Spec{ID: "p2"}, "p1")); r.State != operation.Succeeded {
			t.Errorf("clone: %+v", r.Failure)
		}
		a.do(operation.PowerOn, "p2", operation.Succeeded)
	})
}

// TestCloneThatHangs does not hold the other phone for ever.
func TestCloneThatHangs(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photos")
		a.w.Hook = hang("CloneData before")
		op := a.clone(Spec{ID: "p2"}, "p1")
		time.Sleep(11 * time.Hour)
		if r := a.finish(op); r.State != operation.Failed || r.Failure.Code != 4 {
			t.Errorf("clone: %+v", r)
		}
		if n := a.w.Count("CloneData"); n != 5 {
			t.Errorf("it was tried %d times", n)
		}
		a.do(operation.PowerOn, "p1", operation.Succeeded)
	})
}

// TestLend holds a phone while somebody reads its data.
func TestLend(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photos")
		if _, _, err := a.lend("nobody"); fault.Reason(err) != fault.NoSuchPhone {
			t.Errorf("of no phone: %v", err)
		}
		lent, release, err := a.lend("p1")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := a.Clone(t.Context(), Spec{ID: "p2"}, "p1", "uid/0"); fault.Reason(err) != fault.Busy {
			t.Errorf("clone: %v", err)
		}
		_, second, err := a.lend("p1")
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []operation.Kind{operation.PowerOn, operation.Reset, operation.Delete} {
			if err := a.refused(kind, "p1", fault.Busy, nil); !strings.Contains(err.Error(), "being exported") {
				t.Errorf("%s: %v", kind, err)
			}
		}
		a.refused(operation.Update, "p1", fault.Busy, patching(Spec{DataBytes: 8 << 30}, "data_bytes"))
		a.change("p1", Spec{}, "labels")
		if lent.Err() != nil {
			t.Errorf("it ended by itself: %v", context.Cause(lent))
		}
		release()
		release() // twice does nothing
		a.refused(operation.PowerOn, "p1", fault.Busy, nil)
		second()
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		if _, _, err := a.lend("p1"); fault.Reason(err) != fault.NotOff {
			t.Errorf("of a phone that runs: %v", err)
		}
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		lent, release, err = a.lend("p1")
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		gone := a.submit(operation.Delete, "p1", func(q *Request) { q.Force = true })
		if cause := context.Cause(lent); fault.Reason(cause) != fault.Superseded || !strings.Contains(cause.Error(), gone.ID) {
			t.Errorf("the reader was ended by %v", cause)
		}
		a.finish(gone)
	})
}

// lend borrows a phone's data.
func (a *agent) lend(id string) (context.Context, func(), error) {
	lent, _, release, err := a.Lend(a.t.Context(), id, "its data is being exported")
	return lent, release, err
}

// TestCloneOverAgents has the agent die before and after each call of a copy, and the next one finish it.
func TestCloneOverAgents(t *testing.T) {
	for _, point := range []string{"CloneData before", "CloneData after", "GrowData before", "GrowData after"} {
		t.Run(point, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			synctest.Test(t, func(t *testing.T) {
				w := phonetest.New()
				a := startAgent(t, w, path, nil)
				a.written("p1", "photos")
				died := make(chan struct{})
				w.Hook = die(point, died)
				op := a.clone(Spec{ID: "p2", DataBytes: 8 << 30}, "p1")
				<-died
				w.Lock()
				w.Hook = nil
				w.Unlock()
				a.stop()
				a = startAgent(t, w, path, nil)
				defer func() { a.stop() }()
				if r := a.finish(op); r.State != operation.Succeeded {
					t.Errorf("clone: %+v", r.Failure)
				}
				if got := w.Bodies["p2"].Volumes[1]; got.Content != "photos" || got.Bytes != 8<<30 {
					t.Errorf("the clone's volume: %+v", got)
				}
				if w.Bodies["p2"].Guest != (container.Task{}) || a.want("p1", PoweredOff).Record.Readers != nil {
					t.Error("something is left")
				}
				a.do(operation.PowerOn, "p1", operation.Succeeded)
				a.do(operation.PowerOn, "p2", operation.Succeeded)
			})
		})
	}
}
