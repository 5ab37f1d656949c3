package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/vm/control"
)

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"first/program": 0o755, "second/program": 0o755, "first/text": 0o644, "second/text": 0o755} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "first/directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := "PATH=" + dir + "/none:" + dir + "/first:" + dir + "/second"
	for name, test := range map[string]struct {
		name, want string
		env        []string
	}{
		"the first in the PATH":     {"program", dir + "/first/program", []string{path}},
		"the last PATH counts":      {"program", dir + "/second/program", []string{path, "X=PATH=/", "PATH=" + dir + "/second"}},
		"one that can be executed":  {"text", dir + "/second/text", []string{path}},
		"no directory":              {"directory", "", []string{path}},
		"no PATH":                   {"program", "", nil},
		"an absolute path":          {"/no/such/program", "/no/such/program", []string{path}},
		"a path from the directory": {"./program", "/dir/program", []string{path}},
		"a path out of it":          {"../x/program", "/x/program", []string{path}},
		"not there":                 {"no-such-program", "", []string{path}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := lookPath(test.name, test.env, "/dir")
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
			if err != nil && (!errdefs.IsNotFound(err) || !strings.Contains(err.Error(), test.name)) {
				t.Errorf("error %v, want ErrNotFound and the name", err)
			}
		})
	}
}

func TestCredential(t *testing.T) {
	for name, test := range map[string]struct {
		user string
		want *syscall.Credential
		is   func(error) bool
	}{
		"uid":               {"12", &syscall.Credential{Uid: 12, Gid: 12}, nil},
		"uid and gid":       {"12:34", &syscall.Credential{Uid: 12, Gid: 34}, nil},
		"the largest":       {"4294967295:0", &syscall.Credential{Uid: 1<<32 - 1}, nil},
		"too large":         {"4294967296", nil, errdefs.IsNotFound},
		"negative":          {"-1", nil, errdefs.IsNotFound},
		"gid that is none":  {"12:staff", nil, errdefs.IsInvalidArgument},
		"gid that is empty": {"12:", nil, errdefs.IsInvalidArgument},
		"nobody's name":     {"no-such-user", nil, errdefs.IsNotFound},
		"name and gid":      {"root:0", nil, errdefs.IsNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := credential(test.user)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("credential (-want +got):\n%s", diff)
			}
			if test.is == nil && err != nil || test.is != nil && (!test.is(err) || !strings.Contains(err.Error(), test.user)) {
				t.Errorf("error %v", err)
			}
		})
	}
	root, err := credential("root")
	if err != nil || root.Uid != 0 || root.Gid != 0 || !slices.Contains(root.Groups, 0) {
		t.Errorf("root is %+v, %v", root, err)
	}
}

// outcome is what a program came to.
type outcome struct {
	Code        int
	Out, Stderr string
}

// execute runs a program to its end.
func execute(t *testing.T, c *control.Client, cmd control.Command) outcome {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	code, err := c.Exec(bounded(t), cmd)
	if err != nil {
		t.Fatal(err)
	}
	return outcome{code, out.String(), stderr.String()}
}

