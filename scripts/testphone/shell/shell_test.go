package shell

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// asShell makes the test program be the shell.
const asShell = "TESTPHONE_TEST_SHELL"

func TestMain(m *testing.M) {
	if os.Getenv(asShell) != "" {
		os.Exit(Main(context.Background(), Streams{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// run runs the shell with an input.
func run(t *testing.T, input string, args ...string) (code int, out, messages string) {
	t.Helper()
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := w.WriteString(input); err != nil {
		t.Fatal(err)
	}
	w.Close()
	// Files, because the programs of a pipe write at the same time.
	var files [2]*os.File
	for i := range files {
		if files[i], err = os.Create(filepath.Join(t.TempDir(), "out")); err != nil {
			t.Fatal(err)
		}
		defer files[i].Close()
	}
	code = Main(t.Context(), Streams{in, files[0], files[1]}, args)
	var text [2]string
	for i, f := range files {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		text[i] = string(b)
	}
	return code, text[0], text[1]
}

func TestCommands(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("echo $0 is $1 of $#\nexit 4\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		title, input string
		args         []string
		code         int
		out          string
	}{
		{"command", "", []string{"-c", "echo hello"}, 0, "hello\n"},
		{"exit status", "", []string{"-c", "exit 3"}, 3, ""},
		{"arguments", "", []string{"-c", "echo $1 $2", "name", "a", "b c"}, 0, "a b c\n"},
		{"options of commands are not the shell's", "", []string{"-c", "echo $1", "name", "-x"}, 0, "-x\n"},
		{"pipes and loops", "", []string{"-c", "for i in 3 1 2; do echo $i; done | sort | head -n 1"}, 0, "1\n"},
		{"and, or", "", []string{"-c", "false || echo a && echo b"}, 0, "a\nb\n"},
		{"here document", "", []string{"-c", "cat <<E\n$((6*7))\nE\n"}, 0, "42\n"},
		{"stop at errors", "", []string{"-e", "-c", "false; echo no"}, 1, ""},
		{"not found", "", []string{"-c", "no-such-command"}, 127, ""},
		{"killed", "", []string{"-c", "sh -c 'kill -KILL $$'"}, 137, ""},
		{"syntax error", "", []string{"-c", "if"}, 2, ""},
		{"no command", "", []string{"-c"}, 2, ""},
		{"script", "", []string{script, "x", "y"}, 4, script + " is x of 2\n"},
		{"no script", "", []string{script + "none"}, 1, ""},
		{"input", "echo one\necho two\n", nil, 0, "one\ntwo\n"},
	} {
		t.Run(test.title, func(t *testing.T) {
			code, out, messages := run(t, test.input, test.args...)
			if test.title == "script" { // the interpreter has no $0 but its own
				out = out[strings.Index(out, " is "):]
				test.out = test.out[strings.Index(test.out, " is "):]
			}
			if code != test.code || out != test.out {
				t.Errorf("exit %d, output %q, want %d, %q; messages %q", code, out, test.code, test.out, messages)
			}
		})
	}
}

// terminal is a shell on a terminal of its own.
type terminal struct {
	t    *testing.T
	end  *os.File
	seen strings.Builder
	cmd  *exec.Cmd
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	end := os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { end.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile("/dev/pts/"+strconv.Itoa(int(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asShell+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return &terminal{t: t, end: end, cmd: cmd}
}

// expect reads until a text is seen after what was expected before.
func (x *terminal) expect(text string) {
	x.t.Helper()
	buf := make([]byte, 4096)
	for !strings.Contains(x.seen.String(), text) {
		n, err := x.end.Read(buf)
		if err != nil {
			x.t.Fatalf("%q is not seen, but %q: %v", text, x.seen.String(), err)
		}
		x.seen.Write(buf[:n])
	}
	_, rest, _ := strings.Cut(x.seen.String(), text)
	x.seen.Reset()
	x.seen.WriteString(rest)
}

func (x *terminal) enter(keys string) {
	x.t.Helper()
	if _, err := x.end.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) exits() int {
	x.t.Helper()
	err := x.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		x.t.Fatal(err)
	}
	return x.cmd.ProcessState.ExitCode()
}

func TestInteractive(t *testing.T) {
	x := openTerminal(t)
	x.expect("# ")
	x.enter("echo $((40+2))\r")
	x.expect("\n42\r\n")
	x.expect("# ")
	x.enter("for i in a b; do\r")
	x.expect("> ")
	x.enter("echo -$i-; done\r")
	x.expect("-a-\r\n-b-\r\n")
	x.expect("# ")
	x.enter("echo )\r")
	x.expect("sh: ")
	x.expect("# ")
	x.enter("typo\x03") // interrupt drops the line
	x.expect("# ")
	x.enter("echo up\r")
	x.expect("\nup\r\n")
	x.expect("# ")
	x.enter("\x1b[A\r") // the line before again
	x.expect("\nup\r\n")
	x.expect("# ")
	x.enter("false\r")
	x.expect("# ")
	x.enter("\x04") // end of input
	if got := x.exits(); got != 1 {
		t.Errorf("exit status %d, want that of the last command", got)
	}
}

func TestInterruptEndsTheCommandOnly(t *testing.T) {
	for title, command := range map[string]string{"program": "sh -c 'echo start; sleep 1000'", "loop": "echo start; while true; do true; done"} {
		t.Run(title, func(t *testing.T) {
			x := openTerminal(t)
			x.expect("# ")
			x.enter(command + "\r")
			x.expect("\nstart\r\n")
			x.enter("\x03")
			x.expect("# ")
			x.enter("exit 130\r")
			if got := x.exits(); got != 130 {
				t.Errorf("exit status %d", got)
			}
		})
	}
}
