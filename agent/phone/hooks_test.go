package phone

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// errNoRoom is what a full disk says.
var errNoRoom = fmt.Errorf("make a volume: no space left on device: %w", errdefs.ErrResourceExhausted)

// hang returns a hook that has a call hang until its context ends.
func hang(point string) func(context.Context, string, string) error {
	return func(ctx context.Context, at, _ string) error {
		if at == point {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
}

// fail returns a hook that has a call fail.
func fail(point string, err error) func(context.Context, string, string) error {
	return func(_ context.Context, at, _ string) error {
		if at == point {
			return err
		}
		return nil
	}
}

// hookOnce returns a hook that does something the first time that a point is passed.
func hookOnce(point string, done *bool, do func()) func(context.Context, string, string) error {
	return func(_ context.Context, at, _ string) error {
		if at == point && !*done {
			*done = true
			do()
		}
		return nil
	}
}
