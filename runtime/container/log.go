package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

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

// quietTime is how long a log must have been silent for its last line to be taken for the last.
const quietTime = 30 * time.Millisecond

// LogTail returns the last lines that one of the phone's containers printed since a time, at most limit bytes of valid UTF-8. It waits
// until nothing has been added for a moment, 300 ms at most: the log writer takes its time. It reads files only.
func (e *Engine) LogTail(ctx context.Context, id string, role Role, since time.Time, limit int) (string, error) {
	if !validID(id) {
		return "", fmt.Errorf("phone id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	text, err := logger.Tail(ctx, e.logPath(id, role), logger.TailOptions{Bytes: limit, Since: since, Quiet: quietTime})
	if err != nil {
		return "", fmt.Errorf("log of %s: %w", id, err)
	}
	return text, nil
}

// logFiles are all files that the log writers make for a phone.
func (e *Engine) logFiles(id string) []string {
	var files []string
	for _, role := range []Role{Guest, Display} {
		files = append(files, e.logPath(id, role), e.logPath(id, role)+".1")
	}
	return files
}

func (e *Engine) hasLogs(id string) bool {
	for _, file := range e.logFiles(id) {
		if _, err := os.Lstat(file); err == nil {
			return true
		}
	}
	return false
}

// removeLogs removes the log files and their directory, but nothing that somebody else put there.
func (e *Engine) removeLogs(id string) error {
	for _, path := range append(e.logFiles(id), e.logDir(id)) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the logs of %s: %w", id, err)
		}
	}
	return nil
}
