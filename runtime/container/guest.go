package container

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// BootCompleted asks the guest, by one exec, whether it has booted. seen is what it answered, for people, also when it has not.
// Errors are those of Exec; while a guest's programs cannot be run yet that is an error too.
func (e *Engine) BootCompleted(ctx context.Context, id string) (done bool, seen string, err error) {
	task, first, prof, err := e.guest(ctx, id)
	if err != nil {
		return false, "", fmt.Errorf("ask %s whether it has booted: %w", id, err)
	}
	var stdout, stderr head
	code, err := e.execIn(ctx, id, task, first, ExecOptions{Args: prof.BootCompletedArgs, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return false, "", fmt.Errorf("ask %s whether it has booted: %w", id, err)
	}
	asked := strings.Join(prof.BootCompletedArgs, " ")
	if code != 0 {
		return false, fmt.Sprintf("%s exited with %d: %s", asked, code, strings.TrimSpace(stderr.String())), nil
	}
	return prof.BootCompleted(stdout.String()), fmt.Sprintf("%s: %q", asked, strings.TrimSpace(stdout.String())), nil
}

// Shutdown asks the guest to shut down, as its profile says, and does not wait for it: the end is an event. Errors are those of
// Exec, and errdefs.ErrInternal if the guest refused.
func (e *Engine) Shutdown(ctx context.Context, id string) error {
	task, first, prof, err := e.guest(ctx, id)
	if err != nil {
		return fmt.Errorf("shut %s down: %w", id, err)
	}
	if prof.Shutdown.Signal != 0 {
		return e.signal(ctx, id, Guest, prof.Shutdown.Signal)
	}
	var output head
	code, err := e.execIn(ctx, id, task, first, ExecOptions{Args: prof.Shutdown.Args, Stderr: &output})
	if err != nil {
		return fmt.Errorf("shut %s down: %w", id, err)
	}
	// The process that asks may be killed by what it asked for.
	if code != 0 && code < 128 {
		return fmt.Errorf("shut %s down: %s exited with %d: %s: %w", id, prof.Shutdown.Args[0], code, strings.TrimSpace(output.String()), errdefs.ErrInternal)
	}
	return nil
}

// head keeps the first bytes that are written to it: an answer of a guest may be of any length.
type head struct{ bytes.Buffer }

const headBytes = 1024

func (h *head) Write(p []byte) (int, error) {
	if room := headBytes - h.Len(); room > 0 {
		h.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
