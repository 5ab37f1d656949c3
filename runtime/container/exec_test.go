package container_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/container"
)

func TestExec(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	ctx := t.Context()
	if _, err := h.engine.Exec(ctx, "p1", container.ExecOptions{Args: []string{"true"}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec without a guest = %v", err)
	}
	h.start(p)
	for _, tt := range []struct {
		name           string
		o              container.ExecOptions
		stdin          string
		code           uint32
		stdout, stderr string
	}{
		{name: "output", o: container.ExecOptions{Args: []string{"echo", "hello", "world"}}, stdout: "hello world\n"},
		{name: "both outputs", o: container.ExecOptions{Args: []string{"sh", "-c", "echo out; echo err >&2"}}, stdout: "out\n", stderr: "err\n"},
		{name: "exit code", o: container.ExecOptions{Args: []string{"sh", "-c", "exit 42"}}, code: 42},
		{name: "input", o: container.ExecOptions{Args: []string{"cat"}}, stdin: strings.Repeat("0123456789abcdef", 64<<10), stdout: strings.Repeat("0123456789abcdef", 64<<10)},
		{name: "environment", o: container.ExecOptions{Args: []string{"sh", "-c", "echo $GREETING $ANDROID_DATA"}, Env: []string{"GREETING=hi"}}, stdout: "hi /data\n"},
		{name: "directory", o: container.ExecOptions{Args: []string{"pwd"}, Cwd: "/data"}, stdout: "/data\n"},
		{name: "user", o: container.ExecOptions{Args: []string{"sh", "-c", "id -u"}, UID: 2000}, stdout: "2000\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			tt.o.Stdout, tt.o.Stderr = &stdout, &stderr
			if tt.stdin != "" {
				tt.o.Stdin = strings.NewReader(tt.stdin)
			}
			code, err := h.engine.Exec(ctx, "p1", tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if code != tt.code || stdout.String() != tt.stdout || stderr.String() != tt.stderr {
				t.Errorf("exit %d, want %d; stdout %.80q, want %.80q; stderr %.80q, want %.80q",
					code, tt.code, stdout.String(), tt.stdout, stderr.String(), tt.stderr)
			}
		})
	}

	t.Run("a program that does not exist", func(t *testing.T) {
		_, err := h.engine.Exec(ctx, "p1", container.ExecOptions{Args: []string{"no-such-program"}})
		if !errdefs.IsNotFound(err) {
			t.Errorf("exec = %v, want not found", err)
		}
	})
	t.Run("no program", func(t *testing.T) {
		if _, err := h.engine.Exec(ctx, "p1", container.ExecOptions{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("exec = %v, want an invalid argument", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		started := &firstWrite{signal: cancel}
		_, err := h.engine.Exec(ctx, "p1", container.ExecOptions{Args: []string{"sh", "-c", "echo begun; sleep 1000"}, Stdout: started})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("exec = %v, want cancelled", err)
		}
		if left := h.files("run/exec/*"); len(left) != 0 {
			t.Errorf("pipes left: %v", left)
		}
	})
	t.Run("a child that keeps the output open", func(t *testing.T) {
		code, err := h.engine.Exec(ctx, "p1", container.ExecOptions{Args: []string{"sh", "-c", "sleep 1000 & echo done"}, Stdout: io.Discard})
		if err != nil || code != 0 {
			t.Errorf("exec = %d, %v", code, err)
		}
	})
	t.Run("one writer for both outputs", func(t *testing.T) {
		const lines = 2000
		var both bytes.Buffer
		line := "i=0; while [ $i -lt 2000 ]; do echo line; echo line >&2; i=$((i+1)); done"
		if code, err := h.engine.Exec(ctx, "p1", container.ExecOptions{Args: []string{"sh", "-c", line}, Stdout: &both, Stderr: &both}); err != nil || code != 0 {
			t.Fatalf("exec = %d, %v", code, err)
		}
		// All bytes came once. A piece that is copied may end within a line, and then the other stream's stand in between.
		for _, letter := range "line\n" {
			if got := strings.Count(both.String(), string(letter)); got != 2*lines || both.Len() != 2*lines*len("line\n") {
				t.Errorf("%q %d times in %d bytes, want %d", letter, got, both.Len(), 2*lines)
			}
		}
	})
	t.Run("a writer that keeps little", func(t *testing.T) {
		var kept firstBytes
		if code, err := h.engine.Exec(ctx, "p1", container.ExecOptions{Args: []string{"cat"}, Stdin: strings.NewReader(strings.Repeat("0123456789", 10_000)), Stdout: &kept}); err != nil || code != 0 {
			t.Fatalf("exec = %d, %v", code, err)
		}
		if kept.String() != "01234" {
			t.Errorf("kept %d bytes, want 5", kept.Len())
		}
	})
	t.Run("terminal", func(t *testing.T) { testTerminal(t, h) })
}

// firstBytes keeps the first five bytes that are written; its ReadFrom, which is the buffer's, would keep all.
type firstBytes struct{ bytes.Buffer }

func (f *firstBytes) Write(p []byte) (int, error) {
	f.Buffer.Write(p[:min(len(p), 5-f.Len())])
	return len(p), nil
}

// firstWrite calls signal at the first write.
type firstWrite struct{ signal func() }

func (f *firstWrite) Write(p []byte) (int, error) {
	f.signal()
	return len(p), nil
}

// lineWriter passes on what is written.
type lineWriter struct{ lines chan string }

func (l *lineWriter) Write(p []byte) (int, error) {
	l.lines <- string(p)
	return len(p), nil
}

// testTerminal types on a terminal and resizes it.
func testTerminal(t *testing.T, h *host) {
	h.put("p1", probe(t, runtime.GOARCH), "/data/probe")
	stdin, keys := io.Pipe()
	defer keys.Close()
	out := &lineWriter{lines: make(chan string, 100)}
	resize := make(chan container.Size)
	type result struct {
		code uint32
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := h.engine.Exec(t.Context(), "p1", container.ExecOptions{
			Args: []string{"/data/probe", "size"}, Terminal: true, Width: 100, Height: 30, Stdin: stdin, Stdout: out, Resize: resize,
		})
		done <- result{code, err}
	}()
	var seen strings.Builder
	expect := func(want string) {
		t.Helper()
		limit := time.After(30 * time.Second)
		for !strings.Contains(seen.String(), want) {
			select {
			case text := <-out.lines:
				seen.WriteString(text)
			case r := <-done:
				t.Fatalf("the program ended with %+v before %q: %q", r, want, seen.String())
			case <-limit:
				t.Fatalf("no %q on the terminal: %q", want, seen.String())
			}
		}
		seen.Reset()
	}
	expect("size 30 100")
	resize <- container.Size{Width: 120, Height: 40}
	expect("size 40 120")
	io.WriteString(keys, "\n")
	limit := time.After(30 * time.Second)
	for {
		select {
		case <-out.lines:
		case r := <-done:
			if r.code != 3 || r.err != nil {
				t.Errorf("the program ended with %+v, want 3", r)
			}
			return
		case <-limit:
			t.Fatal("the program did not end")
		}
	}
}

// TestExecLeavesNoProcess ends a command that has children, by its caller and as what a dead agent has left.
func TestExecLeavesNoProcess(t *testing.T) {
	h := newHost(t)
	h.start(h.phone("p1", 0))
	family := []string{"sh", "-c", "sleep 1001 & sleep 1001 & wait"}
	sleeping := func() int {
		_, out := h.exec("p1", "ps")
		return strings.Count(out, "  sleep ")
	}
	waitFor := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); sleeping() != n; {
			if time.Now().After(deadline) {
				_, out := h.exec("p1", "ps")
				t.Fatalf("want %d processes that sleep:\n%s", n, out)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() {
		_, err := h.engine.Exec(ctx, "p1", container.ExecOptions{Args: family})
		done <- err
	}()
	waitFor(2)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("exec = %v, want cancelled", err)
	}
	waitFor(0)

	if err := h.engine.EndExec(t.Context(), "p1", "op-1"); !errdefs.IsNotFound(err) {
		t.Errorf("end of what never was = %v, want not found", err)
	}
	go func() {
		_, err := h.engine.Exec(t.Context(), "p1", container.ExecOptions{ID: "op-1", Args: family})
		done <- err
	}()
	waitFor(2)
	if err := h.engine.EndExec(t.Context(), "p1", "op-1"); err != nil {
		t.Fatal(err)
	}
	<-done
	waitFor(0)
}
