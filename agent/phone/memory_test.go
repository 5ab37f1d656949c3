package phone

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/runtime/container"
)

// TestKills puts ends down to want of memory, or not.
func TestKills(t *testing.T) {
	end := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name  string
		kills kills
		count uint64
		code  uint32
		want  bool
	}{
		{"nothing was killed", kills{watched: true}, 0, 1, false},
		{"killed by somebody, not for memory", kills{watched: true}, 0, 137, false},
		{"init was killed", kills{watched: true, seen: 1}, 1, 137, true},
		{"it grew since the last look", kills{watched: true, seen: 1}, 2, 1, true},
		{"nobody ever looked", kills{}, 1, 1, true},
		{"long ago", kills{watched: true, seen: 1, last: end.Add(-time.Hour)}, 1, 1, false},
		{"before this agent came", kills{watched: true, seen: 1}, 1, 1, false},
		{"a moment ago", kills{watched: true, seen: 1, last: end.Add(-time.Second)}, 1, 1, true},
		{"told, and the count is gone with the shim", kills{last: end.Add(-time.Second)}, 0, 0, true},
	} {
		if got := tt.kills.explain(tt.count, tt.code, end); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// exited returns the attributes of the events of guests that ended.
func (a *agent) exited(id string) (all []map[string]string) {
	a.t.Helper()
	a.kinds(id) // lets the journal gather
	err := a.log.Watch(a.t.Context(), event.WatchOptions{PhoneID: id, NoFollow: true}, func(events []event.Event) error {
		for _, e := range events {
			if e.Kind == event.GuestExited {
				all = append(all, e.Attributes)
			}
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return all
}

func TestWantOfMemory(t *testing.T) {
	tests := []struct {
		name   string
		policy RestartPolicy
		oom    func(a *agent)
		code   uint32
		want   Status
		meant  string
	}{
		{"init killed", Always, func(a *agent) { a.w.OOM("p1", true) }, 137, Running, meansOOM},
		{"init killed, and nobody told", Always, func(a *agent) { a.w.OOM("p1", false) }, 137, Running, meansOOM},
		{"a service killed just before", Always, func(a *agent) { a.w.OOM("p1", true); time.Sleep(5 * time.Second) }, 1, Running, meansOOM},
		{"an app killed long before", Always, func(a *agent) { a.w.OOM("p1", true); time.Sleep(time.Hour) }, 1, Running, meansCrash},
		{"the guest reboots by itself after it", Always, func(a *agent) { a.w.OOM("p1", true) }, 129, Running, meansReboot},
		{"the guest powers off after it", Always, func(a *agent) { a.w.OOM("p1", true) }, 130, PoweredOff, meansPowerOff},
		{"stays off", OnGuestReboot, func(a *agent) { a.w.OOM("p1", true) }, 137, Stopped, meansOOM},
		{"killed for another reason", Always, func(*agent) {}, 137, Running, meansCrash},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				spec := Spec{ID: "p1", Image: "testphone", MemoryBytes: 256 << 20, RestartPolicy: tt.policy}
				if _, err := a.Create(t.Context(), spec); err != nil {
					t.Fatal(err)
				}
				a.do(operation.PowerOn, "p1", operation.Succeeded)
				tt.oom(a)
				a.w.Exit("p1", container.Guest, tt.code)
				time.Sleep(time.Minute)
				snap := a.want("p1", tt.want)
				if got := a.exited("p1"); len(got) != 1 || got[0]["meaning"] != tt.meant {
					t.Errorf("ends: %v, want one that means %s", got, tt.meant)
				}
				if failed := snap.Record.LastFailure; (failed != nil) != (tt.meant == meansOOM) || failed != nil && failed.Reason != fault.OutOfMemory {
					t.Errorf("last failure: %+v", failed)
				}
				if counted := len(snap.Record.Crashes) == 1; counted != (tt.want == Running && tt.meant != meansReboot) {
					t.Errorf("crashes: %v", snap.Record.Crashes)
				}
				if tt.want != Running {
					a.do(operation.PowerOn, "p1", operation.Succeeded)
				} else {
					a.do(operation.Restart, "p1", operation.Succeeded)
				}
				if snap := a.want("p1", Running); snap.Record.LastFailure != nil {
					t.Errorf("a start that succeeded leaves %+v", snap.Record.LastFailure)
				}
			})
		})
	}
}

