package phone

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/runtime/container"
)

// patching is an edit of a request that changes fields.
func patching(spec Spec, fields ...string) func(*Request) {
	return func(q *Request) { q.Patch = &Patch{Spec: spec, Fields: fields} }
}

// change asks for an update, waits, and fails the test unless it succeeds.
func (a *agent) change(id string, spec Spec, fields ...string) {
	a.t.Helper()
	if r := a.finish(a.submit(operation.Update, id, patching(spec, fields...))); r.State != operation.Succeeded {
		a.t.Fatalf("update of %v: %s %+v", fields, r.State, r.Failure)
	}
	synctest.Wait()
}

// TestUpdateOfProperties refuses what the phone's profile could not be given at its next start.
func TestUpdateOfProperties(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		spec := Spec{ID: "p1", Image: "testphone", Profile: "redroid", MemoryBytes: 256 << 20, Properties: map[string]string{"ro.y": "1"}}
		if _, err := a.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		err := a.refused(operation.Update, "p1", fault.InvalidField, patching(Spec{Properties: map[string]string{"persist.x": "1"}}, "properties.persist.x"))
		if fault.Meta(err)["field"] != "spec.properties" || !strings.Contains(err.Error(), `"persist.x"`) || !strings.Contains(err.Error(), "androidboot.") {
			t.Errorf("the refusal %q does not say what is wrong and what would be right", err)
		}
		a.refused(operation.Update, "p1", fault.InvalidField, patching(Spec{Properties: map[string]string{"ro.z": "a b"}}, "properties"))
		a.change("p1", Spec{Properties: map[string]string{"androidboot.x": "1"}}, "properties.androidboot.x")
		if got := a.want("p1", Stopped).Record.Spec.Properties; len(got) != 2 {
			t.Errorf("properties: %v", got)
		}
		// What an older release has taken keeps nobody from anything else.
		if err := a.Supervisor.change("p1", func(_ *store.Tx, r *Record) error {
			r.Spec.Properties = map[string]string{"persist.x": "1"}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		a.change("p1", Spec{Labels: map[string]string{"user": "u"}}, "labels")
		a.change("p1", Spec{}, "properties.persist.x")
	})
}

// TestUpdateAtOnce changes what changes while the phone runs; the guest is not touched.
func TestUpdateAtOnce(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		before, body := a.want("p1", Running), a.w.Bodies["p1"]
		a.change("p1", Spec{VCPUs: 0.5, CPUWeight: 300, MemoryBytes: 512 << 20}, "vcpus", "cpu_weight", "memory_bytes")
		if body.VCPUs != 0.5 || body.CPUWeight != 300 || body.Guest.MemoryBytes != 512<<20 {
			t.Errorf("the guest has %g cores, weight %d, %d bytes", body.VCPUs, body.CPUWeight, body.Guest.MemoryBytes)
		}
		a.change("p1", Spec{DataBytes: 8<<30 + 1}, "data_bytes")
		if got := body.Volumes[1].Bytes; got != 8<<30+4096 {
			t.Errorf("the volume has %d bytes", got)
		}
		calls := len(a.w.Calls)
		for _, p := range []Patch{
			{Spec{Labels: map[string]string{"user": "u1", "plan": "a"}}, []string{"labels"}},
			{Spec{Labels: map[string]string{"user": "u2"}}, []string{"labels.user", "labels.plan", "labels.none"}},
			{Spec{RestartPolicy: Never}, []string{"restart_policy"}},
			{Spec{Lease: Lease{RetainUntil: time.Unix(1<<31, 0)}}, []string{"lease"}},
		} {
			op := a.submit(operation.Update, "p1", patching(p.Spec, p.Fields...))
			if op.State != operation.Succeeded || op.Results[0].State != operation.Succeeded || op.EndTime.IsZero() {
				t.Errorf("an update of %v is %+v when it is answered", p.Fields, op)
			}
		}
		snap := a.want("p1", Running)
		if diff := cmp.Diff(map[string]string{"user": "u2"}, snap.Record.Spec.Labels); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
		if s := snap.Record.Spec; s.RestartPolicy != Never || s.Lease.RetainUntil.Unix() != 1<<31 {
			t.Errorf("spec: %+v", s)
		}
		if len(a.w.Calls) != calls {
			t.Errorf("words in the record made calls: %v", a.w.Calls[calls:])
		}
		if snap.InitPID != before.InitPID || snap.PendingRestart != nil || snap.Record.Change != nil {
			t.Errorf("the phone after it: %+v", snap)
		}
		a.w.Exit("p1", container.Guest, 1)
		a.want("p1", Stopped) // the restart policy is in force
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		if got := a.w.Bodies["p1"]; got.VCPUs != 0.5 || got.Guest.MemoryBytes != 512<<20 {
			t.Errorf("the next guest has %g cores, %d bytes", got.VCPUs, got.Guest.MemoryBytes)
		}
	})
}

