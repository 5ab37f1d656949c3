package phone

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/runtime/container"
)

// twoAtOnce is an edit of a Config that lets two phones boot at once.
func twoAtOnce(c *Config) { c.ConcurrentBoots = 2 }

// runQueue runs fn with an agent that boots two phones at once, whose guests never boot.
func runQueue(t *testing.T, fn func(t *testing.T, a *agent)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		w.Set(phonetest.Manner{AsksToBoot: -1})
		a := startAgent(t, w, path, twoAtOnce)
		defer func() { a.stop() }()
		fn(t, a)
	})
}

// ask powers phones on, one a second.
func (a *agent) ask(ids ...string) (ops []operation.Operation) {
	a.t.Helper()
	for _, id := range ids {
		a.create(id)
		ops = append(ops, a.submit(operation.PowerOn, id, nil))
		time.Sleep(time.Second)
	}
	return ops
}

// queued returns the phones that wait, in order.
func (a *agent) queued() []string {
	a.t.Helper()
	synctest.Wait()
	var ids []string
	for _, snap := range a.List() {
		if snap.QueuePosition > 0 {
			ids = append(ids, snap.Record.Spec.ID)
		}
	}
	slices.SortFunc(ids, func(x, y string) int { return a.position(x) - a.position(y) })
	return ids
}

// position returns a phone's place in the queue.
func (a *agent) position(id string) int {
	a.t.Helper()
	snap, err := a.Get(id)
	if err != nil {
		a.t.Fatal(err)
	}
	return snap.QueuePosition
}

// expectQueue fails the test unless these phones wait, in this order, and so many boot.
func (a *agent) expectQueue(booting int, ids ...string) {
	a.t.Helper()
	if diff := cmp.Diff(ids, a.queued()); diff != "" {
		a.t.Errorf("queue (-want +got):\n%s", diff)
	}
	if held, waiting := a.BootQueue(); held != booting || waiting != len(ids) {
		a.t.Errorf("%d boot and %d wait, want %d and %d", held, waiting, booting, len(ids))
	}
}

func TestBootsAreAdmittedInOrder(t *testing.T) {
	var waited []time.Duration
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		w.Set(phonetest.Manner{AsksToBoot: -1})
		a := startAgent(t, w, path, func(c *Config) {
			twoAtOnce(c)
			c.OnAdmitted = func(d time.Duration) { waited = append(waited, d) }
		})
		defer func() { a.stop() }()
		watch := a.Watch([]string{"p5"})
		defer watch.Close()
		ops := a.ask("p1", "p2", "p9", "p5", "p3")
		a.expectQueue(2, "p9", "p5", "p3")
		snap := a.want("p5", Starting)
		if snap.Reason != "QUEUED: number 2 of 3 that wait to boot; 2 boot now (limits.concurrent_boots is 2)" {
			t.Errorf("reason %q", snap.Reason)
		}
		op, err := a.ops.Get(ops[3].ID)
		if err != nil || op.Results[0].Progress != "QUEUED: waiting for a boot slot" {
			t.Errorf("progress %q %v", op.Results[0].Progress, err)
		}
		changes, err := watch.Next(t.Context())
		if err != nil || len(changes) != 1 || changes[0].Snapshot.QueuePosition != 2 {
			t.Errorf("a watcher sees %+v %v", changes, err)
		}
		if _, wired := w.Nets["p5"]; wired || w.Bodies["p5"] != nil {
			t.Error("something was made for a phone that waits")
		}
		// What boots makes room by booting, by being powered off, and by failing.
		w.Set(phonetest.Manner{AsksToBoot: 0})
		if r := a.finish(ops[0]); r.State != operation.Succeeded {
			t.Fatalf("p1: %+v", r)
		}
		for _, op := range ops {
			if r := a.finish(op); r.State != operation.Succeeded {
				t.Errorf("%s: %+v", op.Results[0].PhoneID, r)
			}
		}
		a.expectQueue(0)
		var starts []string
		for _, id := range []string{"p1", "p2", "p9", "p5", "p3"} {
			starts = append(starts, fmt.Sprint(id, " ", a.want(id, Running).StartTime.Format("05.000")))
		}
		if !slices.IsSortedFunc(starts, func(a, b string) int { return strings.Compare(a[3:], b[3:]) }) {
			t.Errorf("starts: %v", starts)
		}
		if len(waited) != 5 || waited[0] != 0 || waited[4] == 0 {
			t.Errorf("waits: %v", waited)
		}
	})
}