func TestExec(t *testing.T) {
	c := connected(t)
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho script $1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	root := "/"
	if _, err := os.Stat("/root"); err == nil && os.Geteuid() == 0 {
		root = "/root"
	}
	for name, test := range map[string]struct {
		command control.Command
		want    outcome
	}{
		"success":            {control.Command{Args: []string{"echo", "a  b", "$x"}}, outcome{0, "a  b $x\n", ""}},
		"exit code":          {control.Command{Args: []string{"sh", "-c", "echo out; echo err >&2; exit 37"}}, outcome{37, "out\n", "err\n"}},
		"ended by a signal":  {control.Command{Args: []string{"sh", "-c", "kill -9 $$"}}, outcome{137, "", ""}},
		"environment":        {control.Command{Args: []string{"sh", "-c", "echo $A $B"}, Env: []string{"A=1", "B=2", "A=3"}}, outcome{0, "3 2\n", ""}},
		"own PATH":           {control.Command{Args: []string{"script", "x"}, Env: []string{"PATH=" + dir}}, outcome{0, "script x\n", ""}},
		"no directory":       {control.Command{Args: []string{"pwd"}}, outcome{0, root + "\n", ""}},
		"directory":          {control.Command{Args: []string{"./script", "y"}, Dir: dir}, outcome{0, "script y\n", ""}},
		"no input":           {control.Command{Args: []string{"cat"}}, outcome{0, "", ""}},
		"input":              {control.Command{Args: []string{"cat"}, Stdin: strings.NewReader("hello")}, outcome{0, "hello", ""}},
		"input not read":     {control.Command{Args: []string{"true"}, Stdin: strings.NewReader(strings.Repeat("x", 3<<20))}, outcome{0, "", ""}},
		"much input, output": {control.Command{Args: []string{"cat"}, Stdin: strings.NewReader(strings.Repeat("x", 3<<20))}, outcome{0, strings.Repeat("x", 3<<20), ""}},
		"own process group":  {control.Command{Args: []string{"sh", "-c", "[ $(ps -o pgid= -p $$) -eq $$ ] && echo own"}}, outcome{0, "own\n", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, execute(t, c, test.command)); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("one writer for both", func(t *testing.T) {
		var out bytes.Buffer
		if _, err := c.Exec(bounded(t), control.Command{Args: []string{"sh", "-c", "for i in $(seq 50); do echo out; echo err >&2; done"}, Stdout: &out, Stderr: &out}); err != nil {
			t.Fatal(err)
		}
		if want := strings.Repeat("out\nerr\n", 50); out.String() != want {
			t.Errorf("order of output: got %q", &out)
		}
	})
	t.Run("as another user", func(t *testing.T) {
		testenv.Root(t)
		want := outcome{0, "12 34 34 /\n", ""}
		if diff := cmp.Diff(want, execute(t, c, control.Command{Args: []string{"sh", "-c", "echo $(id -u) $(id -g) $(id -G) $PWD"}, User: "12:34"})); diff != "" {
			t.Errorf("outcome (-want +got):\n%s", diff)
		}
	})
}

func TestExecNotStarted(t *testing.T) {
	c := connected(t)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		command control.Command
		is      func(error) bool
	}{
		"no such name":    {control.Command{Args: []string{"no-such-program"}}, errdefs.IsNotFound},
		"no such path":    {control.Command{Args: []string{"/no/such/program"}}, errdefs.IsNotFound},
		"not executable":  {control.Command{Args: []string{text}}, errdefs.IsPermissionDenied},
		"no such user":    {control.Command{Args: []string{"true"}, User: "no-such-user"}, errdefs.IsNotFound},
		"no such dir":     {control.Command{Args: []string{"true"}, Dir: "/no/such"}, errdefs.IsNotFound},
		"with a terminal": {control.Command{Args: []string{"/no/such/program"}, Terminal: &control.Size{}}, errdefs.IsNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			before := openFiles(t)
			if code, err := c.Exec(bounded(t), test.command); !test.is(err) || code != -1 {
				t.Errorf("code %d, error %v", code, err)
			}
			if after := openFiles(t); after > before {
				t.Errorf("%d files are open, %d were before", after, before)
			}
		})
	}
}

