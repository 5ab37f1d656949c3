package phone

import "time"

// Timing holds the times and counts of the controllers. A zero field means its default.
type Timing struct {
	// BootTimeout is how long a guest may take from the start of its init to boot completed; 120 s.
	BootTimeout time.Duration
	// Grace is how long a guest may take to shut down where the request does not say; 20 s.
	Grace time.Duration
	// DisplayTimeout is how long a display that was started may take to answer; 10 s.
	DisplayTimeout time.Duration
	// StepTimeout bounds each call of the runtime, so that one that hangs does not hold the phone for ever; 2 min.
	StepTimeout time.Duration
	// CopyTimeout bounds each copy and growth of a data volume; 2 h.
	CopyTimeout time.Duration
	// Rejudge is the longest time until a lease is looked at again; 10 min.
	Rejudge time.Duration
	// AskTimeout bounds the first question to a booting guest, and twice as long each after one that was not answered in time; 5 s.
	AskTimeout time.Duration
	// BootPoll is the least and the most time between two questions whether a boot has completed, once the guest draws; until then it is
	// always the most; 25 ms and 1 s.
	BootPoll [2]time.Duration
	// Retry is the least and the most time between two tries of a step that fails; 500 ms and 10 s.
	Retry [2]time.Duration
	// StartAttempts is how often a start is tried before the phone is held as START_FAILED; 5.
	StartAttempts int
	// Crash is the least and the most time between a crash and the next start; 1 s and 60 s.
	Crash [2]time.Duration
	// CrashLimit crashes within CrashWindow hold the phone as CRASH_LOOP; 5 in 10 min.
	CrashLimit  int
	CrashWindow time.Duration
	// Collect is the time between two collections of garbage; 1 h.
	Collect time.Duration
}

// withDefaults fills in the defaults.
func (t Timing) withDefaults() Timing {
	pair := func(v *[2]time.Duration, least, most time.Duration) {
		v[0], v[1] = orDefault(v[0], least), orDefault(v[1], most)
	}
	t.BootTimeout = orDefault(t.BootTimeout, 120*time.Second)
	t.Grace = orDefault(t.Grace, 20*time.Second)
	t.DisplayTimeout = orDefault(t.DisplayTimeout, 10*time.Second)
	t.StepTimeout = orDefault(t.StepTimeout, 2*time.Minute)
	t.CopyTimeout = orDefault(t.CopyTimeout, 2*time.Hour)
	t.Rejudge = orDefault(t.Rejudge, 10*time.Minute)
	t.AskTimeout = orDefault(t.AskTimeout, 5*time.Second)
	pair(&t.BootPoll, 25*time.Millisecond, time.Second)
	pair(&t.Retry, 500*time.Millisecond, 10*time.Second)
	t.StartAttempts = orDefault(t.StartAttempts, 5)
	pair(&t.Crash, time.Second, time.Minute)
	t.CrashLimit = orDefault(t.CrashLimit, 5)
	t.CrashWindow = orDefault(t.CrashWindow, 10*time.Minute)
	t.Collect = orDefault(t.Collect, time.Hour)
	return t
}

// backoff returns the n-th delay, from 1, of a series that doubles from the least to the most.
func backoff(bounds [2]time.Duration, n int) time.Duration {
	d := bounds[0]
	for ; n > 1 && d < bounds[1]; n-- {
		d *= 2
	}
	return min(d, bounds[1])
}

func (t Timing) crashDelay(n int) time.Duration { return backoff(t.Crash, n) }
