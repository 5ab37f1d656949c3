package phone

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/runtime/container"
)

// TestAgentDiesAtEveryStep kills the agent before and after every changing call of every request, and again at the same call of the
// next life. The operation must be taken up and succeed, and the phone must be where the request wants it.
func TestAgentDiesAtEveryStep(t *testing.T) {
	on := func(a *agent) { a.on("p1") }
	offNew := func(a *agent) { a.create("p1") }
	ask := func(kind operation.Kind, edit func(*Request)) func(*agent) operation.Operation {
		return func(a *agent) operation.Operation { return a.submit(kind, "p1", edit) }
	}
	grown := patching(Spec{DataBytes: 8 << 30, MemoryBytes: 512 << 20}, "data_bytes", "memory_bytes")
	requests := []struct {
		name  string
		setUp func(a *agent)
		ask   func(a *agent) operation.Operation
		want  Status
		calls []string
	}{
		{"power on", offNew, ask(operation.PowerOn, nil), Running, []string{"EnsureNetwork", "CheckData", "Prepare", "StartDisplay", "WaitReady", "StartGuest"}},
		{"power off", on, ask(operation.PowerOff, nil), PoweredOff, []string{"Shutdown", "RemoveGuest", "RemoveDisplay"}},
		{"restart", on, ask(operation.Restart, nil), Running, []string{"Shutdown", "EnsureNetwork", "Prepare", "StartDisplay", "WaitReady", "StartGuest"}},
		{"reset on", on, ask(operation.Reset, nil), Running, []string{"Kill", "Prepare", "StartGuest", "KeepGeneration"}},
		{"reset off", offNew, ask(operation.Reset, nil), Stopped, []string{"Prepare", "KeepGeneration"}},
		{"delete", offNew, ask(operation.Delete, nil), Unknown, []string{"Destroy", "RemoveNetwork"}},
		{"freeze", on, ask(operation.Freeze, freezing(FrozenPolice, false)), Stopped, []string{"Shutdown", "RemoveGuest", "RemoveDisplay"}},
		{"freeze by force", on, ask(operation.Freeze, freezing(FrozenPolice, true)), Stopped, []string{"Kill", "RemoveGuest", "RemoveDisplay"}},
		{"update on", on, ask(operation.Update, grown), Running, []string{"SetLimits", "GrowData"}},
		{"update off", func(a *agent) { a.written("p1", "") }, ask(operation.Update, grown), PoweredOff, []string{"GrowData"}},
	}
	for _, q := range requests {
		for _, call := range q.calls {
			for _, side := range []string{"before", "after"} {
				point := call + " " + side
				t.Run(q.name+"/"+point, func(t *testing.T) {
					path := filepath.Join(t.TempDir(), "db")
					synctest.Test(t, func(t *testing.T) { dieAt(t, path, point, q.setUp, q.ask, q.want) })
				})
			}
		}
	}
}

func dieAt(t *testing.T, path, point string, setUp func(*agent), ask func(*agent) operation.Operation, want Status) {
	w := phonetest.New()
	a := startAgent(t, w, path, nil)
	setUp(a)
	var op operation.Operation
	for life := range 3 {
		died := make(chan struct{})
		if life < 2 {
			w.Lock()
			w.Hook = die(point, died)
			w.Unlock()
		}
		if life == 0 {
			op = ask(a)
		}
		if life < 2 {
			select {
			case <-died:
			case <-time.After(time.Minute):
				// The step was done in an earlier life and is not needed again.
				if life == 0 {
					t.Fatalf("%s was never reached", point)
				}
			}
			w.Lock()
			w.Hook = nil
			w.Unlock()
			a.stop()
			a = startAgent(t, w, path, nil)
		}
	}
	defer a.stop()
	if r := a.finish(op); r.State != operation.Succeeded {
		t.Errorf("the operation ended %s: %+v", r.State, r.Failure)
	}
	if op.Kind == operation.Delete {
		if len(w.Bodies) != 0 || len(w.Nets) != 0 || len(a.List()) != 0 {
			t.Errorf("left behind: %v %v %v", w.Bodies, w.Nets, a.List())
		}
		return
	}
	snap := a.want("p1", want)
	if r := snap.Record; r.Task != nil || r.Change != nil || r.KeptGeneration != r.DataGeneration || !r.changed() {
		t.Errorf("not finished: %+v", r)
	}
	if b := w.Bodies["p1"]; op.Kind == operation.Update && (b.Volumes[1].Bytes != 8<<30 || want == Running && b.Guest.MemoryBytes != 512<<20) {
		t.Errorf("the update is not in force: %+v", b)
	}
}

