package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/container"
)

func startMessage(m *phonehostv1.ExecStart) *phonehostv1.ExecRequest {
	return &phonehostv1.ExecRequest{Message: &phonehostv1.ExecRequest_Start{Start: m}}
}

func stdinMessage(b []byte) *phonehostv1.ExecRequest {
	return &phonehostv1.ExecRequest{Message: &phonehostv1.ExecRequest_Stdin{Stdin: b}}
}

// exec sends messages and returns what comes back.
func (s *server) exec(t *testing.T, ctx context.Context, messages ...*phonehostv1.ExecRequest) (stdout, stderr string, code int32, err error) {
	t.Helper()
	call, err := s.phones.Exec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if err := call.Send(m); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	return output(call)
}

func output(call grpc.BidiStreamingClient[phonehostv1.ExecRequest, phonehostv1.ExecResponse]) (stdout, stderr string, code int32, err error) {
	code = -1
	for {
		m, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return stdout, stderr, code, nil
		}
		if err != nil {
			return stdout, stderr, code, err
		}
		switch v := m.GetMessage().(type) {
		case *phonehostv1.ExecResponse_Stdout:
			if len(v.Stdout) > maxChunk {
				return stdout, stderr, code, fmt.Errorf("chunk of %d bytes", len(v.Stdout))
			}
			stdout += string(v.Stdout)
		case *phonehostv1.ExecResponse_Stderr:
			stderr += string(v.Stderr)
		case *phonehostv1.ExecResponse_ExitCode:
			code = v.ExitCode
		}
	}
}

func TestExec(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	big := strings.Repeat("0123456789abcdef", 20000)
	var got container.ExecOptions
	s.guests.exec = func(_ context.Context, opts container.ExecOptions) (uint32, error) {
		got = opts
		in, err := io.ReadAll(opts.Stdin)
		if err != nil {
			return 0, err
		}
		_, err = fmt.Fprintf(opts.Stdout, "%s|%s", in, big)
		_, err2 := io.WriteString(opts.Stderr, "warn")
		return 42, errors.Join(err, err2)
	}
	stdout, stderr, code, err := s.exec(t, t.Context(),
		startMessage(&phonehostv1.ExecStart{
			PhoneId: "p1", Args: []string{"cat", "-"}, Env: []string{"A=b"}, Cwd: "/data", Uid: 1000, Terminal: true,
			Size: &phonehostv1.TerminalSize{Columns: 100, Rows: 40},
		}),
		stdinMessage([]byte("one ")), stdinMessage([]byte("two")),
		&phonehostv1.ExecRequest{Message: &phonehostv1.ExecRequest_StdinClosed{StdinClosed: true}})
	if err != nil || code != 42 || stderr != "warn" || stdout != "one two|"+big {
		t.Errorf("exit %d, %d bytes out, stderr %q, %v", code, len(stdout), stderr, err)
	}
	if !cmp.Equal(got.Args, []string{"cat", "-"}) || !cmp.Equal(got.Env, []string{"A=b"}) || got.Cwd != "/data" || got.UID != 1000 ||
		!got.Terminal || got.Width != 100 || got.Height != 40 {
		t.Errorf("options: %+v", got)
	}
}

func TestExecShellAndResize(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	s.guests.exec = func(ctx context.Context, opts container.ExecOptions) (uint32, error) {
		size := <-opts.Resize
		_, err := fmt.Fprintf(opts.Stdout, "%v %d x %d", opts.Args, size.Width, size.Height)
		return 0, err
	}
	stdout, _, code, err := s.exec(t, t.Context(), startMessage(&phonehostv1.ExecStart{PhoneId: "p1", Terminal: true}),
		&phonehostv1.ExecRequest{Message: &phonehostv1.ExecRequest_Resize{Resize: &phonehostv1.TerminalSize{Columns: 65535, Rows: 1}}})
	if err != nil || code != 0 || stdout != "[/system/bin/sh] 65535 x 1" {
		t.Errorf("%q %d %v", stdout, code, err)
	}
}

