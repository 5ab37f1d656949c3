package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// goleakTests runs the tests and then looks for goroutines that they left behind.
type goleakTests struct{ m *testing.M }

func (g goleakTests) Run() int {
	code := g.m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestMain also makes the test binary a phonectl with a clock of its own, for the scripts that need a process: terminals,
// pipes and signals.
func TestMain(m *testing.M) {
	testscript.Main(goleakTests{m}, map[string]func(){"phonectl": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(Run(ctx, Config{
			Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
			Now: func() time.Time { return testNow }, Version: cmpString(os.Getenv("TEST_VERSION"), "1.0.0"),
		}))
	}})
}

func cmpString(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// TestScripts runs testdata/script/*.txtar, each against a fake agent of its own. Beside testscript's commands they have:
//
//	exits CODE ARGS...     runs phonectl in this process and compares its exit code; `exec phonectl` runs one of its own
//	inputs WORDS...        compares the input that the phone got since the last time, joined by ", "
//	need TOOL              skips the script where a tool is missing, and fails it where that was promised
//	hung                   waits until a command hangs in the guest
//	finding error          gives the host an error for the doctor to find
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			agent, stop := startFakeAgent(env.T().(testing.TB))
			env.Defer(stop)
			env.Values["agent"], env.Values["t"] = agent, env.T()
			env.Setenv("PHONEHOST_HOST", "unix://"+agent.socket)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				if code := runScripted(ts, args[1:]); code != want {
					ts.Fatalf("exit code %d, want %d", code, want)
				}
			},
			"inputs": func(ts *testscript.TestScript, _ bool, args []string) {
				streams := &ts.Value("agent").(*fakeAgent).streams
				streams.mu.Lock()
				defer streams.mu.Unlock()
				if got := strings.Join(streams.inputs, ", "); got != strings.Join(args, " ") {
					ts.Fatalf("the phone got %s", got)
				}
				streams.inputs = nil
			},
			"need": func(ts *testscript.TestScript, _ bool, args []string) {
				testenv.Tool(ts.Value("t").(testing.TB), args[0])
			},
			"hung": func(ts *testscript.TestScript, _ bool, _ []string) {
				<-ts.Value("agent").(*fakeAgent).hung
			},
			"finding": func(ts *testscript.TestScript, _ bool, _ []string) {
				agent := ts.Value("agent").(*fakeAgent)
				agent.mu.Lock()
				defer agent.mu.Unlock()
				agent.findings = append(agent.findings, &phonehostv1.Finding{
					Check: "containerd", Severity: phonehostv1.Severity_SEVERITY_ERROR, Message: "does not answer", Remedy: "systemctl start containerd",
				})
			},
		},
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_GOLDENS") != "",
	})
}

// runScripted runs phonectl in this process for a script.
func runScripted(ts *testscript.TestScript, args []string) int {
	return Run(context.Background(), Config{
		Args: args, Stdout: ts.Stdout(), Stderr: ts.Stderr(), Getenv: ts.Getenv,
		Now: func() time.Time { return testNow }, Version: cmpString(ts.Getenv("TEST_VERSION"), "1.0.0"),
	})
}

// result is what one run of phonectl in this process did.
type result struct {
	code           int
	stdout, stderr string
}

// runWith runs phonectl against an agent.
func runWith(ctx context.Context, agent *fakeAgent, stdin io.Reader, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := Run(ctx, Config{
		Args: args, Stdin: stdin, Stdout: &stdout, Stderr: &stderr, Version: "1.0.0",
		Getenv: func(name string) string {
			if name == "PHONEHOST_HOST" {
				return "unix://" + agent.socket
			}
			return ""
		},
		Now: func() time.Time { return testNow },
	})
	return result{code, stdout.String(), stderr.String()}
}

// withPhone starts a fake agent that has one running phone, cp-1.
func withPhone(t *testing.T) *fakeAgent {
	t.Helper()
	agent, stop := startFakeAgent(t)
	t.Cleanup(stop)
	agent.images.add("testphone", fakeDigest, 1)
	for _, args := range [][]string{{"create", "cp-1", "--image", "testphone"}, {"on", "cp-1"}} {
		if r := runWith(t.Context(), agent, nil, args...); r.code != 0 {
			t.Fatalf("%v: %+v", args, r)
		}
	}
	return agent
}