// die returns a hook that ends the agent's life at a point: the call never returns to it in that life.
func die(point string, died chan struct{}) func(context.Context, string, string) error {
	once := false
	return func(ctx context.Context, at, _ string) error {
		if at == point && !once {
			once = true
			close(died)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
}

// TestAdoptionLeavesRunningPhonesAlone restarts the agent over phones in every state and looks at what it did to them.
func TestAdoptionLeavesRunningPhonesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, nil)
		a.on("running")
		a.on("off")
		a.do(operation.PowerOff, "off", operation.Succeeded)
		a.create("new")
		before := a.want("running", Running)
		a.stop()
		calls := len(w.Calls)
		a = startAgent(t, w, path, nil)
		defer a.stop()
		after := a.want("running", Running)
		a.want("off", PoweredOff)
		a.want("new", Stopped)
		if len(w.Calls) != calls {
			t.Errorf("adoption made changing calls: %v", w.Calls[calls:])
		}
		if after.InitPID != before.InitPID || !after.BootTime.Equal(before.BootTime) || after.Revision <= before.Revision {
			t.Errorf("before %+v\nafter %+v", before, after)
		}
	})
}

// TestPhoneOutsideOfTheCgroupRoot adopts a phone that an agent with another cgroup root started: it stays where it is, with a display
// that ends and comes back, until it starts again, and then moves as a whole.
func TestPhoneOutsideOfTheCgroupRoot(t *testing.T) {
	for name, startAgain := range map[string]func(t *testing.T, a *agent){
		"restart": func(_ *testing.T, a *agent) { a.do(operation.Restart, "p1", operation.Succeeded) },
		"off and on": func(t *testing.T, a *agent) {
			a.do(operation.PowerOff, "p1", operation.Succeeded)
			if a.want("p1", PoweredOff).Outside {
				t.Error("a phone that is off is said to run outside")
			}
			a.do(operation.PowerOn, "p1", operation.Succeeded)
		},
		"reboot of the guest": func(_ *testing.T, a *agent) {
			a.w.Exit("p1", container.Guest, 129)
			synctest.Wait()
			time.Sleep(10 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			synctest.Test(t, func(t *testing.T) {
				w := phonetest.New()
				a := startAgent(t, w, path, nil)
				a.on("p1")
				a.stop()
				body := w.Bodies["p1"]
				body.Guest.Outside, body.Display.Outside = true, true
				a = startAgent(t, w, path, nil)
				defer a.stop()
				if snap := a.want("p1", Running); !snap.Outside {
					t.Errorf("nobody says that the phone runs outside: %+v", snap)
				}
				w.Exit("p1", container.Display, 1)
				synctest.Wait()
				if removed, started := w.Count("RemoveDisplay"), w.Count("StartDisplay"); removed != 0 || started != 2 {
					t.Errorf("the display was removed %d times and started %d times, want 0, and 2 with that of the power-on", removed, started)
				}
				w.Lock()
				body.Display.Outside = true // as the engine does it: beside its guest
				w.Unlock()
				startAgain(t, a)
				snap := a.want("p1", Running)
				w.Lock()
				defer w.Unlock()
				if snap.Outside || body.Display.Outside || w.Violation != "" {
					t.Errorf("the phone has not moved: %+v, display %+v, %s", snap, body.Display, w.Violation)
				}
			})
		})
	}
}

