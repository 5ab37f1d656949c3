package phone

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
)

// TestBootIsAskedWhenTheGuestDraws boots a guest that shows nothing for a while: it is asked seldom, and often when it draws.
func TestBootIsAskedWhenTheGuestDraws(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.w.Set(phonetest.Manner{DrawsNothing: true, AsksToBoot: -1})
		a.create("p1")
		a.submit(operation.PowerOn, "p1", nil)
		time.Sleep(900 * time.Millisecond)
		if n := a.w.Asks("p1"); n != 0 {
			t.Errorf("asked %d times before anything could have come of it", n)
		}
		time.Sleep(10 * time.Second)
		before := a.w.Asks("p1")
		if before < 9 || before > 11 {
			t.Errorf("asked %d times in 10 s while nothing was drawn, want once a second", before)
		}
		a.w.Set(phonetest.Manner{AsksToBoot: -1})
		a.DisplayChanged("p1")
		synctest.Wait()
		if n := a.w.Asks("p1") - before; n != 1 {
			t.Errorf("asked %d times at once when it drew, want once", n)
		}
		time.Sleep(100 * time.Millisecond)
		if n := a.w.Asks("p1") - before; n != 3 {
			t.Errorf("asked %d times in the 100 ms after it drew, want 3 times", n)
		}
		a.w.Set(phonetest.Manner{})
		time.Sleep(time.Second)
		a.want("p1", Running)
	})
}

// TestSlowAnswers boots guests on a host that has so much to do that every answer comes late: they are waited for, but not beyond the
// time for the boot.
func TestSlowAnswers(t *testing.T) {
	for after, want := range map[time.Duration]operation.State{
		4 * time.Second: operation.Succeeded, 12 * time.Second: operation.Succeeded, 10 * time.Minute: operation.Failed,
	} {
		runAgent(t, func(t *testing.T, a *agent) {
			a.w.Set(phonetest.Manner{AnswerAfter: after})
			a.create("p1")
			began := time.Now()
			r := a.do(operation.PowerOn, "p1", want)
			took := time.Since(began)
			if want == operation.Failed {
				if r.Failure.Reason != "BOOT_TIMEOUT" || took > 2*time.Minute+30*time.Second {
					t.Errorf("answers after %s: %+v after %s", after, r.Failure, took)
				}
				return
			}
			if took > 4*after {
				t.Errorf("answers after %s: the boot took %s", after, took)
			}
		})
	}
}

func TestBootTimeoutSaysWhatWasSeen(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.w.Set(phonetest.Manner{AsksToBoot: -1})
		a.create("p1")
		began := time.Now()
		r := a.do(operation.PowerOn, "p1", operation.Failed)
		if took := time.Since(began); took < 120*time.Second || took > 130*time.Second {
			t.Errorf("it took %s, want about 120 s", took)
		}
		if r.Failure.Reason != "BOOT_TIMEOUT" || r.Failure.Code != 4 || !strings.Contains(r.Failure.Message, `sys.boot_completed=""`) {
			t.Errorf("failure is %+v", r.Failure)
		}
		snap := a.want("p1", Stopped)
		if snap.Record.Hold == nil || snap.Record.Hold.Reason != HoldBootFailed || snap.Record.LastFailure == nil {
			t.Errorf("record after a failed boot: %+v", snap.Record)
		}
	})
}
