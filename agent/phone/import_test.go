package phone

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/data"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// received is an archive that has come, of a phone like those of the tests.
func (a *agent) received(content string) data.Archive {
	a.w.Lock()
	defer a.w.Unlock()
	name := fmt.Sprintf("archive-%d", len(a.w.Archives))
	a.w.Archives[name] = content
	return data.Archive{
		Name: name, Bytes: uint64(len(content)), SHA256: []byte(content), Manifest: archive.Manifest{Profile: "testphone", Bytes: uint64(len(content))},
	}
}

// importing begins an import.
func (a *agent) importing(id, content string) operation.Operation {
	a.t.Helper()
	op, begun, err := a.ImportData(ImportRequest{ID: id, Archive: a.received(content), RequestedBy: "uid/0"})
	if err != nil || !begun {
		a.t.Fatalf("import: begun %v, %v", begun, err)
	}
	return op
}

// holds compares what is on disk of a phone with one complete volume, and looks for what an import may leave.
func (a *agent) holds(id, content string) {
	a.t.Helper()
	snap, err := a.Get(id)
	if err != nil {
		a.t.Fatal(err)
	}
	r := snap.Record
	a.w.Lock()
	defer a.w.Unlock()
	b := a.w.Bodies[id]
	if v, there := b.Volumes[r.DataGeneration]; !there || v.Content != content || v.Bytes != r.Spec.DataBytes || len(b.Volumes) != 1 {
		a.t.Errorf("volumes of %s: %+v at generation %d, want %q alone", id, b.Volumes, r.DataGeneration, content)
	}
	if r.KeptGeneration != r.DataGeneration || r.Import != nil || r.Task != nil || len(a.w.Archives) != 0 {
		a.t.Errorf("not finished: %+v, archives %v", r, a.w.Archives)
	}
	if a.w.Violation != "" {
		a.t.Error(a.w.Violation)
	}
}

func TestImport(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.images["testphone"] = Image{Digest: "sha256:1", Profile: "testphone", AndroidVersion: "13"}
		a.written("p1", "photos")
		received := a.received("music")
		received.Manifest.AndroidVersion = "12"
		q := ImportRequest{ID: "p1", Archive: received, RequestID: "r1", RequestedBy: "uid/0"}
		if earlier, size, err := a.CheckImport(q); earlier != nil || size != 4<<30 || err != nil {
			t.Errorf("before: %+v, %d bytes, %v", earlier, size, err)
		}
		op, begun, err := a.ImportData(q)
		if err != nil || !begun || op.Kind != operation.ImportData || op.RequestedBy != "uid/0" {
			t.Fatalf("%+v, begun %v, %v", op, begun, err)
		}
		if r := a.finish(op); r.State != operation.Succeeded {
			t.Fatalf("import: %+v", r.Failure)
		}
		a.holds("p1", "music")
		if r := a.want("p1", PoweredOff).Record; r.DataGeneration != 2 || r.DataAndroid != "12" {
			t.Errorf("generation %d, Android %q", r.DataGeneration, r.DataAndroid)
		}
		// The same request is the same operation, with the archive and without.
		again := q
		again.Archive = a.received("music")
		if op2, begun, err := a.ImportData(again); err != nil || begun || op2.ID != op.ID {
			t.Errorf("a retry: %s, begun %v, %v", op2.ID, begun, err)
		}
		q.SHA256 = received.SHA256
		if earlier, _, err := a.CheckImport(q); err != nil || earlier == nil || earlier.ID != op.ID {
			t.Errorf("a retry that names the digest: %+v, %v", earlier, err)
		}
		q.SHA256 = []byte("other")
		if _, _, err := a.CheckImport(q); fault.Reason(err) != fault.RequestIDReused {
			t.Errorf("another request under the same id: %v", err)
		}
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		q.SHA256 = nil
		if earlier, _, err := a.CheckImport(q); err != nil || earlier != nil {
			t.Errorf("what may be a retry of a phone that runs by now: %+v, %v", earlier, err)
		}
		if r := a.want("p1", Running).Record; r.DataAndroid != "13" {
			t.Errorf("after its start the data is of Android %q", r.DataAndroid)
		}
	})
}