func TestPipeThatNobodyReadsEndsSilently(t *testing.T) {
	agent := withPhone(t)
	var stderr bytes.Buffer
	code := Run(t.Context(), Config{
		Args: []string{"--host", "unix://" + agent.socket, "ls"}, Stdout: failingWriter{syscall.EPIPE}, Stderr: &stderr,
	})
	if code != exitFailed || stderr.Len() != 0 {
		t.Errorf("exit code %d, said %q; want 1 and nothing", code, &stderr)
	}
}

func TestFullDiskIsAnError(t *testing.T) {
	agent := withPhone(t)
	var stderr bytes.Buffer
	code := Run(t.Context(), Config{
		Args: []string{"--host", "unix://" + agent.socket, "ls"}, Stdout: failingWriter{syscall.ENOSPC}, Stderr: &stderr,
	})
	if code != exitFailed || !strings.Contains(stderr.String(), "no space left") {
		t.Errorf("exit code %d, said %q", code, &stderr)
	}
}

// failingWriter refuses everything.
type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "stdout", Err: w.err}
}

// TestWaitThatEndsEarlySaysHowToGoOn ends waits for an operation once its progress has been seen: by Ctrl-C, and because their time is up.
func TestWaitThatEndsEarlySaysHowToGoOn(t *testing.T) {
	tests := []struct {
		name string
		args []string
		end  error
		want string
	}{
		{"interrupted", []string{"on", "stuck-1"}, context.Canceled, "interrupted"},
		{"late", []string{"on", "stuck-1", "--timeout", "1h"}, context.DeadlineExceeded, "not done within --timeout 1h0m0s"},
		{"wait interrupted", []string{"ops", "wait", "op-2"}, context.Canceled, "interrupted"},
		{"wait late", []string{"ops", "wait", "op-2", "--timeout", "1h"}, context.DeadlineExceeded, "not done within --timeout 1h0m0s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			agent := withPhone(t)
			if r := runWith(t.Context(), agent, nil, "create", "stuck-1", "--image", "testphone"); r.code != 0 {
				t.Fatalf("%+v", r)
			}
			if tt.args[0] == "ops" {
				if r := runWith(t.Context(), agent, nil, "on", "--no-wait", "stuck-1"); r.code != 0 {
					t.Fatalf("%+v", r)
				}
			}
			ctx := endedContext{t.Context(), tt.end, make(chan struct{})}
			end := sync.OnceFunc(func() { close(ctx.done) })
			defer end()
			stderr := &watchedWriter{on: "waiting for boot completed", do: end}
			code := Run(ctx, Config{Args: append([]string{"--host", "unix://" + agent.socket}, tt.args...), Stdout: io.Discard, Stderr: stderr})
			want := tt.want + "; op-2 goes on, wait for it again: `phonectl ops wait op-2`"
			if code != exitFailed || !strings.Contains(stderr.String(), want) {
				t.Errorf("exit code %d, said %q; want 1 and %q", code, stderr, want)
			}
		})
	}
}

// endedContext ends with err when done is closed: a context whose time is up at a moment that the test chooses.
type endedContext struct {
	context.Context
	err  error
	done chan struct{}
}

func (c endedContext) Done() <-chan struct{} { return c.done }

func (c endedContext) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// String is what was written.
func (w *watchedWriter) String() string { return w.text.String() }

// watchedWriter keeps what is written and does something once a text has come.
type watchedWriter struct {
	text strings.Builder
	on   string
	do   func()
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.text.Write(p)
	if strings.Contains(w.String(), w.on) {
		w.do()
	}
	return n, err
}

