package phone

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/profile"
)

// TestObservedEnding tells an end that the host caused from the guest's own.
func TestObservedEnding(t *testing.T) {
	testphone, err := profile.Get("testphone")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name    string
		started Start
		guest   container.Task
		want    string
	}{
		{"powered itself off", Start{Generation: 2, HostBoot: "boot-1"}, container.Task{State: container.TaskStopped, ExitCode: 130, BootGeneration: 2}, meansPowerOff},
		{"the host had it power off", Start{Generation: 2, HostBoot: "boot-1"},
			container.Task{Container: true, State: container.TaskStopped, ExitCode: 130, BootGeneration: 2, HostStopped: true}, meansHostRestart},
		{"the same before its start was recorded", Start{Generation: 1, HostBoot: "boot-1"},
			container.Task{Container: true, State: container.TaskStopped, ExitCode: 130, BootGeneration: 2, HostStopped: true}, meansHostRestart},
		{"the host removed it", Start{Generation: 2, HostBoot: "boot-1"}, container.Task{Container: true, BootGeneration: 2, HostStopped: true}, meansHostRestart},
		{"gone", Start{Generation: 2, HostBoot: "boot-1"}, container.Task{Container: true, BootGeneration: 2}, meansCrash},
		{"gone with the host", Start{Generation: 2, HostBoot: "boot-0"}, container.Task{Container: true, BootGeneration: 2}, meansHostRestart},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &Record{Spec: Spec{Profile: "testphone"}, On: true, BootGeneration: 2, Started: tt.started, Ended: 0}
			e := observedEnding(r, sight{known: true, obs: container.Observation{Guest: tt.guest}}, "boot-1", kills{}, now)
			e.wish = testphone.Ending(e.code, profile.Evidence{})
			if got := e.meaning(r); got != tt.want {
				t.Errorf("means %s, want %s: %+v", got, tt.want, e)
			}
			if e.generation != 2 {
				t.Errorf("generation %d, want 2", e.generation)
			}
		})
	}
}

// android starts a phone of an Android profile.
func (a *agent) android(kind string) {
	a.t.Helper()
	if _, err := a.Create(a.t.Context(), Spec{ID: "p1", Image: "testphone", Profile: kind, MemoryBytes: 256 << 20}); err != nil {
		a.t.Fatal(err)
	}
	a.do(operation.PowerOn, "p1", operation.Succeeded)
}

// stores has the guest's init store why it shuts down.
func (a *agent) stores(reason string, at time.Time) {
	a.w.Lock()
	defer a.w.Unlock()
	v := a.w.Bodies["p1"].Volumes[1]
	v.Reason = profile.BootReason{Value: reason, StoredAt: at}
	a.w.Bodies["p1"].Volumes[1] = v
}

// TestEndByBootReason ends guests whose exit code says nothing: what they stored or printed does.
func TestEndByBootReason(t *testing.T) {
	const reboots, off = "init: Reboot start, reason: reboot,userrequested, reboot_target: \n", "init: Reboot start, reason: shutdown, reboot_target: \n"
	tests := []struct {
		name, profile string
		before        func(a *agent)
		code          uint32
		want          Status
		meant         string
		reads         int
	}{
		{"powered off", "redroid", func(a *agent) { a.stores("shutdown,userrequested", time.Now()) }, 0, PoweredOff, meansPowerOff, 1},
		{"powered off", "waydroid", func(a *agent) { a.stores("shutdown,userrequested", time.Now()) }, 0, PoweredOff, meansPowerOff, 1},
		{"rebooted", "redroid", func(a *agent) { a.stores("reboot,userrequested", time.Now()) }, 0, Running, meansReboot, 1},
		{"stale, and the log says reboot", "redroid", func(a *agent) {
			a.stores("shutdown,userrequested", a.want("p1", Running).StartTime.Add(-time.Second))
			a.w.Print("p1", reboots)
		}, 0, Running, meansReboot, 1},
		{"stale, and the log says off", "redroid", func(a *agent) {
			a.stores("reboot", a.want("p1", Running).StartTime.Add(-time.Second))
			a.w.Print("p1", off)
		}, 0, PoweredOff, meansPowerOff, 1},
		{"stale, and the log says nothing", "redroid", func(a *agent) {
			a.stores("shutdown,userrequested", a.want("p1", Running).StartTime.Add(-time.Second))
		}, 0, Running, meansCrash, 1},
		{"nothing is known", "redroid", func(*agent) {}, 0, Running, meansCrash, 1},
		{"it cannot be read, and the log says off", "redroid", func(a *agent) {
			a.w.Hook = fail("BootReason before", errors.New("input/output error"))
			a.w.Print("p1", off)
		}, 0, PoweredOff, meansPowerOff, 1},
		{"it hangs", "redroid", func(a *agent) {
			a.w.Hook = hang("BootReason before")
			a.w.Print("p1", off)
		}, 0, PoweredOff, meansPowerOff, 1},
		{"a crash needs no evidence", "redroid", func(a *agent) { a.stores("shutdown", time.Now()) }, 134, Running, meansCrash, 0},
		{"an exit that tells", "redroid-sysboot", func(a *agent) { a.stores("reboot", time.Now()) }, 130, PoweredOff, meansPowerOff, 0},
		{"testphone pays nothing", "testphone", func(a *agent) { a.stores("shutdown", time.Now()) }, 0, Running, meansCrash, 0},
	}
	for _, tt := range tests {
		t.Run(tt.profile+"/"+tt.name, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				a.android(tt.profile)
				time.Sleep(time.Minute)
				tt.before(a)
				a.w.Exit("p1", container.Guest, tt.code)
				time.Sleep(5 * time.Minute)
				a.want("p1", tt.want)
				if kinds := a.kinds("p1"); !slices.Contains(kinds, "6"+tt.meant) {
					t.Errorf("events %v do not tell of the end's meaning %s", kinds, tt.meant)
				}
				if n := a.w.Count("BootReason"); n != tt.reads {
					t.Errorf("the data was read %d times, want %d", n, tt.reads)
				}
			})
		})
	}
}