// TestImportIntoAPhoneThatIsHeld gives a phone that did not boot other data: it is off then, and no longer held.
func TestImportIntoAPhoneThatIsHeld(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		a.w.Set(phonetest.Manner{AsksToBoot: -1})
		a.do(operation.PowerOn, "p1", operation.Failed)
		if r := a.finish(a.importing("p1", "music")); r.State != operation.Succeeded {
			t.Fatalf("import: %+v", r.Failure)
		}
		a.holds("p1", "music")
		if r := a.want("p1", Stopped).Record; r.Hold != nil || r.On {
			t.Errorf("still held: %+v", r)
		}
	})
}

func TestImportsThatAreRefused(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.images["testphone"] = Image{Digest: "sha256:1", Profile: "testphone", AndroidVersion: "13"}
		a.written("off", "photos")
		a.on("on")
		a.written("lent", "photos")
		lent, release, err := a.lend("lent")
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		for _, tt := range []struct {
			name, id, reason string
			class            error
			words            []string
			edit             func(*data.Archive)
		}{
			{"no such phone", "nobody", fault.NoSuchPhone, errdefs.ErrNotFound, nil, nil},
			{"running", "on", fault.NotOff, errdefs.ErrFailedPrecondition, nil, nil},
			{"being exported", "lent", fault.Busy, errdefs.ErrFailedPrecondition, []string{"being exported"}, nil},
			{"another profile", "off", fault.WrongProfile, errdefs.ErrFailedPrecondition, []string{"testphone", "waydroid"}, func(r *data.Archive) { r.Manifest.Profile = "waydroid" }},
			{"a newer Android", "off", fault.DataNewer, errdefs.ErrFailedPrecondition, []string{"Android 14", "Android 13"}, func(r *data.Archive) { r.Manifest.AndroidVersion = "14" }},
			{"too large", "off", data.TooLarge, errdefs.ErrOutOfRange, []string{"4294967297", "4294967296"}, func(r *data.Archive) { r.Manifest.Bytes = 4<<30 + 1 }},
		} {
			received := a.received("music")
			if tt.edit != nil {
				tt.edit(&received)
			}
			op, begun, err := a.ImportData(ImportRequest{ID: tt.id, Archive: received})
			if begun || fault.Reason(err) != tt.reason || !strings.Contains(fmt.Sprintf("%T", err), "fault.Error") {
				t.Errorf("%s: begun %v, %+v, %v, want %s", tt.name, begun, op, err, tt.reason)
				continue
			}
			if fault.Code(err) != fault.Code(tt.class) {
				t.Errorf("%s: %v has the code %s", tt.name, err, fault.Code(err))
			}
			for _, word := range tt.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%s: %v does not name %s", tt.name, err, word)
				}
			}
			if _, _, err := a.CheckImport(ImportRequest{ID: tt.id}); tt.edit == nil && fault.Reason(err) != tt.reason {
				t.Errorf("%s, before the archive: %v, want %s", tt.name, err, tt.reason)
			}
		}
		if lent.Err() != nil {
			t.Errorf("a refused import has ended the reader: %v", context.Cause(lent))
		}
		if r := a.want("off", PoweredOff).Record; r.DataGeneration != 1 || r.Import != nil || a.w.Count("ImportData") != 0 {
			t.Errorf("something has changed: %+v", r)
		}
	})
}