// TestWantOfMemoryWhileNobodyLooks has the guest killed while no agent runs: the kernel's count tells the next one.
func TestWantOfMemoryWhileNobodyLooks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, nil)
		a.on("p1")
		a.stop()
		w.OOM("p1", false)
		w.Exit("p1", container.Guest, 6)
		a = startAgent(t, w, path, nil)
		defer func() { a.stop() }()
		time.Sleep(time.Minute)
		snap := a.want("p1", Running)
		if got := a.exited("p1"); len(got) != 1 || got[0]["meaning"] != meansOOM || snap.Record.LastFailure == nil {
			t.Errorf("ends: %v, last failure %+v", got, snap.Record.LastFailure)
		}
	})
}

// TestCrashLoopForWantOfMemory tells a guest that is too large for its limit from one that is broken.
func TestCrashLoopForWantOfMemory(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.w.Set(phonetest.Manner{AsksToBoot: -1})
		a.create("p1")
		op := a.submit(operation.PowerOn, "p1", nil)
		for i := range 5 {
			for a.w.Count("StartGuest") <= i {
				time.Sleep(100 * time.Millisecond)
			}
			synctest.Wait()
			a.w.Print("p1", "loading the world\nstill loading\n")
			code := uint32(1)
			if i > 0 {
				a.w.OOM("p1", i%2 == 0)
				code = 137
			}
			a.w.Exit("p1", container.Guest, code)
		}
		r := a.finish(op)
		snap := a.want("p1", Stopped)
		if r.Failure.Reason != fault.OutOfMemory || codes.Code(r.Failure.Code) != codes.Aborted || snap.Record.LastFailure.Reason != fault.OutOfMemory {
			t.Errorf("failure: %+v", r.Failure)
		}
		for _, want := range []string{"5 crashes within 10m0s", "4 of them for want of memory (the limit is 256 MiB)", "code 137", "last log line: still loading"} {
			if !strings.Contains(r.Failure.Message, want) || !strings.Contains(snap.Reason, want) {
				t.Errorf("%q and %q do not both say %q", r.Failure.Message, snap.Reason, want)
			}
		}
		if snap.Record.Hold == nil || snap.Record.Hold.Reason != HoldCrashLoop {
			t.Errorf("hold: %+v", snap.Record.Hold)
		}
	})
}

// TestLastWords has the end of a guest carry what it printed, and only what it printed.
func TestLastWords(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		a.w.Print("p1", strings.Repeat("an older line\n", 1000)+"panic: \xff\n")
		a.w.Exit("p1", container.Guest, 1)
		time.Sleep(time.Minute)
		a.want("p1", Running)
		a.w.Print("p1", "bye\n")
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		got := a.exited("p1")
		if len(got) != 2 {
			t.Fatalf("ends: %v", got)
		}
		if log := got[0]["log"]; !strings.HasSuffix(log, "an older line\npanic: \uFFFD\n") || len(log) > maxLogTail || len(log) < 1000 {
			t.Errorf("last words of %d bytes: %q", len(log), log[max(0, len(log)-50):])
		}
		if log := got[1]["log"]; log != "" {
			t.Errorf("an end that was asked for has last words %q", log)
		}
	})
}

// TestBootTimeoutSaysWhatWasPrinted adds the guest's last line to what was last seen.
func TestBootTimeoutSaysWhatWasPrinted(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.w.Set(phonetest.Manner{AsksToBoot: -1})
		a.create("p1")
		op := a.submit(operation.PowerOn, "p1", nil)
		time.Sleep(time.Second)
		a.w.Print("p1", "vold: waiting for \xff the disk\n")
		r := a.finish(op)
		if !strings.Contains(r.Failure.Message, `last seen: sys.boot_completed=""; last log line: vold: waiting for`) || !utf8.ValidString(r.Failure.Message) {
			t.Errorf("failure: %q", r.Failure.Message)
		}
	})
}

// TestResetIsCompleteWhateverCameBetween looks at what is on disk after resets that were superseded, or whose guest does not boot:
// what users had goes also then, and nothing is left that the record does not name.
func TestResetIsCompleteWhateverCameBetween(t *testing.T) {
	tests := []struct {
		name string
		then func(a *agent, reset operation.Operation)
		want Status
	}{
		{"power off before the guest has ended", func(a *agent, _ operation.Operation) {
			a.finish(a.submit(operation.PowerOff, "p1", func(q *Request) { q.Force = true }))
		}, PoweredOff},
		{"frozen while it boots", func(a *agent, _ operation.Operation) {
			time.Sleep(time.Second)
			a.finish(a.submit(operation.Freeze, "p1", freezing(FrozenPolice, true)))
		}, Stopped},
		{"it does not boot", func(a *agent, reset operation.Operation) { a.finish(reset) }, Stopped},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				a.on("p1")
				a.w.Lock()
				a.w.Bodies["p1"].Volumes[1] = phonetest.Volume{Bytes: 4 << 30, Content: "photos"}
				a.w.Unlock()
				a.w.Set(phonetest.Manner{AsksToBoot: -1})
				tt.then(a, a.submit(operation.Reset, "p1", nil))
				time.Sleep(time.Minute)
				snap := a.want("p1", tt.want)
				b := a.w.Bodies["p1"]
				if r := snap.Record; r.DataGeneration != 2 || r.KeptGeneration != 2 || len(b.Volumes) != 1 || len(b.Roots) != 1 || b.Volumes[2].Content != "" {
					t.Errorf("generation %d, kept %d, volumes %v, roots %v", r.DataGeneration, r.KeptGeneration, b.Volumes, b.Roots)
				}
			})
		})
	}
}

