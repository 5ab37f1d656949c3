package phone

import (
	"errors"
	"fmt"
	"slices"
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

// on creates a phone that runs.
func (a *agent) on(id string) {
	a.t.Helper()
	a.create(id)
	a.do(operation.PowerOn, id, operation.Succeeded)
	a.want(id, Running)
}

func TestGuestEndsByItself(t *testing.T) {
	tests := []struct {
		name   string
		policy RestartPolicy
		code   uint32
		want   Status
		meant  string
	}{
		{"reboot", Always, 129, Running, meansReboot},
		{"reboot, on guest reboot", OnGuestReboot, 129, Running, meansReboot},
		{"reboot, never", Never, 129, Stopped, meansReboot},
		{"power off", Always, 130, PoweredOff, meansPowerOff},
		{"power off, never", Never, 130, PoweredOff, meansPowerOff},
		{"crash", Always, 1, Running, meansCrash},
		{"clean exit", Always, 0, Running, meansCrash},
		{"crash, on guest reboot", OnGuestReboot, 139, Stopped, meansCrash},
		{"crash, never", Never, 139, Stopped, meansCrash},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				if _, err := a.Create(t.Context(), Spec{ID: "p1", Image: "testphone", MemoryBytes: 256 << 20, RestartPolicy: tt.policy}); err != nil {
					t.Fatal(err)
				}
				a.do(operation.PowerOn, "p1", operation.Succeeded)
				before := a.want("p1", Running)
				a.w.Exit("p1", container.Guest, tt.code)
				synctest.Wait()
				time.Sleep(10 * time.Second)
				after := a.want("p1", tt.want)
				if tt.want == Running && after.Record.BootGeneration != before.Record.BootGeneration+1 {
					t.Errorf("boot generation went from %d to %d", before.Record.BootGeneration, after.Record.BootGeneration)
				}
				if tt.want != Running && (after.DisplayOn || after.InitPID != 0) {
					t.Errorf("something still runs: %+v", after)
				}
				if tt.want == Stopped && !strings.Contains(after.Reason, fmt.Sprintf("code %d", tt.code)) {
					t.Errorf("reason %q does not say the exit code", after.Reason)
				}
				if kinds := a.kinds("p1"); !slices.Contains(kinds, "6"+tt.meant) {
					t.Errorf("events %v do not tell of the exit's meaning %s", kinds, tt.meant)
				}
				if tt.want == Running && a.w.Count("StartDisplay") != 2 {
					t.Errorf("StartDisplay was called %d times, want twice and the display untouched", a.w.Count("StartDisplay"))
				}
			})
		})
	}
}

func TestCrashLoopIsHeld(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.w.Set(phonetest.Manner{AsksToBoot: -1, ExitAfter: 2 * time.Second, ExitCode: 6})
		a.create("p1")
		r := a.do(operation.PowerOn, "p1", operation.Failed)
		if r.Failure.Reason != HoldCrashLoop || !strings.Contains(r.Failure.Message, "code 6") {
			t.Errorf("failure is %+v", r.Failure)
		}
		snap := a.want("p1", Stopped)
		if snap.Record.Hold == nil || snap.Record.Hold.Reason != HoldCrashLoop || snap.DisplayOn {
			t.Errorf("phone is not held as CRASH_LOOP: %+v", snap)
		}
		if n := a.w.Count("StartGuest"); n != 5 {
			t.Errorf("the guest was started %d times, want 5", n)
		}
		time.Sleep(time.Hour)
		a.want("p1", Stopped)
		a.w.Set(phonetest.Manner{AsksToBoot: 1})
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		if snap := a.want("p1", Running); snap.Record.Hold != nil || snap.Record.LastFailure != nil {
			t.Errorf("hold or failure stay after a power-on that succeeded: %+v", snap.Record)
		}
	})
}

func TestCrashesFarApartAreNoLoop(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		for range 12 {
			time.Sleep(3 * time.Minute)
			a.w.Exit("p1", container.Guest, 1)
			time.Sleep(2 * time.Minute)
			a.want("p1", Running)
		}
	})
}