// TestUpdateAtTheNextStart changes what the running guest cannot have: it is named until the next start, whoever starts it.
func TestUpdateAtTheNextStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, nil)
		defer func() { a.stop() }()
		a.on("p1")
		pending := func(want ...string) {
			t.Helper()
			if snap := a.want("p1", Running); !slices.Equal(snap.PendingRestart, want) {
				t.Errorf("pending restart: %v, want %v", snap.PendingRestart, want)
			}
		}
		a.change("p1", Spec{Display: Display{DPI: 240, Width: 1}}, "display.dpi")
		pending("display")
		a.change("p1", Spec{Properties: map[string]string{"ro.x": "1"}, MemoryBytes: 128 << 20}, "properties.ro.x", "memory_bytes")
		pending("display", "properties", "memory_bytes")
		if got := w.Bodies["p1"].Guest.MemoryBytes; got != 256<<20 {
			t.Errorf("memory was taken from a guest that runs: %d", got)
		}
		a.stop()
		a = startAgent(t, w, path, nil)
		pending("display", "properties", "memory_bytes")
		a.change("p1", Spec{Display: Display{DPI: 320}}, "display.dpi") // as it was
		pending("properties", "memory_bytes")
		displays := w.Count("RemoveDisplay")
		a.do(operation.Restart, "p1", operation.Succeeded)
		pending()
		if w.Count("RemoveDisplay") != displays {
			t.Error("the display went although its spec is the same")
		}
		a.change("p1", Spec{Display: Display{Width: 480, Height: 800}}, "display.width", "display.height")
		pending("display")
		w.Exit("p1", container.Guest, 129) // the guest's own reboot is a start too
		time.Sleep(time.Minute)
		pending()
		if snap := a.want("p1", Running); w.Count("RemoveDisplay") != displays+1 || !snap.Record.Spec.sameDisplay(w.Bodies["p1"].Display) {
			t.Errorf("the display was not replaced: %+v", w.Bodies["p1"].Display)
		}
		a.change("p1", Spec{}, "display.dpi", "properties")
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		if snap := a.want("p1", PoweredOff); snap.PendingRestart != nil {
			t.Errorf("a phone that is off has pending %v", snap.PendingRestart)
		}
	})
}

func TestUpdateOfAPhoneThatIsOff(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		a.change("p1", Spec{MemoryBytes: 128 << 20, DataBytes: 8 << 30, VCPUs: 1}, "memory_bytes", "data_bytes", "vcpus")
		if a.w.Count("SetLimits") != 0 {
			t.Error("limits of a guest that does not run were set")
		}
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		if b := a.w.Bodies["p1"]; b.Guest.MemoryBytes != 128<<20 || b.Volumes[1].Bytes != 8<<30 || b.VCPUs != 1 {
			t.Errorf("the guest: %+v", b)
		}
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		a.change("p1", Spec{DataBytes: 16 << 30}, "data_bytes")
		if b := a.w.Bodies["p1"]; b.Volumes[1].Bytes != 16<<30 {
			t.Errorf("a volume that nobody has mounted: %+v", b.Volumes)
		}
	})
}

