package volume

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv"
)

// actEnv has the test binary do something to the volume that it names ("attach PATH"), say that it is at it, and wait to be killed.
const actEnv = "PHONEHOST_VOLUME_TEST_ACT"

const ready = "ready\n"

func TestMain(m *testing.M) {
	act, path, ok := strings.Cut(os.Getenv(actEnv), " ")
	if !ok {
		os.Exit(m.Run())
	}
	if err := perform(context.Background(), act, path); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Print(ready)
	select {}
}

func perform(ctx context.Context, act, path string) error {
	switch act {
	case "attach":
		_, err := Attach(ctx, path)
		return err
	case "mount":
		m, err := Open(ctx, path, false)
		if err != nil {
			return err
		}
		return m.Root().WriteFile("written", nil, 0o600)
	case "fill":
		return CreateWith(ctx, path, MinBytes, func(_ context.Context, root *os.Root) error {
			if err := root.WriteFile("half", nil, 0o600); err != nil {
				return err
			}
			fmt.Print(ready)
			select {}
		})
	case "unprivileged":
		runtime.LockOSThread() // capabilities are a thread's
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		if err := unix.Capget(&header, &sets[0]); err != nil {
			return err
		}
		sets[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
		if err := unix.Capset(&header, &sets[0]); err != nil {
			return err
		}
		_, err := Open(ctx, path, false)
		if !errdefs.IsPermissionDenied(err) {
			return fmt.Errorf("no refusal: %w", err)
		}
		return err
	case "program":
		image, err := lock(ctx, path, unix.LOCK_EX, 0)
		if err != nil {
			return err
		}
		_, _, err = run(ctx, image, "sh", "-c", `echo $$ > "$0"; exec sleep 1000`, path+".pid")
		return err
	default:
		return fmt.Errorf("no act %q", act)
	}
}

// start runs an act in a process of its own.
func start(t *testing.T, act, path string) (*exec.Cmd, io.Reader) {
	t.Helper()
	testenv.Root(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), actEnv+"="+act+" "+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// killed runs an act in a process of its own and kills that when it is at it.
func killed(t *testing.T, act, path string) {
	t.Helper()
	cmd, out := start(t, act, path)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != ready {
		t.Errorf("the process said %q, %v", line, err)
	}
	kill(t, cmd)
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // it was killed
}

func newVolume(t *testing.T) string {
	t.Helper()
	testenv.Tool(t, "mkfs.ext4")
	path := filepath.Join(t.TempDir(), "data-1.img")
	if err := Create(t.Context(), path, MinBytes); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAKilledProcessLeavesNothingLocked kills one that has attached or mounted a volume.
func TestAKilledProcessLeavesNothingLocked(t *testing.T) {
	for _, act := range []string{"attach", "mount"} {
		t.Run(act, func(t *testing.T) {
			path := newVolume(t)
			killed(t, act, path)
			l, err := Attach(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAKilledProcessLeavesNoHalfVolume kills one that is filling a new volume.
func TestAKilledProcessLeavesNoHalfVolume(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data-1.img")
	killed(t, "fill", path)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a volume that is half made is there: %v", err)
	}
	if err := Create(t.Context(), path, MinBytes); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(path + ".*"); len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
	m, err := Open(t.Context(), path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Root().Stat("half"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what the killed process wrote is in the next volume: %v", err)
	}
}

// TestAProgramKeepsTheLock kills a process whose program works on an image: nobody else does before the program has ended.
func TestAProgramKeepsTheLock(t *testing.T) {
	path := newVolume(t)
	if err := unix.Mkfifo(path+".pid", 0o600); err != nil {
		t.Fatal(err)
	}
	cmd, _ := start(t, "program", path)
	text, err := os.ReadFile(path + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	kill(t, cmd)
	if _, err := tryLock(path, unix.LOCK_SH); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("with the program at work the lock is had: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Attach(cancelled, path); !errors.Is(err, context.Canceled) {
		t.Errorf("Attach = %v, want that it waits until its context ends", err)
	}
	attached := make(chan error, 1)
	go func() {
		l, err := Attach(t.Context(), path)
		if err == nil {
			err = l.Close()
		}
		attached <- err
	}()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-attached; err != nil {
		t.Errorf("Attach after the program's end: %v", err)
	}
}

// TestOpenSaysWhoRefuses mounts without the capability that it needs.
func TestOpenSaysWhoRefuses(t *testing.T) {
	path := newVolume(t)
	cmd, out := start(t, "unprivileged", path)
	text, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // it fails, as it says
	for _, want := range []string{path, "CAP_SYS_ADMIN", "seccomp"} {
		if !strings.Contains(string(text), want) || strings.Contains(string(text), "no refusal") {
			t.Errorf("%q does not say %q", text, want)
		}
	}
	l, err := Attach(t.Context(), path)
	if err != nil {
		t.Fatalf("the refusal has left the volume in use: %v", err)
	}
	l.Close()
}

func TestRefusedByAnOldKernel(t *testing.T) {
	if err := refused("fsopen", unix.ENOSYS); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "Linux 5.2") {
		t.Errorf("ENOSYS: %v", err)
	}
}

func TestClipKeepsBothEnds(t *testing.T) {
	var c clip
	for range 10_000 {
		fmt.Fprint(&c, "middle ")
	}
	fmt.Fprint(&c, "end")
	if s := c.String(); !strings.HasPrefix(s, "middle ") || !strings.HasSuffix(s, " end") || len(s) > 2*clipBytes+16 {
		t.Errorf("%d bytes: %.20q...%q", len(s), s, s[len(s)-20:])
	}
	var short clip
	fmt.Fprint(&short, " whole ")
	if s := short.String(); s != "whole" {
		t.Errorf("%q", s)
	}
}