func TestPowerOff(t *testing.T) {
	t.Run("graceful", func(t *testing.T) {
		runAgent(t, func(t *testing.T, a *agent) {
			a.on("p1")
			a.do(operation.PowerOff, "p1", operation.Succeeded)
			a.want("p1", PoweredOff)
			if a.w.Count("Shutdown") != 1 || a.w.Count("Kill") != 0 {
				t.Errorf("calls: %v", a.w.Calls)
			}
		})
	})
	t.Run("killed after grace", func(t *testing.T) {
		runAgent(t, func(t *testing.T, a *agent) {
			a.on("p1")
			a.w.Set(phonetest.Manner{IgnoreShutdown: true})
			grace := 7 * time.Second
			began := time.Now()
			a.finish(a.submit(operation.PowerOff, "p1", func(q *Request) { q.Grace = &grace }))
			if took := time.Since(began); took < grace || took > grace+2*time.Second {
				t.Errorf("it took %s, want %s and little more", took, grace)
			}
			a.want("p1", PoweredOff)
		})
	})
	t.Run("force", func(t *testing.T) {
		runAgent(t, func(t *testing.T, a *agent) {
			a.on("p1")
			a.finish(a.submit(operation.PowerOff, "p1", func(q *Request) { q.Force = true }))
			if a.want("p1", PoweredOff); a.w.Count("Shutdown") != 0 {
				t.Errorf("calls: %v", a.w.Calls)
			}
		})
	})
	t.Run("during boot", func(t *testing.T) {
		runAgent(t, func(t *testing.T, a *agent) {
			a.w.Set(phonetest.Manner{AsksToBoot: -1})
			a.create("p1")
			boot := a.submit(operation.PowerOn, "p1", nil)
			time.Sleep(5 * time.Second)
			a.want("p1", Starting)
			stop := a.submit(operation.PowerOff, "p1", nil)
			if r := a.finish(boot); r.State != operation.Aborted || r.Failure.Reason != fault.Superseded {
				t.Errorf("power-on in the way: %s %+v, want aborted", r.State, r.Failure)
			}
			if r := a.finish(stop); r.State != operation.Succeeded {
				t.Errorf("power-off: %+v", r)
			}
			a.want("p1", PoweredOff)
		})
	})
	t.Run("force during a graceful one", func(t *testing.T) {
		runAgent(t, func(t *testing.T, a *agent) {
			a.on("p1")
			a.w.Set(phonetest.Manner{IgnoreShutdown: true})
			slow := a.submit(operation.PowerOff, "p1", nil)
			time.Sleep(time.Second)
			a.want("p1", Stopping)
			_, err := a.Submit(t.Context(), Request{Kind: operation.PowerOff, IDs: []string{"p1"}, RequestedBy: "x"})
			if fault.Reason(err) != fault.Busy || fault.Meta(err)["operation_id"] != slow.ID {
				t.Errorf("second graceful power-off: %v, want BUSY with %s", err, slow.ID)
			}
			began := time.Now()
			a.finish(a.submit(operation.PowerOff, "p1", func(q *Request) { q.Force = true }))
			if r := a.finish(slow); r.State != operation.Aborted || time.Since(began) > 2*time.Second {
				t.Errorf("graceful one %s after %s, want aborted at once", r.State, time.Since(began))
			}
			a.want("p1", PoweredOff)
		})
	})
}

// TestWhatWasGoingToFailFails has a boot that has failed be superseded while its guest is shut down.
func TestWhatWasGoingToFailFails(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.w.Set(phonetest.Manner{AsksToBoot: -1, IgnoreShutdown: true})
		a.create("p1")
		grace := MaxGrace
		boot := a.submit(operation.PowerOn, "p1", nil)
		time.Sleep(time.Second)
		a.w.Lock()
		a.w.Hook = hang("Kill before")
		a.w.Unlock()
		time.Sleep(121 * time.Second)
		a.want("p1", Stopping)
		a.w.Lock()
		a.w.Hook = nil
		a.w.Unlock()
		a.finish(a.submit(operation.PowerOff, "p1", func(q *Request) { q.Grace = &grace; q.Force = true }))
		if r := a.finish(boot); r.State != operation.Failed || r.Failure.Reason != "BOOT_TIMEOUT" {
			t.Errorf("power on: %s %+v", r.State, r.Failure)
		}
		if snap := a.want("p1", PoweredOff); snap.Record.LastFailure == nil || snap.Record.LastFailure.Reason != "BOOT_TIMEOUT" {
			t.Errorf("last failure: %+v", snap.Record.LastFailure)
		}
	})
}

// TestPowerOffInterruptsAStep has a request end a step that hangs.
func TestPowerOffInterruptsAStep(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.w.Hook = hang("Prepare before")
		a.create("p1")
		boot := a.submit(operation.PowerOn, "p1", nil)
		synctest.Wait()
		a.w.Lock()
		a.w.Hook = nil
		a.w.Unlock()
		began := time.Now()
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		if r := a.finish(boot); r.State != operation.Aborted || time.Since(began) > time.Second {
			t.Errorf("power-on %s after %s, want aborted at once", r.State, time.Since(began))
		}
		a.want("p1", PoweredOff)
	})
}