func TestUpdatesThatAreWrong(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		before := a.want("p1", Stopped)
		past := Lease{ExpiresAt: time.Now().Add(-time.Hour)}
		tests := []struct {
			name, field, says string
			patch             *Patch
		}{
			{"nothing", "update_mask", "at least one", nil},
			{"no fields", "update_mask", "at least one", &Patch{}},
			{"many fields", "update_mask", "512", &Patch{Fields: make([]string, 513)}},
			{"unknown", "update_mask", "vcpus", &Patch{Fields: []string{"colour"}}},
			{"part of a number", "update_mask", "vcpus.x", &Patch{Fields: []string{"vcpus.x"}}},
			{"no key", "update_mask", `"labels.": a name in labels must not be empty`, &Patch{Fields: []string{"labels."}}},
			{"id", "spec.id", "create another", &Patch{Fields: []string{"id"}}},
			{"profile", "spec.profile", "create another", &Patch{Fields: []string{"profile"}}},
			{"image", "spec.image", "Restart and Reset", &Patch{Fields: []string{"image"}}},
			{"less data", "spec.data_bytes", "cannot shrink", &Patch{Spec{DataBytes: 1 << 30}, []string{"data_bytes"}}},
			{"data 0", "", "", &Patch{Fields: []string{"data_bytes"}}}, // the default, which it has
			{"memory 0", "spec.memory_bytes", "0 must be", &Patch{Fields: []string{"memory_bytes"}}},
			{"many cores", "spec.vcpus", "cores", &Patch{Spec{VCPUs: 64}, []string{"vcpus"}}},
			{"odd width", "spec.display.width", "even", &Patch{Spec{Display: Display{Width: 721}}, []string{"display.width"}}},
			{"policy", "spec.restart_policy", "9", &Patch{Spec{RestartPolicy: 9}, []string{"restart_policy"}}},
			{"label", "spec.labels", "bytes", &Patch{Spec{Labels: map[string]string{"a": strings.Repeat("x", 257)}}, []string{"labels.a"}}},
			{"lease that is over", "spec.lease.expires_at", "not ahead", &Patch{Spec{Lease: past}, []string{"lease"}}},
		}
		for _, tt := range tests {
			_, err := a.Submit(t.Context(), Request{Kind: operation.Update, IDs: []string{"p1"}, Patch: tt.patch})
			if fault.Meta(err)["field"] != tt.field || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v, want an error of field %s that says %s", tt.name, err, tt.field, tt.says)
			}
		}
		if after := a.want("p1", Stopped); !after.Record.Spec.Equal(before.Record.Spec) {
			t.Errorf("refused updates changed the spec: %+v", after.Record.Spec)
		}
	})
}

// TestUpdateAnswersPerPhone names phones of which one cannot shrink.
func TestUpdateAnswersPerPhone(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		a.create("p2")
		a.change("p2", Spec{DataBytes: 8 << 30}, "data_bytes")
		op, err := a.Submit(t.Context(), Request{
			Kind: operation.Update, IDs: []string{"p1", "p2", "p3"}, Patch: &Patch{Spec{DataBytes: 6 << 30}, []string{"data_bytes"}},
		})
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
			word := r.State.String()
			if r.Failure != nil {
				word += " " + r.Failure.Reason
			}
			got = append(got, word)
		}
		if diff := cmp.Diff([]string{"succeeded", "failed INVALID_FIELD", "failed NO_SUCH_PHONE"}, got); diff != "" {
			t.Errorf("results (-want +got):\n%s", diff)
		}
	})
}

// TestUpdateBesideAStart changes a phone that boots: neither waits for the other, and the guest has the new values.
func TestUpdateBesideAStart(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.w.Set(phonetest.Manner{AsksToBoot: 100})
		a.create("p1")
		boot := a.submit(operation.PowerOn, "p1", nil)
		time.Sleep(10 * time.Second)
		snap := a.want("p1", Starting)
		guests := a.w.Count("StartGuest")
		a.change("p1", Spec{MemoryBytes: 512 << 20, Labels: map[string]string{"a": "b"}}, "memory_bytes", "labels")
		if b := a.w.Bodies["p1"]; b.Guest.MemoryBytes != 512<<20 || a.w.Count("StartGuest") != guests {
			t.Errorf("the guest: %+v", b.Guest)
		}
		if now := a.want("p1", Starting); now.InitPID != snap.InitPID || now.OperationID() != boot.ID {
			t.Errorf("the boot was disturbed: %+v", now)
		}
		if r := a.finish(boot); r.State != operation.Succeeded {
			t.Errorf("power on: %+v", r)
		}
	})
}