func TestFollowersEndWellWhenInterrupted(t *testing.T) {
	tests := []struct {
		name string
		args []string
		on   string
	}{
		{"watch phones", []string{"ls", "-w"}, "cp-1"},
		{"watch phones as JSON", []string{"ls", "-w", "-o", "json"}, `{"synced":true}`},
		{"follow logs", []string{"logs", "-f", "cp-1"}, "followed"},
		{"follow events", []string{"events", "-f"}, "cp-1 has booted"},
		{"follow flows", []string{"net", "flows", "cp-1", "-f"}, "closed"},
		{"follow flows as JSON", []string{"net", "flows", "cp-1", "-f", "-o", "json"}, `"state":"FLOW_STATE_CLOSED"`},
		{"follow denials", []string{"net", "denials", "-f"}, "169.254.169.254        80     protected    metadata  default  4"},
		{"follow denials of apps", []string{"applist", "denials", "-f"}, "network  com.a                     10002    4"},
		{"follow denials of apps as JSON", []string{"applist", "denials", "cp-1", "--follow", "-o", "json"}, `"kind":"APP_DENIAL_KIND_NETWORK"`},
		{"follow denials as JSON", []string{"net", "denials", "cp-1", "--follow", "-o", "json"}, `"packets":"4"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			agent := withPhone(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stdout := &watchedWriter{on: tt.on, do: cancel}
			var stderr bytes.Buffer
			code := Run(ctx, Config{Args: append([]string{"--host", "unix://" + agent.socket}, tt.args...), Stdout: stdout, Stderr: &stderr})
			if code != exitDone || stderr.Len() > 0 || !strings.Contains(stdout.String(), tt.on) {
				t.Errorf("exit code %d, printed %q, said %q", code, stdout, &stderr)
			}
		})
	}
}

// TestMissedLinesAreTold follows flows that come faster than they can be shown.
func TestMissedLinesAreTold(t *testing.T) {
	agent := withPhone(t)
	if r := runWith(t.Context(), agent, nil, "create", "cp-2", "--image", "testphone"); r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stderr bytes.Buffer
	code := Run(ctx, Config{
		Args: []string{"--host", "unix://" + agent.socket, "net", "flows", "cp-2", "-f"}, Stdout: &watchedWriter{on: "closed", do: cancel}, Stderr: &stderr,
	})
	if want := "3 flows were missed: they came faster than they could be shown\n"; code != exitDone || stderr.String() != want {
		t.Errorf("exit code %d, said %q, want %q", code, &stderr, want)
	}
}

func TestWatchPrintsChangesAndDeletions(t *testing.T) {
	agent := withPhone(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	step := 0
	stdout := &watchedWriter{}
	stdout.on, stdout.do = "cp-1", func() {
		// Each thing that is printed sets off the next change, in a goroutine of the agent's watch.
		switch text := stdout.String(); {
		case step == 0 && strings.Contains(text, "2 RUNNING"):
			step++
			if r := runWith(ctx, agent, nil, "off", "cp-1"); r.code != 0 {
				t.Errorf("off: %+v", r)
			}
		case step == 1 && strings.Contains(text, "5 POWERED_OFF"):
			step++
			if r := runWith(ctx, agent, nil, "rm", "cp-1"); r.code != 0 {
				t.Errorf("rm: %+v", r)
			}
		case step == 2 && strings.Contains(text, "deleted"):
			cancel()
		}
	}
	code := Run(ctx, Config{Args: []string{"--host", "unix://" + agent.socket, "ls", "-w"}, Stdout: stdout, Stderr: io.Discard})
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if code != exitDone || len(lines) != 4 {
		t.Errorf("exit code %d, printed\n%s", code, stdout)
	}
}

func TestAgentThatGoesAwayIsNoSuccess(t *testing.T) {
	agent, stop := startFakeAgent(t)
	agent.images.add("testphone", fakeDigest, 1)
	if r := runWith(t.Context(), agent, nil, "create", "cp-1", "--image", "testphone"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	stopped := make(chan struct{})
	var once sync.Once
	stdout := &watchedWriter{on: "followed", do: func() { once.Do(func() { go func() { stop(); close(stopped) }() }) }}
	var stderr bytes.Buffer
	code := Run(t.Context(), Config{Args: []string{"--host", "unix://" + agent.socket, "logs", "-f", "cp-1"}, Stdout: stdout, Stderr: &stderr})
	<-stopped
	if code != exitFailed || stderr.Len() == 0 {
		t.Errorf("exit code %d, said %q; want 1 and words", code, &stderr)
	}
}
