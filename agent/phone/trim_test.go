package phone

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/data"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
)

func TestTrim(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.written("off", "photos")
		a.on("on")
		for _, id := range []string{"off", "on"} {
			if bytes, err := a.TrimData(t.Context(), id); err != nil || bytes < 3<<30 {
				t.Errorf("%s: %d bytes, %v", id, bytes, err)
			}
		}
		a.do(operation.PowerOn, "off", operation.Succeeded) // nothing holds it any more
		a.create("new")
		a.create("booting")
		a.w.Set(phonetest.Manner{AsksToBoot: -1})
		a.submit(operation.PowerOn, "booting", nil)
		synctest.Wait()
		for id, reason := range map[string]string{"new": data.NoData, "booting": fault.Busy, "nobody": fault.NoSuchPhone} {
			if _, err := a.TrimData(t.Context(), id); fault.Reason(err) != reason {
				t.Errorf("%s: %v, want %s", id, err, reason)
			}
		}
		a.w.Hook = fail("TrimData before", fmt.Errorf("mounted for reading: %w", errdefs.ErrFailedPrecondition))
		if _, err := a.TrimData(t.Context(), "on"); fault.Reason(err) != fault.Busy {
			t.Errorf("of a volume that somebody reads: %v", err)
		}
		broken := errors.New("input/output error")
		a.w.Hook = fail("TrimData before", broken)
		if _, err := a.TrimData(t.Context(), "on"); !errors.Is(err, broken) {
			t.Errorf("of a disk that is broken: %v", err)
		}
	})
}

// TestTrimEnds ends a trim that hangs: with the guest, for a deletion by force, and not for what has nothing to do with it.
func TestTrimEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		off    bool
		end    func(a *agent)
		reason string
	}{
		"power off":       {end: func(a *agent) { a.submit(operation.PowerOff, "p1", nil) }, reason: fault.GuestEnded},
		"delete":          {end: func(a *agent) { a.submit(operation.Delete, "p1", func(q *Request) { q.Force = true }) }, reason: fault.GuestEnded},
		"delete when off": {off: true, end: func(a *agent) { a.submit(operation.Delete, "p1", func(q *Request) { q.Force = true }) }, reason: fault.Superseded},
	} {
		t.Run(name, func(t *testing.T) {
			runAgent(t, func(t *testing.T, a *agent) {
				if tt.off {
					a.written("p1", "photos")
				} else {
					a.on("p1")
				}
				a.w.Hook = hang("TrimData before")
				trimmed := make(chan error)
				go func() {
					_, err := a.TrimData(t.Context(), "p1")
					trimmed <- err
				}()
				synctest.Wait()
				a.change("p1", Spec{}, "labels")
				if tt.off {
					a.refused(operation.PowerOn, "p1", fault.Busy, nil)
				}
				time.Sleep(time.Hour)
				select {
				case err := <-trimmed:
					t.Fatalf("it ended by itself: %v", err)
				default:
				}
				tt.end(a)
				if err := <-trimmed; fault.Reason(err) != tt.reason {
					t.Errorf("%v, want %s", err, tt.reason)
				}
			})
		})
	}
}