// TestImportHoldsThePhone tries, while an archive is unpacked, all that would disturb it.
func TestImportHoldsThePhone(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photos")
		a.w.Hook = hang("ImportData before")
		op := a.importing("p1", "music")
		synctest.Wait()
		if snap := a.want("p1", PoweredOff); snap.Reason != "an archive is being imported" {
			t.Errorf("the phone says %q", snap.Reason)
		}
		if got := a.progressOf(op, "p1"); got != "unpacking the archive: 100 %" {
			t.Errorf("progress: %q", got)
		}
		for _, kind := range []operation.Kind{operation.PowerOn, operation.Reset, operation.Delete} {
			if err := a.refused(kind, "p1", fault.Busy, nil); fault.Meta(err)["operation_id"] != op.ID {
				t.Errorf("%s: %v does not name %s", kind, err, op.ID)
			}
		}
		if _, _, err := a.ImportData(ImportRequest{ID: "p1", Archive: a.received("films")}); fault.Reason(err) != fault.Busy {
			t.Errorf("another import: %v", err)
		}
		if err := a.w.Remove("archive-1"); err != nil {
			t.Error(err)
		}
		if _, _, err := a.lend("p1"); fault.Reason(err) != fault.Busy {
			t.Errorf("an export: %v", err)
		}
		if _, _, err := a.Clone(t.Context(), Spec{ID: "p2"}, "p1", "uid/0"); fault.Reason(err) != fault.Busy {
			t.Errorf("a clone: %v", err)
		}
		a.change("p1", Spec{Labels: map[string]string{"a": "b"}}, "labels") // in nobody's way
		grow := a.submit(operation.Update, "p1", patching(Spec{DataBytes: 8 << 30}, "data_bytes"))
		a.w.Lock()
		a.w.Hook = nil
		a.w.Unlock()
		time.Sleep(3 * time.Hour) // the step's time limit ends the call, and it is tried again
		for _, op := range []operation.Operation{op, grow} {
			if r := a.finish(op); r.State != operation.Succeeded {
				t.Errorf("%s: %+v", op.Kind, r.Failure)
			}
		}
		a.holds("p1", "music")
		a.do(operation.PowerOn, "p1", operation.Succeeded)
	})
}

// progressOf is what is being done for a phone.
func (a *agent) progressOf(op operation.Operation, id string) string {
	a.t.Helper()
	got, err := a.ops.Get(op.ID)
	if err != nil {
		a.t.Fatal(err)
	}
	return got.Result(id).Progress
}

// TestImportIsGivenUp has other requests go before an import, while it is unpacked and right after that: the phone has its former data,
// whole, and nothing of the new is ever used.
func TestImportIsGivenUp(t *testing.T) {
	for name, winner := range map[string]func(a *agent) operation.Operation{
		"power off": func(a *agent) operation.Operation { return a.submit(operation.PowerOff, "p1", nil) },
		"power off by force": func(a *agent) operation.Operation {
			return a.submit(operation.PowerOff, "p1", func(q *Request) { q.Force = true })
		},
		"freeze": func(a *agent) operation.Operation {
			return a.submit(operation.Freeze, "p1", freezing(FrozenPolice, false))
		},
	} {
		for _, point := range []string{"ImportData before", "ImportData after"} {
			t.Run(name+"/"+point, func(t *testing.T) {
				runAgent(t, func(t *testing.T, a *agent) {
					a.written("p1", "photos")
					a.w.Hook = hang(point)
					op := a.importing("p1", "music")
					synctest.Wait()
					won := winner(a)
					if r := a.finish(won); r.State != operation.Succeeded {
						t.Errorf("%s: %+v", won.Kind, r.Failure)
					}
					if r := a.finish(op); r.State != operation.Aborted || r.Failure.Reason != fault.Superseded || !strings.Contains(r.Failure.Message, won.ID) {
						t.Errorf("import: %+v", r)
					}
					time.Sleep(time.Minute)
					synctest.Wait()
					a.holds("p1", "photos")
					// The next generation is a fresh one, not what the import has left.
					a.do(operation.Reset, "p1", operation.Succeeded)
					a.holds("p1", "")
					if r := a.want("p1", PoweredOff).Record; r.DataGeneration != 3 {
						t.Errorf("generation %d is the second import's", r.DataGeneration)
					}
				})
			})
		}
	}
}

// TestResetRightAfterAnImportThatWasGivenUp does not wait until its remains are gone.
func TestResetRightAfterAnImportThatWasGivenUp(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photos")
		a.w.Hook = hang("ImportData after")
		a.importing("p1", "music")
		synctest.Wait()
		a.w.Lock()
		a.w.Hook = hang("RemoveGuest before") // nothing of the remains is looked at yet
		a.w.Unlock()
		a.finish(a.submit(operation.PowerOff, "p1", nil))
		a.do(operation.Reset, "p1", operation.Succeeded)
		a.holds("p1", "")
	})
}

// TestImportIsDeleted deletes a phone by force while it is given other data: nothing is left of either.
func TestImportIsDeleted(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photos")
		a.w.Hook = hang("ImportData before")
		op := a.importing("p1", "music")
		synctest.Wait()
		a.finish(a.submit(operation.Delete, "p1", func(q *Request) { q.Force = true }))
		if r := a.finish(op); r.State != operation.Aborted || r.Failure.Reason != fault.Superseded {
			t.Errorf("import: %+v", r)
		}
		if len(a.w.Bodies) != 0 || len(a.w.Archives) != 0 {
			t.Errorf("left behind: %v, archives %v", a.w.Bodies, a.w.Archives)
		}
	})
}

