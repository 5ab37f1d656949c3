package phone

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
)

// wallClock is a clock that can be set, and tells so.
type wallClock struct {
	offset atomic.Int64
	steps  chan struct{}
}

func (w *wallClock) now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

// set steps the clock.
func (w *wallClock) set(by time.Duration) {
	w.offset.Add(int64(by))
	w.steps <- struct{}{}
}

// use is an edit of a Config.
func (w *wallClock) use(c *Config) {
	c.Now = w.now
	c.ClockSet = func(ctx context.Context) <-chan struct{} {
		out := make(chan struct{})
		go func() {
			defer close(out)
			for {
				select {
				case <-w.steps:
					out <- struct{}{}
				case <-ctx.Done():
					return
				}
			}
		}()
		return out
	}
}

// lease makes a phone that runs, with a lease.
func (a *agent) lease(id string, expires time.Time) {
	a.t.Helper()
	spec := Spec{ID: id, Image: "testphone", MemoryBytes: 256 << 20, Lease: Lease{ExpiresAt: expires}}
	if _, err := a.Create(a.t.Context(), spec); err != nil {
		a.t.Fatal(err)
	}
	a.do(operation.PowerOn, id, operation.Succeeded)
	a.want(id, Running)
}

// renewing is an edit of a request that renews a lease.
func renewing(expires time.Time) func(*Request) {
	return func(q *Request) {
		q.Patch = &Patch{Spec: Spec{Lease: Lease{ExpiresAt: expires}}, Fields: []string{"lease.expires_at"}}
	}
}

func TestLeaseExpires(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		expires := time.Now().Add(25 * time.Hour)
		a.lease("p1", expires)
		a.create("p2") // has none
		time.Sleep(25*time.Hour - time.Minute)
		a.want("p1", Running)
		time.Sleep(2 * time.Minute)
		snap := a.want("p1", Stopped)
		if snap.Reason != "frozen: EXPIRED" || a.w.Count("Shutdown") != 1 {
			t.Errorf("phone %s (%s), calls %v", snap.Status, snap.Reason, a.w.Calls)
		}
		if f := snap.Record.Freezes[0]; f.RequestedBy != byLease || f.Since.Before(expires) || f.Since.Sub(expires) > time.Second {
			t.Errorf("freeze %+v, the lease ended at %s", f, expires)
		}
		a.refused(operation.PowerOn, "p1", fault.Frozen, nil)
		a.refused(operation.Unfreeze, "p1", fault.LeaseExpired, nil)
		a.refused(operation.Unfreeze, "p1", fault.LeaseExpired, func(q *Request) { q.Unfreeze = []FreezeReason{FrozenExpired} })
		a.submit(operation.Unfreeze, "p1", func(q *Request) { q.Unfreeze = []FreezeReason{FrozenAdmin} })
		a.refused(operation.Update, "p1", fault.InvalidField, renewing(time.Now().Add(-time.Second)))
		a.want("p1", Stopped)

		if op := a.submit(operation.Update, "p1", renewing(time.Now().Add(time.Hour))); op.State != operation.Succeeded {
			t.Errorf("the renewal is %s when it is answered", op.State)
		}
		if snap := a.want("p1", Stopped); snap.Record.frozen() || snap.Reason != "" {
			t.Errorf("after the renewal: %s %+v", snap.Reason, snap.Record.Freezes)
		}
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		a.submit(operation.Update, "p1", renewing(time.Time{})) // for ever
		time.Sleep(1000 * time.Hour)
		a.want("p1", Running)
		a.want("p2", Stopped)
		if got := strings.Join(a.kinds("p1"), " "); strings.Count(got, "21") != 1 || strings.Count(got, "22") != 1 {
			t.Errorf("events: %s", got)
		}
	})
}

// TestLeaseEndsWithNobodyThere has leases end while containerd is away, and while the agent is.
func TestLeaseEndsWithNobodyThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		a := startAgent(t, w, path, nil)
		a.lease("p1", time.Now().Add(time.Hour))
		a.lease("p2", time.Now().Add(24*time.Hour))
		a.w.SetDown(true)
		time.Sleep(2 * time.Hour)
		if snap := a.want("p1", Unknown); !snap.Record.frozenFor(FrozenExpired) {
			t.Errorf("while containerd is away: %+v", snap.Record.Freezes)
		}
		a.w.SetDown(false)
		time.Sleep(time.Minute)
		a.want("p1", Stopped)
		a.want("p2", Running)
		a.stop()
		time.Sleep(48 * time.Hour)
		a = startAgent(t, w, path, nil)
		defer func() { a.stop() }()
		time.Sleep(time.Minute)
		if snap := a.want("p2", Stopped); snap.Reason != "frozen: EXPIRED" || w.Bodies["p2"].Guest.PID != 0 {
			t.Errorf("after the agent's return: %s, guest %+v", snap.Reason, w.Bodies["p2"].Guest)
		}
	})
}

// TestLeaseIsRenewedInTime renews before the end, while the phone is busy with something else.
func TestLeaseIsRenewedInTime(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.lease("p1", time.Now().Add(time.Hour))
		a.w.Set(phonetest.Manner{IgnoreShutdown: true, AsksToBoot: 2})
		restart := a.submit(operation.Restart, "p1", func(q *Request) { grace := MaxGrace; q.Grace = &grace })
		time.Sleep(time.Second)
		a.submit(operation.Update, "p1", renewing(time.Now().Add(3*time.Hour)))
		if r := a.finish(restart); r.State != operation.Succeeded {
			t.Errorf("restart: %+v", r)
		}
		time.Sleep(2 * time.Hour)
		a.want("p1", Running)
	})
}