// TestQueuedPhones does to phones that wait what can be done: each leaves at once, and the others move up.
func TestQueuedPhones(t *testing.T) {
	runQueue(t, func(t *testing.T, a *agent) {
		ops := a.ask("p1", "p2", "p3", "p4", "p5", "p6", "p7")
		a.expectQueue(2, "p3", "p4", "p5", "p6", "p7")
		began := time.Now()
		a.do(operation.PowerOff, "p3", operation.Succeeded)
		a.finish(a.submit(operation.Delete, "p4", func(q *Request) { q.Force = true }))
		a.finish(a.submit(operation.Freeze, "p6", freezing(FrozenAdmin, false)))
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %s", took)
		}
		a.expectQueue(2, "p5", "p7")
		for _, i := range []int{2, 3, 5} {
			if r := a.finish(ops[i]); r.State != operation.Aborted {
				t.Errorf("power on of %s: %+v", r.PhoneID, r)
			}
		}
		a.want("p3", PoweredOff)
		if a.w.Bodies["p3"] != nil {
			t.Error("something was made for a phone that never had its turn")
		}
		// Off and on again is a new wish, behind the others.
		a.submit(operation.PowerOn, "p3", nil)
		a.expectQueue(2, "p5", "p7", "p3")
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		a.expectQueue(2, "p7", "p3")
		a.want("p5", Starting)
		time.Sleep(3 * time.Minute) // p2 and p5 fail by their time limit, then p7 and p3
		a.want("p2", Stopped)
		a.expectQueue(2)
	})
}

// TestCrashedPhonesLeaveTheirSlots has a phone wait for its next start after a crash without keeping the others from booting.
func TestCrashedPhonesLeaveTheirSlots(t *testing.T) {
	runQueue(t, func(t *testing.T, a *agent) {
		a.ask("p1", "p2", "p3", "p4")
		a.expectQueue(2, "p3", "p4")
		a.w.Exit("p1", container.Guest, 1)
		a.expectQueue(2, "p4") // p3 has the slot; p1 is in its back-off
		time.Sleep(2 * time.Second)
		a.expectQueue(2, "p4", "p1") // and comes after those who asked before
	})
}

// TestStartThatFailsKeepsItsSlot has a start tried again: the phone does not go to the end of the queue for it.
func TestStartThatFailsKeepsItsSlot(t *testing.T) {
	runQueue(t, func(t *testing.T, a *agent) {
		a.w.Hook = func(_ context.Context, at, id string) error {
			if at == "StartGuest before" && id == "p1" {
				return errors.New("no luck")
			}
			return nil
		}
		ops := a.ask("p1", "p2", "p3")
		a.expectQueue(2, "p3")
		if r := a.finish(ops[0]); r.Failure == nil || r.Failure.Reason != HoldStartFailed {
			t.Errorf("p1: %+v", r)
		}
		a.expectQueue(2)
	})
}

// TestQueueOverAgents restarts the agent over a queue: what boots keeps its slot, also beyond a lower limit, and the order stays.
func TestQueueOverAgents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		w.Set(phonetest.Manner{AsksToBoot: -1})
		a := startAgent(t, w, path, func(c *Config) { c.ConcurrentBoots = 3 })
		a.ask("p7", "p6", "p5", "p4", "p3", "p2")
		a.expectQueue(3, "p4", "p3", "p2")
		pid := a.want("p7", Starting).InitPID
		a.stop()
		a = startAgent(t, w, path, twoAtOnce)
		defer func() { a.stop() }()
		a.expectQueue(3, "p4", "p3", "p2")
		if snap := a.want("p7", Starting); snap.InitPID != pid || snap.QueuePosition != 0 {
			t.Errorf("a phone that booted: %+v", snap)
		}
		a.do(operation.PowerOff, "p7", operation.Succeeded)
		a.expectQueue(2, "p4", "p3", "p2")
		a.do(operation.PowerOff, "p6", operation.Succeeded)
		a.expectQueue(2, "p3", "p2")
		w.Set(phonetest.Manner{AsksToBoot: 0})
		time.Sleep(time.Minute)
		for _, id := range []string{"p5", "p4", "p3", "p2"} {
			a.want(id, Running)
		}
		a.expectQueue(0)
	})
}

// TestQueueAfterTheHostRestarted has every phone want to boot at once: never more than two do.
func TestQueueAfterTheHostRestarted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, twoAtOnce)
		for i := range 20 {
			a.on(fmt.Sprintf("p%d", i))
		}
		a.stop()
		w.RestartHost()
		booting, most := 0, 0
		w.Hook = func(_ context.Context, at, _ string) error {
			if at == "StartGuest after" {
				w.Lock()
				booting++
				most = max(most, booting)
				w.Unlock()
			}
			return nil
		}
		w.Set(phonetest.Manner{AsksToBoot: 5})
		a = startAgent(t, w, path, func(c *Config) { c.ConcurrentBoots, c.HostBoot = 2, "boot-2" })
		defer func() { a.stop() }()
		for range 3000 {
			time.Sleep(10 * time.Millisecond)
			running := a.CountByStatus()[Running]
			w.Lock()
			if up := booting - running; up > 2 {
				t.Fatalf("%d phones boot at once", up)
			}
			w.Unlock()
		}
		if got := a.CountByStatus(); got[Running] != 20 {
			t.Errorf("by status: %v", got)
		}
	})
}

func TestDefaultOfConcurrentBoots(t *testing.T) {
	for cpus, want := range map[int]int{1: 2, 2: 2, 64: 64} {
		path := filepath.Join(t.TempDir(), "db")
		synctest.Test(t, func(t *testing.T) {
			a := startAgent(t, phonetest.New(), path, func(c *Config) { c.Host.CPUs = cpus })
			defer a.stop()
			if a.boots.limit != want {
				t.Errorf("on %d cores %d boot at once, want %d", cpus, a.boots.limit, want)
			}
		})
	}
}
