// Package command runs lines of the guests' shell and keeps the beginning of what they print.
//
// A command has no input, belongs to root, and has a process group of its own, which is killed when its time is over or its caller
// leaves. What a command leaves running in a group of its own is the guest's. The package keeps no state and starts no goroutine of
// its own that outlives a call.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/runtime/container"
)

// Limits of commands.
const (
	// MaxLine is the most bytes of a line.
	MaxLine = 1024
	// MinTimeout is the shortest time that a command may be given.
	MinTimeout = 100 * time.Millisecond
	// KeptShown is how many bytes of each output a caller who waits gets, KeptStored how many an operation keeps.
	KeptShown, KeptStored = 8 << 10, 1 << 10
)

// Reasons of failures; docs/api.md has them.
const (
	// TimedOut means that the command was killed when its time was over.
	TimedOut = "COMMAND_TIMEOUT"
	// ExitCode means that a command of an operation ended with another code than 0.
	ExitCode = "EXIT_CODE"
)

// Guests runs processes in guests (container.Engine).
type Guests interface {
	Exec(ctx context.Context, id string, opts container.ExecOptions) (exitCode uint32, err error)
	EndExec(ctx context.Context, id, execID string) error
}

// Runner runs commands in running phones. Its methods may be called by many goroutines at once.
type Runner struct {
	// Guests and Phones are the world.
	Guests Guests
	Phones job.Phones
}

// Command is one line for one phone.
type Command struct {
	// PhoneID names the phone.
	PhoneID string
	// Line is for the profile's shell; Check has accepted it.
	Line string
	// Timeout is how long it may run.
	Timeout time.Duration
	// Keep is how many bytes of each output are kept.
	Keep int
	// Name is the process's name in containerd, by which another agent ends it; empty means a random one.
	Name string
}

// Check refuses a line or a time that no command may have. most is the longest time of this kind of request.
func Check(line string, timeout, most time.Duration) error {
	if line == "" || len(line) > MaxLine {
		return fault.Field("command", "%d bytes must be 1..%d", len(line), MaxLine)
	}
	if strings.ContainsRune(line, 0) {
		return fault.Field("command", "must hold no zero bytes")
	}
	if timeout < MinTimeout || timeout > most {
		return fault.Field("timeout", "%s must be %s..%s", timeout, MinTimeout, most)
	}
	return nil
}

// Run runs a command to its end. The output is returned with an error too, where the command was started; the error says why it did
// not run to its end: NO_SUCH_PHONE, NOT_RUNNING, CONTAINERD_LOST, COMMAND_TIMEOUT, GUEST_ENDED, or the end of ctx.
func (r *Runner) Run(ctx context.Context, c Command) (*operation.Output, error) {
	before, err := job.Running(r.Phones, c.PhoneID)
	if err != nil {
		return nil, err
	}
	kind, err := before.Profile()
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	stdout, stderr := head{keep: c.Keep}, head{keep: c.Keep}
	began := time.Now()
	code, err := r.Guests.Exec(limited, c.PhoneID, container.ExecOptions{
		ID: c.Name, Args: kind.Line(c.Line), Stdout: &stdout, Stderr: &stderr,
	})
	out := &operation.Output{Duration: time.Since(began)}
	out.Stdout, out.StdoutDropped = stdout.kept()
	out.Stderr, out.StderrDropped = stderr.kept()
	switch {
	case err == nil && (code != killed || !job.EndedWith(ctx, r.Phones, before)):
		out.ExitCode = &code
		return out, nil
	case err == nil:
		return out, job.Ended(c.PhoneID)
	case ctx.Err() != nil:
		return out, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded) && limited.Err() != nil:
		return out, fault.New(context.DeadlineExceeded, TimedOut, "the command in %s was killed after %s", c.PhoneID, c.Timeout)
	case job.EndedWith(ctx, r.Phones, before):
		return out, errors.Join(job.Ended(c.PhoneID), err)
	}
	return out, err
}

// killed is the exit code of a process that SIGKILL has ended, as the end of a guest does.
const killed = 128 + 9

// payload is what an operation's command is stored as.
type payload struct {
	Line    string        `json:"line"`
	Timeout time.Duration `json:"timeout"`
}

// Payload returns what a job of the kind operation.Command is submitted with.
func Payload(line string, timeout time.Duration) any { return payload{Line: line, Timeout: timeout} }

// Handler does jobs of the kind operation.Command. A command is never run twice: what an agent's death leaves of it is killed.
func (r *Runner) Handler() job.Handler {
	return job.Handler{
		Do: func(ctx context.Context, w job.Work) (*operation.Output, error) {
			var p payload
			if err := json.Unmarshal(w.Payload, &p); err != nil {
				return nil, fmt.Errorf("decode the command of %s: %w: %w", w.OperationID, err, errdefs.ErrDataLoss)
			}
			w.Progress("running")
			out, err := r.Run(ctx, Command{PhoneID: w.PhoneID, Line: p.Line, Timeout: p.Timeout, Keep: KeptStored, Name: w.OperationID})
			if err == nil && *out.ExitCode != 0 {
				err = fault.New(errdefs.ErrAborted, ExitCode, "the command in %s ended with code %d", w.PhoneID, *out.ExitCode)
			}
			return out, err
		},
		Abandon: func(ctx context.Context, w job.Work) error { return r.Guests.EndExec(ctx, w.PhoneID, w.OperationID) },
	}
}