// TestUpdateThatCannotBeDone has the world refuse: the operation tells, and the phone says what it has.
func TestUpdateThatCannotBeDone(t *testing.T) {
	for _, tt := range []struct {
		name, point, reason string
		patch               Patch
		want                func(Spec) bool
	}{
		{"growth", "GrowData before", fault.UpdateFailed, Patch{Spec{DataBytes: 8 << 30}, []string{"data_bytes"}},
			func(s Spec) bool { return s.DataBytes == 4<<30 }},
		{"limits", "SetLimits before", fault.UpdateFailed, Patch{Spec{MemoryBytes: 512 << 20}, []string{"memory_bytes"}},
			func(s Spec) bool { return s.MemoryBytes == 512<<20 }}, // the next start has it
	} {
		t.Run(tt.name, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				a.on("p1")
				a.w.Hook = fail(tt.point, errors.New("no luck"))
				op := a.submit(operation.Update, "p1", patching(tt.patch.Spec, tt.patch.Fields...))
				if err := a.refused(operation.Update, "p1", fault.Busy, patching(tt.patch.Spec, tt.patch.Fields...)); fault.Meta(err)["operation_id"] != op.ID {
					t.Errorf("a second update: %v", err)
				}
				if snap := a.want("p1", Running); snap.OperationID() != op.ID {
					t.Errorf("operation under way is %q", snap.OperationID())
				}
				r := a.finish(op)
				if r.State != operation.Failed || r.Failure.Reason != tt.reason || !strings.Contains(r.Failure.Message, "no luck") {
					t.Errorf("update: %+v", r)
				}
				snap := a.want("p1", Running)
				if !tt.want(snap.Record.Spec) || snap.Record.Change != nil || snap.Record.LastFailure == nil || snap.Record.LastFailure.Kind != operation.Update {
					t.Errorf("afterwards: %+v", snap.Record)
				}
				a.w.Lock()
				a.w.Hook = nil
				a.w.Unlock()
				a.change("p1", Spec{DataBytes: 8 << 30, MemoryBytes: 600 << 20}, "data_bytes", "memory_bytes")
				b := a.w.Bodies["p1"]
				if snap := a.want("p1", Running); b.Volumes[1].Bytes != 8<<30 || b.Guest.MemoryBytes != 600<<20 || snap.Record.LastFailure != nil {
					t.Errorf("tried again: %+v %+v", b, snap.Record.LastFailure)
				}
			})
		})
	}
}

// TestUpdateIsGivenUpForADeletion has an update that does not come to its end, and a deletion by force.
func TestUpdateIsGivenUpForADeletion(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		a.w.Hook = hang("GrowData before")
		op := a.submit(operation.Update, "p1", patching(Spec{DataBytes: 8 << 30}, "data_bytes"))
		synctest.Wait()
		a.refused(operation.Delete, "p1", fault.Busy, nil)
		if r := a.finish(a.submit(operation.Delete, "p1", func(q *Request) { q.Force = true })); r.State != operation.Succeeded {
			t.Errorf("delete: %+v", r)
		}
		if r := a.finish(op); r.State != operation.Aborted || r.Failure.Reason != fault.Superseded {
			t.Errorf("update: %+v", r)
		}
	})
}

// TestUpdateWithoutVolumes has a world that cannot grow volumes.
func TestUpdateWithoutVolumes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		a := startAgent(t, phonetest.New(), path, func(c *Config) { c.Volumes = nil })
		defer a.stop()
		a.create("p1")
		r := a.finish(a.submit(operation.Update, "p1", patching(Spec{DataBytes: 8 << 30}, "data_bytes")))
		if r.State != operation.Failed || r.Failure.Code != 12 {
			t.Errorf("update: %+v", r.Failure)
		}
	})
}

// TestUpdateRetries returns the first operation for the same request id.
func TestUpdateRetries(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		for name, ask := range map[string]func(q *Request){
			"update":   patching(Spec{Labels: map[string]string{"a": "1"}}, "labels"),
			"freeze":   freezing(FrozenAdmin, false),
			"unfreeze": func(q *Request) { q.Unfreeze = []FreezeReason{FrozenAdmin} },
		} {
			kind := map[string]operation.Kind{"update": operation.Update, "freeze": operation.Freeze, "unfreeze": operation.Unfreeze}[name]
			named := func(q *Request) { ask(q); q.RequestID = name }
			first := a.submit(kind, "p1", named)
			a.finish(first)
			if again := a.submit(kind, "p1", named); again.ID != first.ID {
				t.Errorf("%s again is %s, want %s", name, again.ID, first.ID)
			}
		}
		a.refused(operation.Update, "p1", fault.RequestIDReused, func(q *Request) {
			patching(Spec{Labels: map[string]string{"a": "2"}}, "labels")(q)
			q.RequestID = "update"
		})
		a.refused(operation.Freeze, "p1", fault.RequestIDReused, func(q *Request) { freezing(FrozenPolice, false)(q); q.RequestID = "freeze" })
	})
}