// TestResetThatCannotBeMadeIsNotTriedForEver has no room for fresh file systems of a phone that nobody waits for.
func TestResetThatCannotBeMadeIsNotTriedForEver(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("p1", "photos")
		a.w.Hook = fail("Prepare before", errNoRoom)
		if r := a.do(operation.Reset, "p1", operation.Failed); !strings.Contains(r.Failure.Message, errNoRoom.Error()) {
			t.Errorf("reset: %+v", r.Failure)
		}
		time.Sleep(24 * time.Hour)
		if n := a.w.Count("Prepare"); n > 12 {
			t.Errorf("it was tried %d times", n)
		}
		if snap := a.want("p1", PoweredOff); snap.Record.LastFailure == nil {
			t.Errorf("record: %+v", snap.Record)
		}
		a.w.Lock()
		a.w.Hook = nil
		a.w.Unlock()
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		if b := a.w.Bodies["p1"]; len(b.Volumes) != 1 || b.Volumes[2].Content != "" {
			t.Errorf("volumes: %v", b.Volumes)
		}
	})
}

// TestClockThatIsSetBack makes nobody wait for a moment that was near: neither the end of a grace, nor the start after a crash.
func TestClockThatIsSetBack(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	timing := Timing{}.withDefaults()
	r := Record{On: true, BootGeneration: 2, Started: Start{Generation: 2}, Stop: Stop{At: now.Add(time.Hour), Grace: time.Minute}}
	up := sight{known: true, obs: container.Observation{Guest: container.Task{Container: true, State: container.TaskRunning, BootGeneration: 1}}}
	if p := next(&r, up, memory{shutdownSent: true}, now, timing); p.step != stepKill {
		t.Errorf("a guest that was asked to end in the future: %s", p.step)
	}
	r = Record{On: true, BootGeneration: 2, Ended: 1, Crashes: []time.Time{now.Add(time.Hour)}}
	if p := next(&r, sight{known: true}, memory{slot: slotHeld}, now, timing); p.step != stepStart {
		t.Errorf("a guest that crashed in the future: %s until %s", p.step, p.at)
	}
}

func TestStatuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, twoAtOnce)
		defer func() { a.stop() }()
		a.on("running")
		a.create("frozen")
		a.finish(a.submit(operation.Freeze, "frozen", freezing(FrozenAdmin, false)))
		w.Set(phonetest.Manner{AsksToBoot: -1})
		ops := a.ask("boots", "boots-too", "waits")
		synctest.Wait()
		got := a.Statuses([]string{"waits", "nobody", "running", "frozen", "running"})
		for i := range got {
			if (got[i].Revision > 0) != got[i].Exists {
				t.Errorf("%s has revision %d", got[i].ID, got[i].Revision)
			}
			got[i].Revision = 0
		}
		want := []State{
			{ID: "waits", Exists: true, Status: Starting, QueuePosition: 1, OperationID: ops[2].ID,
				Reason: "QUEUED: number 1 of 1 that wait to boot; 2 boot now (limits.concurrent_boots is 2)"},
			{ID: "nobody"},
			{ID: "running", Exists: true, Status: Running},
			{ID: "frozen", Exists: true, Status: Stopped, Reason: "frozen: ADMIN", Freezes: []FreezeReason{FrozenAdmin}},
			{ID: "running", Exists: true, Status: Running},
		}
		if !slices.EqualFunc(got, want, func(x, y State) bool {
			same := slices.Equal(x.Freezes, y.Freezes)
			x.Freezes, y.Freezes = nil, nil
			return same && x.ID == y.ID && x.Exists == y.Exists && x.Status == y.Status && x.Reason == y.Reason && x.QueuePosition == y.QueuePosition &&
				x.OperationID == y.OperationID && x.Hold == y.Hold
		}) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := a.Statuses([]string{"boots"})[0]; got.Hold != HoldBootFailed || got.OperationID != "" {
			t.Errorf("a phone that does not boot: %+v", got)
		}
	})
}
