package asset

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// helper names, in the environment, what a second process of this test binary does in the cache of the directory after it.
const helper = "PHONEHOST_ASSET_HELPER"

func TestMain(m *testing.M) {
	if what, dir, ok := strings.Cut(os.Getenv(helper), " "); ok {
		if err := help(what, dir); err != nil {
			fmt.Println("error:", err)
		}
		return
	}
	os.Exit(m.Run())
}

// help is the second process. It tells by lines how far it is, and goes on when a line comes or its standard input ends.
func help(what, dir string) error {
	if what == "full" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			return err
		}
	}
	c, err := Open(dir, slog.New(teller{slog.DiscardHandler}))
	if err != nil {
		return err
	}
	defer c.Close()
	path, err := c.Build(context.Background(), "thing", Hash("1"), func(_ context.Context, temp string) error {
		if err := os.WriteFile(filepath.Join(temp, "file"), make([]byte, 4<<20), 0o644); err != nil {
			return err
		}
		fmt.Println("building")
		return pause()
	})
	if err != nil {
		return err
	}
	fmt.Println("have", filepath.Base(path))
	return pause()
}

func pause() error {
	_, err := os.Stdin.Read(make([]byte, 1))
	if err == io.EOF {
		return nil
	}
	return err
}

// teller prints what is logged.
type teller struct{ slog.Handler }

func (teller) Enabled(context.Context, slog.Level) bool { return true }
func (teller) Handle(_ context.Context, r slog.Record) error {
	fmt.Println("log:", r.Message)
	return nil
}

// process is a second process at work in a cache.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
}

func start(t *testing.T, what, dir string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.CommandContext(t.Context(), exe)}
	p.cmd.Env = append(os.Environ(), helper+"="+what+" "+dir)
	if what == "full" {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	return p
}

// wait reads until a line that begins with want.
func (p *process) wait(want string) string {
	p.t.Helper()
	for p.lines.Scan() {
		if line := p.lines.Text(); strings.HasPrefix(line, want) {
			return line
		} else if strings.HasPrefix(line, "error:") {
			p.t.Fatalf("the second process: %s, want %q", line, want)
		}
	}
	p.t.Fatalf("the second process ended without saying %q: %v", want, p.lines.Err())
	return ""
}

func (p *process) next() {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, "\n"); err != nil {
		p.t.Fatal(err)
	}
}

// end lets the process finish, and waits for it.
func (p *process) end() {
	p.stdin.Close()
	p.cmd.Wait()
}

func TestTwoProcessesBuildOnce(t *testing.T) {
	dir := t.TempDir()
	first := start(t, "build", dir)
	first.wait("building")
	second := start(t, "build", dir)
	second.wait("log: another process works on a VM asset")
	first.next()
	have := first.wait("have ")
	for second.lines.Scan() {
		line := second.lines.Text()
		if line == "building" {
			t.Fatal("the second process builds too")
		}
		if strings.HasPrefix(line, "have ") {
			if line != have {
				t.Errorf("they have %q and %q", have, line)
			}
			return
		}
	}
	t.Fatal("the second process has nothing")
}

func TestKilledBuild(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "build", dir)
	p.wait("building")
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.cmd.Wait()
	if left, _ := os.ReadDir(filepath.Join(dir, buildDir)); len(left) != 1 {
		t.Fatalf("a killed build left %v: the test shows nothing", left)
	}
	c := open(t, dir)
	if left, _ := os.ReadDir(filepath.Join(dir, buildDir)); len(left) != 0 {
		t.Errorf("opening the cache left %v", left)
	}
	path, err := c.Build(t.Context(), "thing", Hash("1"), fill("whole"))
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(path, "file")); string(text) != "whole" {
		t.Errorf("content of %d bytes", len(text))
	}
}

func TestKilledBuildIsClearedByTheNext(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir) // before the build is killed
	p := start(t, "build", dir)
	p.wait("building")
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.cmd.Wait()
	if _, err := c.Build(t.Context(), "thing", Hash("1"), fill("whole")); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, buildDir)); len(left) != 0 {
		t.Errorf("building left %v", left)
	}
}

func TestCleanRefusesWhileInUse(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "build", dir)
	p.wait("building")
	check := func(when string) {
		t.Helper()
		err := open(t, dir).Clean()
		if want := "pid " + strconv.Itoa(p.cmd.Process.Pid); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a refusal that names %s", when, err, want)
		}
	}
	check("while it builds")
	p.next()
	p.wait("have ")
	check("while it is used")
	p.end()
	if err := open(t, dir).Clean(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "lock" {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := open(t, dir).Build(t.Context(), "thing", Hash("1"), fill("again")); err != nil {
		t.Error(err)
	}
}

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a small file system can be mounted by root only")
	}
	p := start(t, "full", t.TempDir())
	for p.lines.Scan() {
		line := p.lines.Text()
		if !strings.HasPrefix(line, "error:") {
			continue
		}
		for _, want := range []string{"thing-", "no space left", "MiB left", "PHONEHOST_VM_CACHE"} {
			if !strings.Contains(line, want) {
				t.Errorf("%q lacks %q", line, want)
			}
		}
		return
	}
	t.Error("a build on a full disk succeeded")
}