// TestEndByBootReasonThatNobodyAskedFor powers a guest off, whose reason nobody needs.
func TestEndByBootReasonThatNobodyAskedFor(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.android("redroid")
		a.w.Set(phonetest.Manner{IgnoreShutdown: true})
		op := a.submit(operation.PowerOff, "p1", nil)
		time.Sleep(time.Second)
		a.w.Exit("p1", container.Guest, 0)
		if r := a.finish(op); r.State != operation.Succeeded || a.w.Count("BootReason") != 0 {
			t.Errorf("%+v, the data was read %d times", r, a.w.Count("BootReason"))
		}
	})
}

// TestEndByBootReasonWhileNobodyLooks has a guest end while no agent runs: the next one still knows when it started, and so whether the
// reason is its own.
func TestEndByBootReasonWhileNobodyLooks(t *testing.T) {
	for after, want := range map[time.Duration]Status{time.Second: PoweredOff, -time.Second: Running} {
		path := filepath.Join(t.TempDir(), "db")
		synctest.Test(t, func(t *testing.T) {
			w := phonetest.New()
			a := startAgent(t, w, path, nil)
			time.Sleep(time.Minute)
			a.android("redroid")
			started := a.want("p1", Running).StartTime
			a.stop()
			a.stores("shutdown,userrequested", started.Add(after))
			w.Exit("p1", container.Guest, 0)
			time.Sleep(time.Minute)
			a = startAgent(t, w, path, nil)
			defer func() { a.stop() }()
			time.Sleep(time.Minute)
			a.want("p1", want)
		})
	}
}

// TestRequestWhileTheBootReasonIsRead has a request come while the data hangs: it is not made to wait, and decides what the end means.
func TestRequestWhileTheBootReasonIsRead(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.android("redroid")
		a.w.Hook = hang("BootReason before")
		a.w.Exit("p1", container.Guest, 0)
		synctest.Wait()
		began := time.Now()
		op := a.submit(operation.Freeze, "p1", func(q *Request) { q.Freeze = FrozenAdmin })
		if r := a.finish(op); r.State != operation.Succeeded || time.Since(began) > time.Second {
			t.Errorf("%+v after %s", r, time.Since(began))
		}
		if kinds := a.kinds("p1"); !slices.Contains(kinds, "6"+meansRequested) {
			t.Errorf("events: %v", kinds)
		}
	})
}

// TestAgentDiesWhileTheBootReasonIsRead has the next agent read it again.
func TestAgentDiesWhileTheBootReasonIsRead(t *testing.T) {
	for _, point := range []string{"BootReason before", "BootReason after"} {
		path := filepath.Join(t.TempDir(), "db")
		synctest.Test(t, func(t *testing.T) {
			w := phonetest.New()
			a := startAgent(t, w, path, nil)
			a.android("redroid")
			a.stores("shutdown,userrequested", time.Now().Add(time.Second))
			died := make(chan struct{})
			w.Lock()
			w.Hook = die(point, died)
			w.Unlock()
			w.Exit("p1", container.Guest, 0)
			<-died
			w.Lock()
			w.Hook = nil
			w.Unlock()
			a.stop()
			a = startAgent(t, w, path, nil)
			defer func() { a.stop() }()
			time.Sleep(time.Minute)
			a.want("p1", PoweredOff)
			if n := w.Count("BootReason"); n != 2 {
				t.Errorf("the data was read %d times", n)
			}
		})
	}
}