// TestGuestEndsWhileNobodyLooks ends guests while no agent runs.
func TestGuestEndsWhileNobodyLooks(t *testing.T) {
	for code, want := range map[uint32]Status{129: Running, 130: PoweredOff, 1: Running} {
		path := filepath.Join(t.TempDir(), "db")
		synctest.Test(t, func(t *testing.T) {
			w := phonetest.New()
			a := startAgent(t, w, path, nil)
			a.on("p1")
			a.stop()
			w.Exit("p1", container.Guest, code)
			a = startAgent(t, w, path, nil)
			defer a.stop()
			time.Sleep(time.Minute)
			a.want("p1", want)
		})
	}
}

// TestRandomRequestsAndDeaths is a model test: whatever is asked, in whatever order, with the agent dying at random, the phone comes to
// rest where the last accepted request wants it, and no operation stays running.
func TestRandomRequestsAndDeaths(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			synctest.Test(t, func(t *testing.T) { randomLife(t, path, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

// randomRequest returns any request but a deletion.
func randomRequest(rnd *rand.Rand) Request {
	kinds := []operation.Kind{
		operation.PowerOn, operation.PowerOn, operation.PowerOff, operation.Restart, operation.Reset, operation.Freeze, operation.Unfreeze,
		operation.Update, operation.Update,
	}
	q := Request{Kind: kinds[rnd.IntN(len(kinds))], IDs: []string{"p1"}, Force: rnd.IntN(3) == 0, RequestedBy: "x"}
	switch q.Kind {
	case operation.Freeze:
		q.Freeze = FreezeReason(1 + rnd.IntN(5))
	case operation.Update:
		q.Patch = &Patch{
			Spec:   Spec{VCPUs: 1 + rnd.Float64(), MemoryBytes: uint64(256+rnd.IntN(2)) << 20, DataBytes: uint64(4+rnd.IntN(8)) << 30},
			Fields: []string{"vcpus", "data_bytes"},
		}
		if q.Patch.Spec.MemoryBytes > 256<<20 {
			q.Patch.Fields = append(q.Patch.Fields, "memory_bytes")
		}
	}
	return q
}

func randomLife(t *testing.T, path string, rnd *rand.Rand) {
	w := phonetest.New()
	a := startAgent(t, w, path, nil)
	a.create("p1")
	on, frozen := false, false
	for range 40 {
		time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
		switch rnd.IntN(10) {
		case 0:
			a.stop()
			a = startAgent(t, w, path, nil)
			continue
		case 1:
			w.SetDown(true)
			time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			w.SetDown(false)
			continue
		}
		q := randomRequest(rnd)
		kind := q.Kind
		_, err := a.Submit(t.Context(), q)
		if frozen && (kind == operation.PowerOn || kind == operation.Restart) && fault.Reason(err) != fault.Frozen {
			t.Fatalf("%s of a frozen phone: %v", kind, err)
		}
		if err != nil {
			if fault.Reason(err) == "" {
				t.Fatalf("%s: refused without a reason: %v", kind, err)
			}
			continue
		}
		switch kind {
		case operation.PowerOn:
			on = true
		case operation.PowerOff:
			on = false
		case operation.Freeze:
			on, frozen = false, true
		case operation.Unfreeze:
			frozen = false
		}
	}
	defer func() { a.stop() }()
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	snap, err := a.Get("p1")
	if err != nil {
		t.Fatal(err)
	}
	if running := snap.Status == Running; running != on {
		t.Errorf("phone is %s (%s), should be on: %v\n%+v", snap.Status, snap.Reason, on, snap.Record)
	}
	if r := snap.Record; r.frozen() != frozen || !r.changed() || snap.PendingRestart != nil || r.KeptGeneration != r.DataGeneration {
		t.Errorf("frozen: want %v; pending %v; %+v", frozen, snap.PendingRestart, r)
	}
	if b := w.Bodies["p1"]; b != nil && b.Volumes[snap.Record.DataGeneration].Bytes != snap.Record.Spec.DataBytes {
		t.Errorf("the volume %+v is not of the spec's size, %d", b.Volumes, snap.Record.Spec.DataBytes)
	}
	ops, err := a.ops.List(operation.ListOptions{RunningOnly: true, Limit: 10})
	if err != nil || len(ops) != 0 {
		t.Errorf("operations still running: %+v %v", ops, err)
	}
}