func TestStartThatFailsIsHeld(t *testing.T) {
	tests := []struct {
		name  string
		err   error
		tries int
		code  int32
	}{
		{"for good", fmt.Errorf("image sha256:1: %w", errdefs.ErrNotFound), 1, 5},
		{"again and again", errors.New("no luck"), 5, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				a.w.Hook = fail("StartGuest before", tt.err)
				a.create("p1")
				r := a.do(operation.PowerOn, "p1", operation.Failed)
				if r.Failure.Reason != HoldStartFailed || r.Failure.Code != tt.code || !strings.Contains(r.Failure.Message, tt.err.Error()) {
					t.Errorf("failure is %+v", r.Failure)
				}
				if n := a.w.Count("StartGuest"); n != tt.tries {
					t.Errorf("it was tried %d times, want %d", n, tt.tries)
				}
				if snap := a.want("p1", Stopped); snap.Record.Hold == nil || snap.DisplayOn {
					t.Errorf("phone after a start that failed: %+v", snap)
				}
			})
		})
	}
}

func TestDisplayThatEndsAtOnceIsHeld(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.w.Set(phonetest.Manner{DisplayExits: true})
		a.create("p1")
		r := a.do(operation.PowerOn, "p1", operation.Failed)
		if r.Failure.Reason != HoldStartFailed || !strings.Contains(r.Failure.Message, "display") {
			t.Errorf("failure is %+v", r.Failure)
		}
		if a.w.Count("StartGuest") != 0 {
			t.Error("a guest was started without a display")
		}
		a.want("p1", Stopped)
	})
}

func TestDisplayIsRestartedUnderItsGuest(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		before := a.want("p1", Running)
		a.w.Exit("p1", container.Display, 139)
		after := a.want("p1", Running)
		if !after.DisplayOn || after.InitPID != before.InitPID {
			t.Errorf("after the display's end: %+v", after)
		}
		if kinds := a.kinds("p1"); !slices.Contains(kinds, "8") {
			t.Errorf("events %v do not tell of it", kinds)
		}
		a.w.Set(phonetest.Manner{DisplayExits: true})
		calls := a.w.Count("StartDisplay")
		a.w.Exit("p1", container.Display, 139)
		time.Sleep(time.Minute)
		if n := a.w.Count("StartDisplay") - calls; n < 3 || n > 12 {
			t.Errorf("a display that goes on ending was started %d times in a minute", n)
		}
		a.w.Set(phonetest.Manner{})
		time.Sleep(time.Minute)
		if a.want("p1", Running); a.w.Count("StartGuest") != 1 {
			t.Error("the guest was not left alone")
		}
	})
}

func TestContainerdLostAndBack(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		a.create("p2")
		before := a.want("p1", Running)
		a.w.SetDown(true)
		a.want("p1", Unknown)
		a.want("p2", Unknown)
		_, err := a.Submit(t.Context(), Request{Kind: operation.PowerOff, IDs: []string{"p1"}})
		if fault.Reason(err) != fault.ContainerdLost || !errdefs.IsUnavailable(err) {
			t.Errorf("power-off while containerd is lost: %v", err)
		}
		time.Sleep(time.Hour)
		a.want("p1", Unknown)
		a.w.SetDown(false)
		after := a.want("p1", Running)
		a.want("p2", Stopped)
		if after.InitPID != before.InitPID || a.w.Count("StartGuest") != 1 {
			t.Error("the loss of containerd touched the guest")
		}
		if kinds := a.kinds("p1"); slices.ContainsFunc(kinds, func(k string) bool { return strings.HasPrefix(k, "6") }) {
			t.Errorf("the loss of containerd was reported as an exit: %v", kinds)
		}
		var news []string
		for _, k := range a.kinds("") {
			if k == "13" || k == "14" {
				news = append(news, k)
			}
		}
		if !slices.Equal(news, []string{"13", "14"}) {
			t.Errorf("events of containerd: %v, want one loss and one return", news)
		}
	})
}

func TestContainerdLostDuringStart(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		once := false
		a.w.Hook = hookOnce("StartDisplay after", &once, func() { go a.w.SetDown(true) })
		boot := a.submit(operation.PowerOn, "p1", nil)
		time.Sleep(time.Minute)
		a.want("p1", Unknown)
		a.w.SetDown(false)
		if r := a.finish(boot); r.State != operation.Succeeded {
			t.Errorf("power-on over a loss of containerd: %+v", r)
		}
		a.want("p1", Running)
	})
}

