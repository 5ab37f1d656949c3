package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/logger"
)

// LogLine is one line of a container's output.
type LogLine = logger.Line

// LogOptions choose what ReadLog delivers.
type LogOptions = logger.ReadOptions

// ReadLog calls fn for each line that one of the phone's containers printed, across its restarts, oldest first. It reads files: no
// container need run, nor containerd. An error of fn ends it and is returned as it is; when following, so is the context's end.
// It returns errdefs.ErrNotFound when a log is followed whose phone does not exist, or no longer.
func (e *Engine) ReadLog(ctx context.Context, id string, role Role, o LogOptions, fn func(LogLine) error) error {
	if !validID(id) {
		return fmt.Errorf("phone id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	err := logger.Read(ctx, e.logPath(id, role), o, fn)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("log of %s: %w: %w", id, err, errdefs.ErrNotFound)
	}
	return err
}