// TestFingerprintsOfRelease1 keeps what the operations of an earlier release hold.
func TestFingerprintsOfRelease1(t *testing.T) {
	grace := 5 * time.Second
	q := Request{Kind: operation.PowerOff, IDs: []string{"p1", "p2"}, Grace: &grace, Force: true}
	if got, want := q.fingerprint(), "c8882fda413ccdf6"; got != want {
		t.Errorf("fingerprint %s, want %s", got, want)
	}
}

// TestUpdatedIsAnEvent reads the event of an update.
func TestUpdatedIsAnEvent(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		a.change("p1", Spec{VCPUs: 1, Labels: map[string]string{"a": "b"}, RestartPolicy: Always}, "labels.a", "vcpus", "restart_policy")
		a.kinds("p1") // lets the journal gather
		var got []string
		err := a.log.Watch(t.Context(), event.WatchOptions{PhoneID: "p1", NoFollow: true}, func(events []event.Event) error {
			for _, e := range events {
				if e.Kind == event.PhoneUpdated {
					got = append(got, fmt.Sprint(e.OperationID != "", e.Attributes))
				}
			}
			return nil
		})
		if diff := cmp.Diff([]string{"true map[fields:vcpus,labels]"}, got); diff != "" || err != nil {
			t.Errorf("events (-want +got):\n%s %v", diff, err)
		}
	})
}

// TestUpdateOnASmallerHost changes a phone that has more than its host by now: only what is named is judged.
func TestUpdateOnASmallerHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, nil)
		a.create("p1")
		a.change("p1", Spec{VCPUs: 3.5, MemoryBytes: 4 << 30}, "vcpus", "memory_bytes")
		a.stop()
		a = startAgent(t, w, path, func(c *Config) { c.Host = Capacity{CPUs: 2, MemoryBytes: 2 << 30} })
		defer func() { a.stop() }()
		a.submit(operation.Update, "p1", renewing(time.Now().Add(time.Hour)))
		if err := a.refused(operation.Update, "p1", fault.InvalidField, patching(Spec{VCPUs: 3}, "vcpus")); fault.Meta(err)["field"] != "spec.vcpus" {
			t.Errorf("more cores than the host has: %v", err)
		}
		a.change("p1", Spec{VCPUs: 2}, "vcpus")
		a.change("p1", Spec{MemoryBytes: 1 << 30}, "memory_bytes")
	})
}

// TestNoteOfAnEarlierRelease has guests without a note: nothing is said to be pending that is not known to be.
func TestNoteOfAnEarlierRelease(t *testing.T) {
	spec := validSpec()
	running := container.Task{State: container.TaskRunning, MemoryBytes: spec.MemoryBytes}
	if got := spec.pendingRestart(running); got != nil || !spec.sameDisplay(running) {
		t.Errorf("pending %v", got)
	}
	running.MemoryBytes++
	if got := spec.pendingRestart(running); !slices.Equal(got, []string{"memory_bytes"}) {
		t.Errorf("pending %v", got)
	}
}

// TestRecordsStayReadable writes records with everything set, and reads them back.
func TestRecordsStayReadable(t *testing.T) {
	db, err := store.Open(store.Config{Path: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	r := Record{
		Spec: validSpec(), ImageAndroid: "13", DataAndroid: "12.1", CloneOf: "p0", BootAsked: at, LimitsAsked: 3, LimitsSet: 2, GrowFrom: 1,
		Freezes: []Freeze{{FrozenPolice, at, "client/fleet"}}, Change: &Task{OperationID: "op-1", Kind: operation.Update},
		Readers: map[string]string{"p2": "op-2"}, Crashes: []time.Time{at}, Starved: []time.Time{at},
	}
	r.Spec.Lease = Lease{ExpiresAt: at, RetainUntil: at.Add(time.Hour)}
	r.Spec.Network = Network{
		IPv4: netip.MustParseAddr("10.213.0.9"), IPv6: netip.MustParseAddr("fd00::9"), Policy: "school", UpBits: 1e6, DownBits: 2e6,
		Forwards: []Forward{{netip.MustParseAddrPort("127.0.0.1:6001"), policy.TCP, 5555}},
	}
	r.IPv4, r.IPv6, r.NetworkCut = r.Spec.Network.IPv4, r.Spec.Network.IPv6, true
	var got Record
	err = db.Update(func(tx *store.Tx) (err error) {
		if err := records.Put(tx, []byte("p1"), r); err != nil {
			return err
		}
		got, err = records.Get(tx, []byte("p1"))
		return err
	})
	if diff := cmp.Diff(r, got, addresses); diff != "" || err != nil {
		t.Errorf("record (-want +got):\n%s %v", diff, err)
	}
}
