package command_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/command"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/runtime/container"
)

// guests is a guest that does what a test says.
type guests func(ctx context.Context, o container.ExecOptions) (uint32, error)

func (g guests) Exec(ctx context.Context, _ string, o container.ExecOptions) (uint32, error) {
	return g(ctx, o)
}
func (guests) EndExec(context.Context, string, string) error { return nil }

// phones has one phone that runs.
type phones struct{}

func (phones) Get(id string) (phone.Snapshot, error) {
	if id != "p1" {
		return phone.Snapshot{}, fault.New(errdefs.ErrNotFound, fault.NoSuchPhone, "no phone %q", id)
	}
	snap := phone.Snapshot{Status: phone.Running, InitPID: 7}
	snap.Record.Spec.Profile = "testphone"
	return snap, nil
}

func (phones) Watch([]string) *phone.Watcher { panic("the guest of this test does not end") }

func TestRunKeepsTheBeginning(t *testing.T) {
	r := command.Runner{Phones: phones{}, Guests: guests(func(_ context.Context, o container.ExecOptions) (uint32, error) {
		if got := strings.Join(o.Args, "|"); got != "/system/bin/sh|-c|some line" {
			return 0, fmt.Errorf("ran %s", got)
		}
		for range 100 {
			io.WriteString(o.Stdout, "0123456789")
		}
		io.WriteString(o.Stderr, "short")
		return 3, nil
	})}
	out, err := r.Run(t.Context(), command.Command{PhoneID: "p1", Line: "some line", Timeout: time.Second, Keep: 15})
	if err != nil {
		t.Fatal(err)
	}
	if string(out.Stdout) != "012345678901234" || out.StdoutDropped != 985 || string(out.Stderr) != "short" || out.StderrDropped != 0 || *out.ExitCode != 3 {
		t.Errorf("%+v, exit code %d", out, *out.ExitCode)
	}
}

func TestRunTellsWhyItEnded(t *testing.T) {
	hang := guests(func(ctx context.Context, o container.ExecOptions) (uint32, error) {
		io.WriteString(o.Stdout, "so far")
		<-ctx.Done()
		return 0, ctx.Err()
	})
	t.Run("time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := command.Runner{Phones: phones{}, Guests: hang}
			out, err := r.Run(t.Context(), command.Command{PhoneID: "p1", Line: "sleep", Timeout: time.Minute, Keep: 100})
			if fault.Reason(err) != command.TimedOut || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want %s", err, command.TimedOut)
			}
			if out.ExitCode != nil || string(out.Stdout) != "so far" || out.Duration != time.Minute {
				t.Errorf("the output is %+v", out)
			}
		})
	})
	t.Run("caller", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r := command.Runner{Phones: phones{}, Guests: hang}
			if _, err := r.Run(ctx, command.Command{PhoneID: "p1", Line: "sleep", Timeout: time.Minute}); fault.Reason(err) != "" || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want the caller's own end", err)
			}
		})
	})
	t.Run("no phone", func(t *testing.T) {
		r := command.Runner{Phones: phones{}, Guests: hang}
		if out, err := r.Run(t.Context(), command.Command{PhoneID: "p2", Line: "x", Timeout: time.Second}); out != nil || fault.Reason(err) != fault.NoSuchPhone {
			t.Errorf("%+v, %v", out, err)
		}
	})
}

func TestHandlerFailsForAnExitCode(t *testing.T) {
	r := command.Runner{Phones: phones{}, Guests: guests(func(_ context.Context, o container.ExecOptions) (uint32, error) {
		if o.ID != "op-7" {
			return 0, fmt.Errorf("the process is called %q", o.ID)
		}
		io.WriteString(o.Stderr, "no such thing")
		return 2, nil
	})}
	out, err := r.Handler().Do(t.Context(), job.Work{
		OperationID: "op-7", PhoneID: "p1", Payload: []byte(`{"line":"x","timeout":1000000000}`), Progress: func(string) {},
	})
	if fault.Reason(err) != command.ExitCode || out == nil || *out.ExitCode != 2 || string(out.Stderr) != "no such thing" {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestCheck(t *testing.T) {
	for name, tt := range map[string]struct {
		line    string
		timeout time.Duration
		ok      bool
	}{
		"good":      {"x", time.Second, true},
		"longest":   {strings.Repeat("x", command.MaxLine), time.Minute, true},
		"empty":     {"", time.Second, false},
		"too long":  {strings.Repeat("x", command.MaxLine+1), time.Second, false},
		"zero byte": {"a\x00b", time.Second, false},
		"no time":   {"x", 0, false},
		"too much":  {"x", time.Minute + 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := command.Check(tt.line, tt.timeout, time.Minute); (err == nil) != tt.ok || err != nil && fault.Reason(err) != fault.InvalidField {
				t.Errorf("%v, want accepted: %v", err, tt.ok)
			}
		})
	}
}