func TestHostRestart(t *testing.T) {
	for _, tt := range []struct {
		policy RestartPolicy
		want   Status
	}{{Always, Running}, {OnGuestReboot, Running}, {Never, Stopped}} {
		path := t.TempDir() + "/db"
		synctest.Test(t, func(t *testing.T) {
			w := phonetest.New()
			a := startAgent(t, w, path, nil)
			if _, err := a.Create(t.Context(), Spec{ID: "p1", Image: "testphone", MemoryBytes: 256 << 20, RestartPolicy: tt.policy}); err != nil {
				t.Fatal(err)
			}
			a.do(operation.PowerOn, "p1", operation.Succeeded)
			a.stop()
			w.RestartHost()
			a = startAgent(t, w, path, func(c *Config) { c.HostBoot = "boot-2" })
			defer a.stop()
			time.Sleep(time.Minute)
			if snap := a.want("p1", tt.want); len(snap.Record.Crashes) != 0 {
				t.Errorf("policy %d: the host's restart counted as a crash", tt.policy)
			}
		})
	}
}

func TestReset(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.on("p1")
		a.images["testphone"] = Image{Digest: "sha256:2", Profile: "testphone"}
		a.do(operation.Restart, "p1", operation.Succeeded)
		if snap := a.want("p1", Running); snap.Record.ImageDigest != "sha256:1" {
			t.Error("a restart changed the image")
		}
		a.do(operation.Reset, "p1", operation.Succeeded)
		snap := a.want("p1", Running)
		if snap.Record.ImageDigest != "sha256:2" || a.w.Bodies["p1"].Guest.ImageDigest != "sha256:2" {
			t.Error("a reset did not take the image's new content")
		}
		if got := a.w.Bodies["p1"].Generations; len(got) != 1 || !got[2] {
			t.Errorf("generations on disk: %v, want only 2", got)
		}
		delete(a.images, "testphone")
		_, err := a.Submit(t.Context(), Request{Kind: operation.Reset, IDs: []string{"p1"}})
		if fault.Reason(err) != fault.NoSuchImage {
			t.Errorf("reset without the image: %v", err)
		}
	})
}

func TestResetOfAHeldPhoneLeavesItStopped(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.w.Set(phonetest.Manner{AsksToBoot: -1})
		a.create("p1")
		a.do(operation.PowerOn, "p1", operation.Failed)
		a.do(operation.Reset, "p1", operation.Succeeded)
		if snap := a.want("p1", Stopped); snap.Record.Hold != nil || snap.Record.On || snap.Record.KeptGeneration != 2 {
			t.Errorf("record: %+v", snap.Record)
		}
	})
}

func TestDeleteForceInEveryStatus(t *testing.T) {
	force := func(q *Request) { q.Force = true }
	tests := []struct {
		name string
		to   func(a *agent)
	}{
		{"running", func(a *agent) { a.on("p1") }},
		{"starting", func(a *agent) {
			a.w.Set(phonetest.Manner{AsksToBoot: -1})
			a.create("p1")
			a.submit(operation.PowerOn, "p1", nil)
			time.Sleep(time.Second)
		}},
		{"stopping", func(a *agent) {
			a.on("p1")
			a.w.Set(phonetest.Manner{IgnoreShutdown: true})
			a.submit(operation.PowerOff, "p1", nil)
			time.Sleep(time.Second)
		}},
		{"stopped", func(a *agent) { a.create("p1") }},
		{"unknown", func(a *agent) {
			a.on("p1")
			a.w.SetDown(true)
			time.AfterFunc(time.Minute, func() { a.w.SetDown(false) })
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				tt.to(a)
				if r := a.finish(a.submit(operation.Delete, "p1", force)); r.State != operation.Succeeded {
					t.Errorf("delete: %+v", r)
				}
				if len(a.w.Bodies) != 0 || len(a.w.Nets) != 0 || len(a.List()) != 0 {
					t.Errorf("left behind: %v %v %v", a.w.Bodies, a.w.Nets, a.List())
				}
				a.w.Set(phonetest.Manner{})
				a.on("p1") // the id is free again
			})
		})
	}
}

// TestLooksChangeNothing looks at a phone again and again: nobody is told of what is the same, though the engine never says quite the same of when its
// guest began. A step of the clock is told.
func TestLooksChangeNothing(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		a.on("p1")
		before := a.want("p1", Running)
		look := func() Snapshot {
			for range 5 {
				a.phones["p1"].poke()
				synctest.Wait()
			}
			return a.want("p1", Running)
		}
		if after := look(); after.Revision != before.Revision || !after.StartTime.Equal(before.StartTime) || !after.SameRun(before) {
			t.Errorf("revision %d of %v, then %d of %v", before.Revision, before.StartTime, after.Revision, after.StartTime)
		}
		a.w.Lock()
		a.w.Bodies["p1"].Guest.StartedAt = a.w.Bodies["p1"].Guest.StartedAt.Add(time.Hour)
		a.w.Unlock()
		if after := look(); after.StartTime.Sub(before.StartTime).Round(time.Second) != time.Hour || !after.SameRun(before) {
			t.Errorf("began at %v, then, by a clock that was set an hour forward, at %v", before.StartTime, after.StartTime)
		}
	})
}