// TestExecEndsWithItsCall ends the call while the command runs: the command's context ends.
func TestExecEndsWithItsCall(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	killed := make(chan struct{})
	running := make(chan struct{})
	s.guests.exec = func(ctx context.Context, opts container.ExecOptions) (uint32, error) {
		close(running)
		<-ctx.Done()
		close(killed)
		return 0, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { <-running; cancel() }()
	_, _, _, err := s.exec(t, ctx, startMessage(&phonehostv1.ExecStart{PhoneId: "p1", Args: []string{"sleep"}}))
	if readError(t, err).Code != codes.Canceled {
		t.Errorf("error %v", err)
	}
	<-killed
}

func TestExecRefuses(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	s.create(t, "off")
	s.guests.exec = func(ctx context.Context, opts container.ExecOptions) (uint32, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	field := func(name string) refusal { return refusal{codes.InvalidArgument, fault.InvalidField, name} }
	good := startMessage(&phonehostv1.ExecStart{PhoneId: "p1", Args: []string{"x"}})
	bad := func(m *phonehostv1.ExecStart) []*phonehostv1.ExecRequest {
		m.PhoneId = "p1"
		return []*phonehostv1.ExecRequest{startMessage(m)}
	}
	tests := []struct {
		name     string
		messages []*phonehostv1.ExecRequest
		want     refusal
	}{
		{"no start", []*phonehostv1.ExecRequest{stdinMessage([]byte("x"))}, field("start")},
		{"unknown phone", []*phonehostv1.ExecRequest{startMessage(&phonehostv1.ExecStart{PhoneId: "x"})}, refusal{Code: codes.NotFound, Reason: fault.NoSuchPhone}},
		{"phone that is off", []*phonehostv1.ExecRequest{startMessage(&phonehostv1.ExecStart{PhoneId: "off"})}, refusal{Code: codes.FailedPrecondition, Reason: fault.NotRunning}},
		{"no command", bad(&phonehostv1.ExecStart{}), field("start.args")},
		{"empty command", bad(&phonehostv1.ExecStart{Args: []string{""}}), field("start.args")},
		{"long command", bad(&phonehostv1.ExecStart{Args: []string{"x", strings.Repeat("y", maxArgs)}}), field("start.args")},
		{"zero byte", bad(&phonehostv1.ExecStart{Args: []string{"x\x00"}}), field("start.args")},
		{"environment", bad(&phonehostv1.ExecStart{Args: []string{"x"}, Env: []string{"=x"}}), field("start.env")},
		{"terminal size", bad(&phonehostv1.ExecStart{Args: []string{"x"}, Size: &phonehostv1.TerminalSize{Columns: 65536, Rows: 1}}), field("start.size")},
		{"second start", []*phonehostv1.ExecRequest{good, good}, field("message")},
		{"big input", []*phonehostv1.ExecRequest{good, stdinMessage(bytes.Repeat([]byte("x"), maxChunk+1))}, field("stdin")},
		{"resize to nothing", []*phonehostv1.ExecRequest{good, {Message: &phonehostv1.ExecRequest_Resize{Resize: &phonehostv1.TerminalSize{}}}}, field("resize")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, _, _, err := s.exec(t, ctx, tt.messages...)
			if got := readError(t, err); got != tt.want {
				t.Errorf("got %+v (%v), want %+v", got, err, tt.want)
			}
		})
	}
}

func TestLogs(t *testing.T) {
	s := start(t)
	s.create(t, "p1")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	long := strings.Repeat("é", maxChunk)
	var asked string
	s.guests.lines = func(_ context.Context, role container.Role, opts container.LogOptions, send func(container.LogLine) error) error {
		asked = fmt.Sprint(role, opts.Follow, opts.TailLines)
		for i := range 5000 {
			if err := send(container.LogLine{Time: at, Stream: "stdout", Text: fmt.Sprintf("line %d", i)}); err != nil {
				return err
			}
		}
		return errors.Join(
			send(container.LogLine{Time: at, Stream: "stderr", Text: "bad \xff byte"}),
			send(container.LogLine{Time: at, Stream: "stdout", Text: long}),
			send(container.LogLine{Time: at, Stream: "stdout"}))
	}
	call, err := s.phones.Logs(t.Context(), &phonehostv1.LogsRequest{PhoneId: "p1", Source: phonehostv1.LogSource_LOG_SOURCE_DISPLAY, TailLines: 9})
	if err != nil {
		t.Fatal(err)
	}
	var lines []*phonehostv1.LogLine
	messages := 0
	for {
		m, err := call.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		messages++
		size := 0
		for _, l := range m.GetLines() {
			size += len(l.GetText())
		}
		if size > maxChunk {
			t.Errorf("a message carries %d bytes of lines", size)
		}
		lines = append(lines, m.GetLines()...)
	}
	if asked != "display false 9" {
		t.Errorf("asked for %s", asked)
	}
	var cut string
	for _, l := range lines[5001 : len(lines)-1] {
		cut += l.GetText()
	}
	if len(lines) < 5003 || lines[4999].GetText() != "line 4999" || !lines[5000].GetStderr() || lines[5000].GetText() != "bad \uFFFD byte" || cut != long {
		t.Errorf("%d lines, the long one comes as %d of %d bytes", len(lines), len(cut), len(long))
	}
	if messages > 2000 {
		t.Errorf("%d lines came in %d messages", len(lines), messages)
	}
}

func TestLogsFollow(t *testing.T) {
	s := start(t)
	s.create(t, "p1")
	seen := make(chan struct{})
	s.guests.lines = func(ctx context.Context, _ container.Role, _ container.LogOptions, send func(container.LogLine) error) error {
		for range 3 {
			if err := send(container.LogLine{Stream: "stdout", Text: "x"}); err != nil {
				return err
			}
			<-seen // each line arrives before the next is printed
		}
		<-ctx.Done()
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	call, err := s.phones.Logs(ctx, &phonehostv1.LogsRequest{PhoneId: "p1", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if m, err := call.Recv(); err != nil || len(m.GetLines()) != 1 {
			t.Fatalf("%v %v", m, err)
		}
		seen <- struct{}{}
	}
	cancel()
	if _, err := call.Recv(); readError(t, err).Code != codes.Canceled {
		t.Errorf("after the caller ended it: %v", err)
	}
}
