package phone

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/runtime/container"
)

// blinking is a runtime whose next look fails when blink is set.
type blinking struct {
	Runtime
	blink atomic.Bool
}

// Observe implements Runtime.
func (b *blinking) Observe(ctx context.Context, id string) (container.Observation, error) {
	if b.blink.Swap(false) {
		return container.Observation{}, errors.New("something in the way")
	}
	return b.Runtime.Observe(ctx, id)
}

// TestALookThatFailsAtARequest has the look fail that a request is the reason for, while containerd is there all the time: nobody but the
// controller itself has it look again.
func TestALookThatFailsAtARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		runtime := &blinking{Runtime: w}
		a := startAgent(t, w, t.TempDir()+"/db", func(c *Config) { c.Runtime = runtime })
		defer a.stop()
		a.create("p1")
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		for _, kind := range []operation.Kind{operation.Restart, operation.PowerOff, operation.PowerOn, operation.Reset} {
			synctest.Wait()
			runtime.blink.Store(true)
			a.do(kind, "p1", operation.Succeeded)
			if runtime.blink.Load() {
				t.Errorf("kind %d: no look failed", kind)
			}
		}
	})
}