// openFiles returns how many files this process has open.
func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestBusyProgram runs a program whose file is open for writing, for longer than a child that is about to exec would have it.
func TestBusyProgram(t *testing.T) {
	c := connected(t)
	program := filepath.Join(t.TempDir(), "program")
	path, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	if err := copyFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(program, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if code, err := c.Exec(bounded(t), control.Command{Args: []string{program}}); code != -1 || err == nil || !strings.Contains(err.Error(), "text file busy") {
		t.Errorf("code %d, error %v, want the kernel's", code, err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if code, err := c.Exec(bounded(t), control.Command{Args: []string{program}}); code != 0 || err != nil {
			t.Errorf("a file that is busy for a moment: code %d, error %v", code, err)
		}
	})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	running.Wait()
}

// TestGivenUp ends requests whose programs have children: all are killed.
func TestGivenUp(t *testing.T) {
	const script = "sleep 1000 & echo $!; echo $$; wait"
	why := errors.New("enough")
	for name, end := range map[string]func(*control.Client, context.CancelCauseFunc){
		"by the request's context": func(_ *control.Client, cancel context.CancelCauseFunc) { cancel(why) },
		"by the session's end":     func(c *control.Client, _ context.CancelCauseFunc) { c.Close() },
	} {
		for kind, size := range map[string]*control.Size{"": nil, " in a terminal": {Columns: 80, Rows: 25}} {
			t.Run(name+kind, func(t *testing.T) {
				c := connected(t)
				ctx, cancel := context.WithCancelCause(bounded(t))
				out := newLines()
				ended := make(chan error, 1)
				go func() {
					_, err := c.Exec(ctx, control.Command{Args: []string{"sh", "-c", script}, Terminal: size, Stdout: out})
					ended <- err
				}()
				child, parent := watch(t, <-out.to), watch(t, <-out.to)
				end(c, cancel)
				if err := <-ended; !errors.Is(err, why) && !errdefs.IsUnavailable(err) {
					t.Errorf("got %v", err)
				}
				ends(t, parent, "the program")
				ends(t, child, "its child")
			})
		}
	}
	t.Run("by a writer's error", func(t *testing.T) {
		c := connected(t)
		out := newLines()
		broken := errors.New("broken")
		_, err := c.Exec(bounded(t), control.Command{Args: []string{"sh", "-c", script}, Stdout: writerFunc(func(p []byte) (int, error) {
			out.Write(p)
			return 0, broken
		})})
		if !errors.Is(err, broken) {
			t.Errorf("got %v, want the writer's error", err)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

// TestSignals sends signals to a program and its children.
func TestSignals(t *testing.T) {
	c := connected(t)
	for name, test := range map[string]struct {
		script string
		signal syscall.Signal
		code   int
		heard  []string
	}{
		"one that is caught":     {"trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.01; done", syscall.SIGUSR1, 3, []string{"caught"}},
		"one that ends":          {"echo ready; exec sleep 1000", syscall.SIGTERM, 128 + 15, nil},
		"one that children hear": {"trap 'wait; echo parent; exit 4' TERM; (trap 'echo child; exit' TERM; echo ready; while :; do sleep 0.01; done) & wait", syscall.SIGTERM, 4, []string{"child", "parent"}},
	} {
		t.Run(name, func(t *testing.T) {
			signals := make(chan syscall.Signal)
			out := newLines()
			var code int
			var err error
			var running sync.WaitGroup
			running.Go(func() {
				code, err = c.Exec(bounded(t), control.Command{Args: []string{"sh", "-c", test.script}, Stdout: out, Signals: signals})
			})
			if line := <-out.to; line != "ready" {
				t.Errorf("the program said %q", line)
			}
			signals <- test.signal
			running.Wait()
			close(out.to)
			var heard []string
			for line := range out.to {
				heard = append(heard, line)
			}
			if diff := cmp.Diff(test.heard, heard); diff != "" || code != test.code || err != nil {
				t.Errorf("code %d, error %v, want %d; output (-want +got):\n%s", code, err, test.code, diff)
			}
		})
	}
}

// TestBackground leaves a child behind that has the program's output open and writes to it later: the request does not wait for it, and it
// is not ended by a closed pipe.
func TestBackground(t *testing.T) {
	c := connected(t)
	dir := t.TempDir()
	script := "mkfifo go done; (read x < go; echo late; echo late >&2; echo $? > done) & echo early"
	if diff := cmp.Diff(outcome{0, "early\n", ""}, execute(t, c, control.Command{Args: []string{"sh", "-c", script}, Dir: dir})); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(outcome{0, "0\n", ""}, execute(t, c, control.Command{Args: []string{"sh", "-c", "echo x > go; cat done"}, Dir: dir})); diff != "" {
		t.Errorf("what the child came to (-want +got):\n%s", diff)
	}
}

// TestTerminal has a program look at its terminal, be typed to, see a new size, and be interrupted by a key.
func TestTerminal(t *testing.T) {
	c := connected(t)
	sizes := make(chan control.Size)
	input, keys := io.Pipe()
	defer keys.Close()
	out := newLines()
	script := `tty; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; trap 'stty size' WINCH; read x; echo "read $x"
		while [ "$(stty size)" != "50 132" ]; do sleep 0.01; done; echo error >&2; exec sleep 1000`
	var code int
	var err error
	var running sync.WaitGroup
	running.Go(func() {
		code, err = c.Exec(bounded(t), control.Command{Args: []string{"sh", "-c", script}, Terminal: &control.Size{Columns: 100, Rows: 30}, Stdin: input, Resize: sizes, Stdout: out})
	})
	expect := func(want string) {
		t.Helper()
		if line := <-out.to; !strings.HasPrefix(line, want) {
			t.Errorf("the terminal shows %q, want %q", line, want)
		}
	}
	expect("/dev/pts/")
	expect("30 100")
	expect("all")
	fmt.Fprint(keys, "hello\r")
	expect("hello") // its echo
	expect("read hello")
	sizes <- control.Size{Columns: 132, Rows: 50}
	expect("50 132")
	expect("error")
	fmt.Fprint(keys, "\x03")
	running.Wait()
	if code != 128+int(syscall.SIGINT) || err != nil {
		t.Errorf("code %d, error %v, want the end by the key", code, err)
	}
}

// TestTerminalHangsUp ends a program whose child still has the terminal: the request ends, and the child with the terminal, if it does
// not ignore that.
func TestTerminalHangsUp(t *testing.T) {
	// A test that was started by nohup ignores the signal, and so would its programs.
	hangUps := make(chan os.Signal, 1)
	signal.Notify(hangUps, syscall.SIGHUP)
	defer signal.Stop(hangUps)
	c := connected(t)
	run := func(script string) (child int) {
		t.Helper()
		out := newLines()
		if code, err := c.Exec(bounded(t), control.Command{Args: []string{"sh", "-c", script}, Terminal: &control.Size{}, Stdout: out}); code != 6 || err != nil {
			t.Errorf("code %d, error %v", code, err)
		}
		if _, err := fmt.Sscan(<-out.to, &child); err != nil {
			t.Fatal(err)
		}
		return child
	}
	if n := run("sleep 1000 & echo $!; exit 6"); syscall.Kill(n, 0) == nil {
		ends(t, watch(t, fmt.Sprint(n)), "a child in a terminal that is gone")
	}
	n := run("trap '' HUP; sleep 1000 & echo $!; exit 6")
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Errorf("a child that ignores the hang-up: %v, want it to live on", err)
	}
}