// TestImportThatFails leaves the phone its data.
func TestImportThatFails(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		reason string
		tries  int
	}{
		"damaged":     {fmt.Errorf("the archive is damaged: %w", errdefs.ErrDataLoss), data.Damaged, 1},
		"no room":     {fmt.Errorf("the volume has no room: %w", errdefs.ErrOutOfRange), data.TooLarge, 1},
		"disk full":   {errNoRoom, "", 1},
		"another day": {fmt.Errorf("read: input/output error"), "", 5},
	} {
		t.Run(name, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				a.written("p1", "photos")
				a.w.Hook = fail("ImportData before", tt.err)
				r := a.finish(a.importing("p1", "music"))
				if r.State != operation.Failed || r.Failure.Reason != tt.reason || a.w.Count("ImportData") != tt.tries {
					t.Errorf("after %d tries: %+v", a.w.Count("ImportData"), r.Failure)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				a.holds("p1", "photos")
				if snap := a.want("p1", PoweredOff); snap.Record.LastFailure == nil || snap.Record.LastFailure.Kind != operation.ImportData {
					t.Errorf("last failure: %+v", snap.Record.LastFailure)
				}
				a.w.Lock()
				a.w.Hook = nil
				a.w.Unlock()
				if r := a.finish(a.importing("p1", "films")); r.State != operation.Succeeded {
					t.Errorf("the next import: %+v", r.Failure)
				}
				a.holds("p1", "films")
				if snap := a.want("p1", PoweredOff); snap.Record.LastFailure != nil {
					t.Errorf("a success leaves %+v", snap.Record.LastFailure)
				}
			})
		})
	}
}

// TestImportOverAgents has the agent die before and after every call of an import, and at its commits, and the next one finish it: at each
// death the phone has its former data, whole, or the new.
func TestImportOverAgents(t *testing.T) {
	for _, point := range []string{
		"ImportData before", "ImportData after", "Prepare before", "Prepare after", "KeepGeneration before", "KeepGeneration after",
	} {
		t.Run(point, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			synctest.Test(t, func(t *testing.T) {
				w := phonetest.New()
				a := startAgent(t, w, path, nil)
				a.written("p1", "photos")
				died := make(chan struct{})
				w.Hook = die(point, died)
				op := a.importing("p1", "music")
				<-died
				if named := a.NamesArchive("archive-0"); named != strings.HasPrefix(point, "ImportData") {
					t.Errorf("a record names the archive: %v", named)
				}
				w.Lock()
				w.Hook = nil
				w.Unlock()
				a.stop()
				a = startAgent(t, w, path, nil)
				defer func() { a.stop() }()
				if r := a.finish(op); r.State != operation.Succeeded {
					t.Errorf("import: %+v", r.Failure)
				}
				a.holds("p1", "music")
				a.do(operation.PowerOn, "p1", operation.Succeeded)
			})
		})
	}
}

// TestImportWithoutARoot has the data there when nothing else can be made: the operation is about the data.
func TestImportWithoutARoot(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photos")
		a.w.Hook = fail("Prepare before", errNoRoom)
		if r := a.finish(a.importing("p1", "music")); r.State != operation.Succeeded {
			t.Errorf("import: %+v", r)
		}
		a.holds("p1", "music")
		a.w.Lock()
		a.w.Hook = nil
		a.w.Unlock()
		a.do(operation.PowerOn, "p1", operation.Succeeded)
	})
}

// TestImportThatIsDoneIsNotGivenUp has a request come when the new data is the phone's and the former is not yet gone.
func TestImportThatIsDoneIsNotGivenUp(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photos")
		a.w.Hook = hang("KeepGeneration before")
		op := a.importing("p1", "music")
		synctest.Wait()
		freeze := a.submit(operation.Freeze, "p1", freezing(FrozenPolice, false))
		a.w.Lock()
		a.w.Hook = nil
		a.w.Unlock()
		a.finish(freeze)
		if r := a.finish(op); r.State != operation.Succeeded {
			t.Errorf("import: %+v", r)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		a.holds("p1", "music")
	})
}