// TestLeaseEndsAnOperation has a lease end under each operation: what was to leave the phone running fails, the rest goes on.
func TestLeaseEndsAnOperation(t *testing.T) {
	tests := []struct {
		name   string
		kind   operation.Kind
		manner phonetest.Manner
		state  operation.State
	}{
		{"power on", operation.PowerOn, phonetest.Manner{AsksToBoot: -1}, operation.Failed},
		{"restart", operation.Restart, phonetest.Manner{AsksToBoot: -1}, operation.Failed},
		{"reset", operation.Reset, phonetest.Manner{AsksToBoot: -1}, operation.Succeeded},
		{"power off", operation.PowerOff, phonetest.Manner{IgnoreShutdown: true}, operation.Succeeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				spec := Spec{ID: "p1", Image: "testphone", MemoryBytes: 256 << 20, Lease: Lease{ExpiresAt: time.Now().Add(time.Hour)}}
				if _, err := a.Create(t.Context(), spec); err != nil {
					t.Fatal(err)
				}
				if tt.kind != operation.PowerOn {
					a.do(operation.PowerOn, "p1", operation.Succeeded)
				}
				time.Sleep(time.Until(spec.Lease.ExpiresAt) - 10*time.Second)
				a.w.Set(tt.manner)
				op := a.submit(tt.kind, "p1", nil)
				r := a.finish(op)
				if r.State != tt.state || tt.state == operation.Failed && r.Failure.Reason != fault.LeaseExpired {
					t.Errorf("%s: %s %+v, want %s", tt.name, r.State, r.Failure, tt.state)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				snap, err := a.Get("p1")
				if err != nil || !snap.Record.frozenFor(FrozenExpired) || snap.InitPID != 0 || snap.Record.Task != nil {
					t.Errorf("afterwards: %+v %v", snap, err)
				}
				if tt.kind == operation.Reset && snap.Record.KeptGeneration != 2 {
					t.Errorf("the reset is not complete: %+v", snap.Record)
				}
			})
		})
	}
}

// TestLeaseAndTheClock steps the wall clock: a lease is judged again at once, and goes by the wall.
func TestLeaseAndTheClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		wall := &wallClock{steps: make(chan struct{})}
		a := startAgent(t, phonetest.New(), path, wall.use)
		defer a.stop()
		a.lease("p1", wall.now().Add(10*time.Hour))
		wall.set(-5 * time.Hour)
		time.Sleep(12 * time.Hour)
		a.want("p1", Running) // by the wall three hours are left
		wall.set(2 * time.Hour)
		a.want("p1", Running)
		wall.set(2 * time.Hour)
		time.Sleep(time.Minute)
		a.want("p1", Stopped)
		wall.set(-24 * time.Hour)
		time.Sleep(time.Minute)
		snap := a.want("p1", Stopped)
		if !snap.Record.frozenFor(FrozenExpired) {
			t.Error("a clock that is set back unfroze the phone")
		}
		// By now the lease is not over, so nothing keeps an operator from letting it go on.
		a.submit(operation.Unfreeze, "p1", nil)
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		time.Sleep(26 * time.Hour)
		a.want("p1", Stopped)
	})
}

// TestLeaseGoesByADriftingClock has the wall clock run ahead of the timers without a step that anybody could report.
func TestLeaseGoesByADriftingClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		fast := func() time.Time { return began.Add(time.Since(began) * 11 / 10) }
		a := startAgent(t, phonetest.New(), path, func(c *Config) { c.Now = fast })
		defer a.stop()
		expires := fast().Add(11 * time.Hour)
		a.lease("p1", expires)
		time.Sleep(10*time.Hour + 2*time.Minute)
		snap := a.want("p1", Stopped)
		if late := snap.Record.Freezes[0].Since.Sub(expires); late < 0 || late > time.Minute {
			t.Errorf("the lease was found over %s late", late)
		}
	})
}

// TestLeaseIsCheckedBeforeItIsJudged has a request come between the end of a lease and the controller.
func TestLeaseIsCheckedBeforeItIsJudged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		wall := &wallClock{steps: make(chan struct{})}
		a := startAgent(t, phonetest.New(), path, wall.use)
		defer a.stop()
		spec := Spec{ID: "p1", Image: "testphone", MemoryBytes: 256 << 20, Lease: Lease{ExpiresAt: wall.now().Add(time.Hour)}}
		if _, err := a.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wall.offset.Add(int64(2 * time.Hour)) // nobody has told the controllers yet
		a.refused(operation.PowerOn, "p1", fault.LeaseExpired, nil)
		a.want("p1", Stopped)
	})
}

func TestLeaseOfANewPhone(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		spec := Spec{ID: "p1", Image: "testphone", MemoryBytes: 256 << 20, Lease: Lease{ExpiresAt: time.Now()}}
		if _, err := a.Create(t.Context(), spec); fault.Meta(err)["field"] != "spec.lease.expires_at" {
			t.Errorf("a lease that is over: %v", err)
		}
		spec.Lease = Lease{ExpiresAt: time.Now().Add(time.Hour), RetainUntil: time.Now().Add(-time.Hour)} // is only reported
		if _, err := a.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Create(t.Context(), spec); err != nil {
			t.Errorf("the same again: %v", err)
		}
		time.Sleep(2 * time.Hour)
		if snap := a.want("p1", Stopped); snap.Reason != "frozen: EXPIRED" {
			t.Errorf("a phone that was never started: %s", snap.Reason)
		}
		if _, err := a.Create(t.Context(), spec); err != nil {
			t.Errorf("the same after its end, which is a retry: %v", err)
		}
		a.do(operation.Delete, "p1", operation.Succeeded)
	})
}
