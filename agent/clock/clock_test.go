package clock

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStepsEndWithTheirContext begins and ends without a step; the goroutine's end is seen by goleak.
func TestStepsEndWithTheirContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	steps, err := Steps(ctx)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-steps:
		t.Error("a step was reported that nobody made")
	default:
	}
	cancel()
	for range steps {
	}
}

// TestVMSteps sets the clock of a machine, forwards, backwards, and by nothing at all.
func TestVMSteps(t *testing.T) {
	vm.Run(t, vm.On("6.1", "6.12"), func(t *testing.T) {
		steps, err := Steps(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, by := range []time.Duration{time.Hour, -2 * time.Hour, 0} {
			to := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
			if err := unix.ClockSettime(unix.CLOCK_REALTIME, &to); err != nil {
				t.Fatal(err)
			}
			select {
			case <-steps:
			case <-time.After(10 * time.Second):
				t.Fatalf("a step of %s was not reported", by)
			}
		}
	})
}
