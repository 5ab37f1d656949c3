// Package host runs the programs of this machine that the VM lab is built with: apt's, dpkg's, mke2fs, depmod, compressors.
//
// A program never outlives the process that started it: it is killed with its context, and by the kernel when the process is killed.
// Its standard error is not shown but told in the error. Everything runs in the C locale.
package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// Command is one run of a program.
type Command struct {
	// Name is the program: a path, or a name that is looked for in the PATH and the directories of system programs.
	Name string
	Args []string
	// Dir is the working directory: "" is this process's.
	Dir string
	// Env is added to this process's environment, and overrides it.
	Env []string
	// Stdin and Stdout may be nil: nothing is read, what is written is thrown away.
	Stdin  io.Reader
	Stdout io.Writer
}

// packages are the Debian packages of programs whose name is not their package's.
var packages = map[string]string{
	"apt-get": "apt", "/usr/lib/apt/apt-helper": "apt", "dpkg-deb": "dpkg", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs", "depmod": "kmod",
	"xz": "xz-utils", "ldconfig": "libc-bin", "qemu-img": "qemu-utils", "qemu-system-x86_64": "qemu-system-x86",
	"qemu-system-aarch64": "qemu-system-arm", "cp": "coreutils", "busybox": "busybox-static",
}

// Look finds a program. If it is not there, the error is ErrNotFound and names the Debian package that has it.
func Look(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	if !strings.Contains(name, "/") {
		for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s is not installed: it is in the Debian package %s (scripts/deps vm installs it): %w", name, packageOf(name), errdefs.ErrNotFound)
}

// packageOf is the Debian package that has a program.
func packageOf(name string) string {
	if pkg := packages[name]; pkg != "" {
		return pkg
	}
	cpu, compiler := strings.CutSuffix(name, "-linux-gnu-gcc")
	switch own := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]; {
	case !compiler:
		return name
	case cpu == own:
		return "gcc"
	}
	return "gcc-" + strings.ReplaceAll(cpu, "_", "-") + "-linux-gnu"
}

// Run runs a program to its end. An exit status other than 0 is an *Error; a done context is its cause.
func Run(ctx context.Context, c Command) error {
	return Pipe(ctx, c)
}

// Output runs a program and returns what it wrote to its standard output.
func Output(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := Run(ctx, Command{Name: name, Args: args, Stdout: &out})
	return out.Bytes(), err
}

// Pipe runs programs side by side, each reading what the one before it writes, and returns when all have ended. Of several that fail
// it returns the last one's error: the others mostly fail since nobody reads what they write.
func Pipe(ctx context.Context, commands ...Command) error {
	// The kernel sends the parent-death signal when the thread that forked ends, so it must live as long as the programs.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var runs []*run
	var between io.ReadCloser
	var failed error
	for i, c := range commands {
		r := &run{name: filepath.Base(c.Name)}
		var next *os.File
		next, failed = r.prepare(ctx, c, between, i < len(commands)-1)
		if failed == nil {
			failed = r.cmd.Start()
		}
		if between != nil {
			between.Close()
			between = nil
		}
		if r.writer != nil {
			r.writer.Close()
		}
		if next != nil {
			between = next
		}
		if failed != nil {
			if cause := context.Cause(ctx); cause != nil {
				failed = cause
			}
			failed = fmt.Errorf("start %s: %w", r.name, failed)
			break
		}
		runs = append(runs, r)
	}
	if between != nil {
		between.Close() // whoever writes to it ends with EPIPE
	}
	for _, r := range slices.Backward(runs) {
		if err := r.wait(ctx); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}

// run is one running program.
type run struct {
	name   string
	cmd    *exec.Cmd
	stderr tail
	writer *os.File
}

func (r *run) prepare(ctx context.Context, c Command, stdin io.Reader, piped bool) (next *os.File, err error) {
	path, err := Look(c.Name)
	if err != nil {
		return nil, err
	}
	r.cmd = exec.CommandContext(ctx, path, c.Args...)
	r.cmd.Dir, r.cmd.Env = c.Dir, append(append(os.Environ(), "LC_ALL=C"), c.Env...)
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = c.Stdin, c.Stdout, &r.stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.cmd.WaitDelay = 5 * time.Second
	if stdin != nil {
		r.cmd.Stdin = stdin
	}
	if piped {
		if next, r.writer, err = os.Pipe(); err != nil {
			return nil, err
		}
		r.cmd.Stdout = r.writer
	}
	return next, nil
}

func (r *run) wait(ctx context.Context) error {
	err := r.cmd.Wait()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%s: %w", r.name, cause)
	}
	return &Error{Program: r.name, Stderr: r.stderr.String(), Err: err}
}

// Error is a program that did not end well.
type Error struct {
	// Program is its name without directory.
	Program string
	// Stderr is the end of its standard error, at most 16 KiB.
	Stderr string
	// Err is what os/exec says.
	Err error
}

func (e *Error) Error() string {
	if text := strings.TrimSpace(e.Stderr); text != "" {
		return fmt.Sprintf("%s: %v: %s", e.Program, e.Err, brief(text))
	}
	return fmt.Sprintf("%s: %v", e.Program, e.Err)
}

// Unwrap gives the *exec.ExitError.
func (e *Error) Unwrap() error { return e.Err }

// Stderr is the end of the standard error of the program that err tells of, or "".
func Stderr(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Stderr
	}
	return ""
}

// brief is the first and the last lines of a long text.
func brief(text string) string {
	const some = 4
	lines := strings.Split(text, "\n")
	if len(lines) > 2*some {
		lines = slices.Concat(lines[:some], []string{"..."}, lines[len(lines)-some:])
	}
	return strings.Join(lines, "\n")
}

// tail keeps the end of what is written to it.
type tail struct {
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const most = 16 << 10
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*most {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-most:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	return strings.ToValidUTF8(string(t.kept), "?")
}
