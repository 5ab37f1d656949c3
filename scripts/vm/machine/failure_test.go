package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/lab"
	"golang.org/x/sys/unix"
)

func TestVMRestarts(t *testing.T) {
	c := config(t, "amd64", "6.12")
	c.Dir = filepath.Join(t.TempDir(), strings.Repeat("a-long-name-", 10)) // longer than a socket's path may be
	m := started(t, c)
	boots := map[string]bool{}
	next := func(what string) {
		t.Helper()
		g, err := m.Guest()
		if err != nil || boots[g.BootID] {
			t.Errorf("after %s: boot %s, %v: want a new one", what, g.BootID, err)
		}
		boots[g.BootID] = true
	}
	next("the start")
	wait := func(what string) {
		t.Helper()
		if err := m.WaitBoot(bounded(t)); err != nil {
			t.Fatalf("after %s: %v", what, err)
		}
		next(what)
	}

	// lost starts a line of shell that the guest's end will interrupt, and returns when it is about to be carried out.
	running := make(chan error, 1)
	lost := func(line string) {
		t.Helper()
		input, more := io.Pipe()
		ready := make(chan struct{}, 1)
		go func() {
			_, err := m.Exec(bounded(t), control.Command{
				Args: []string{"sh", "-c", "echo; read x; " + line}, Stdin: input,
				Stdout: writer(func(p []byte) (int, error) { ready <- struct{}{}; return len(p), nil }),
			})
			running <- err
		}()
		<-ready
		fmt.Fprintln(more)
	}
	lost("sleep 1000")
	if err := m.Reset(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-running; !errdefs.IsUnavailable(err) {
		t.Errorf("a program that ran when the computer was reset: %v, want ErrUnavailable", err)
	}
	wait("a reset")

	lost("echo c > /proc/sysrq-trigger; sleep 1000")
	if err := <-running; !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "Kernel panic - not syncing: sysrq") {
		t.Errorf("a program that ran when the kernel panicked: %v, want ErrUnavailable and the kernel's words", err)
	}
	wait("a panic")

	if err := m.Reboot(bounded(t)); err != nil {
		t.Fatal(err)
	}
	wait("Reboot")
	lost("reboot; sleep 1000") // busybox asks process 1
	<-running
	wait("reboot in the guest")

	if err := m.PowerOff(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Exec(bounded(t), control.Command{Args: []string{"true"}}); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "turned off") {
		t.Errorf("a machine that is off: %v", err)
	}
	if err := m.WaitBoot(bounded(t)); !errdefs.IsUnavailable(err) {
		t.Errorf("wait for a machine that is off: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(c.Dir)
	if err != nil || len(left) != 1 || left[0].Name() != serialFile {
		t.Errorf("left in a directory that the caller named: %v, %v, want the serial log alone", left, err)
	}
}

// TestVMHang stops the guest's processors: requests must end with their contexts, and go on when the guest does.
func TestVMHang(t *testing.T) {
	m := started(t, config(t, "amd64", "6.12"))
	why := errors.New("the guest hangs")
	// It stops in the middle of what a program writes.
	writing, giveUp := context.WithCancelCause(t.Context())
	flows := make(chan struct{})
	flowing := sync.OnceFunc(func() { close(flows) })
	ended := make(chan error, 1)
	go func() {
		_, err := m.Exec(writing, control.Command{Args: []string{"cat", "/dev/zero"}, Stdout: writer(func(p []byte) (int, error) {
			flowing()
			return len(p), nil
		})})
		ended <- err
	}()
	select {
	case <-flows:
	case err := <-ended:
		t.Fatal(err)
	}
	if err := m.QMP(bounded(t), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	giveUp(why)
	if err := <-ended; !errors.Is(err, why) {
		t.Errorf("a program that writes: %v, want the context's cause", err)
	}
	for name, request := range map[string]func(context.Context) error{
		"exec": func(ctx context.Context) error {
			_, err := m.Exec(ctx, control.Command{Args: []string{"true"}})
			return err
		},
		"put": func(ctx context.Context) error { return m.Put(ctx, "/tmp/x", 0o644, io.LimitReader(zeros{}, 64<<20)) },
		"dial": func(ctx context.Context) error {
			_, err := m.Dial(ctx, "tcp", "127.0.0.1:1")
			return err
		},
		"wait": m.WaitBoot,
	} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, why)
		if err := request(ctx); !errors.Is(err, why) {
			t.Errorf("%s: %v, want the context's cause", name, err)
		}
		cancel()
	}
	if err := m.QMP(bounded(t), "cont", nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, m, "echo again"); got != "again" {
		t.Errorf("got %q", got)
	}
}

func TestVMQEMUKilled(t *testing.T) {
	m := started(t, config(t, "amd64", "6.12"))
	ready := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		_, err := m.Exec(bounded(t), control.Command{Args: []string{"sh", "-c", "echo; sleep 1000"}, Stdout: writer(func(p []byte) (int, error) {
			ready <- struct{}{}
			return len(p), nil
		})})
		ended <- err
	}()
	<-ready
	if err := unix.Kill(m.process.cmd.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-m.Done()
	if err := <-ended; !errdefs.IsUnavailable(err) {
		t.Errorf("a program that ran: %v, want ErrUnavailable", err)
	}
	_, err := m.Exec(bounded(t), control.Command{Args: []string{"true"}})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("a program after that: %v, want ErrUnavailable and the signal", err)
	}
	dir := m.Dir()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory %s is left: %v", dir, err)
	}
}

// helperEnv makes TestVMHostKilled the process that is killed; it is the name of its slots and the directory of its cache.
const helperEnv = "PHONEHOST_TEST_MACHINE_HELPER"

func TestVMHostKilled(t *testing.T) {
	c := config(t, "amd64", "6.12")
	if slots, dir, ok := strings.Cut(os.Getenv(helperEnv), " "); ok {
		c.slots, c.Cache = slots, openCache(t, dir)
		m := started(t, c)
		fmt.Printf("\nmachine %d %s\n", m.process.cmd.Process.Pid, m.Dir())
		<-t.Context().Done()
		return
	}
	c.slots = ownSlots()
	dir := t.TempDir()
	helper := exec.Command(os.Args[0], "-test.run=^TestVMHostKilled$", "-test.timeout=5m")
	helper.Env = append(os.Environ(), helperEnv+"="+c.slots+" "+dir)
	out, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var machineDir string
	for lines := bufio.NewScanner(out); machineDir == "" && lines.Scan(); {
		fmt.Sscanf(lines.Text(), "machine %d %s", &pid, &machineDir)
	}
	if machineDir == "" {
		t.Fatalf("the helper started no machine: %v", helper.Wait())
	}
	qemu, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(qemu)
	if err := helper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	helper.Wait()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(qemu), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Errorf("QEMU %d lives on after its host process: %v", pid, err)
	}
	// The next machine, here one that is not even started, finds both slots free and removes the directory.
	c.Cache = openCache(t, dir)
	for range Slots {
		m, err := prepare(bounded(t), c)
		if err != nil {
			t.Fatal(err)
		}
		defer m.release()
	}
	if _, err := os.Stat(machineDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory %s is left: %v", machineDir, err)
	}
}

func openCache(t *testing.T, dir string) *asset.Cache {
	t.Helper()
	cache, err := asset.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	return cache
}

func TestVMBadBoots(t *testing.T) {
	good := config(t, "amd64", "6.12")
	good.Accelerator = TCG
	rubbish := filepath.Join(t.TempDir(), "rubbish")
	if err := os.WriteFile(rubbish, []byte(strings.Repeat("rubbish ", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"kernel that panics":       {func(c *Config) { c.Variant.Cmdline = []string{"rdinit=/none", "root=/dev/none"} }, "Kernel panic"},
		"initrd of rubbish":        {func(c *Config) { c.Initrd = lab.Initrd{Path: rubbish} }, "the guest restarted before it answered"},
		"modules of rubbish":       {func(c *Config) { c.Kernel.Modules = rubbish }, "the machine cannot boot"},
		"kernel of rubbish":        {func(c *Config) { c.Kernel.Image = rubbish }, "QEMU ended"},
		"memory that is not there": {func(c *Config) { c.MemoryMiB = 1 << 30 }, "QEMU ended"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			test.change(&c)
			err := prepared(t, c).start(bounded(t))
			if err == nil {
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want words about %q", err, test.want)
			}
		})
	}
	t.Run("boot that takes too long", func(t *testing.T) {
		c := good
		c.Variant.Cmdline = []string{"rdinit=/bin/sh"} // which reads the console, where nobody types
		m := prepared(t, c)
		why := errors.New("too long")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 4*time.Second, why)
		defer cancel()
		err := m.start(ctx)
		if err == nil {
			t.Fatal("it started")
		}
		if !errors.Is(err, why) || !strings.Contains(err.Error(), "serial log") {
			t.Errorf("got %v, want the context's cause and the serial log", err)
		}
	})
}

// TestVMSlots starts more machines than run at once, out of two caches.
func TestVMSlots(t *testing.T) {
	c := config(t, "amd64", "6.12")
	c.Cache, c.Accelerator, c.slots = openCache(t, t.TempDir()), TCG, ownSlots()
	other := c
	other.Cache = openCache(t, t.TempDir())
	first, second := started(t, c), started(t, other)
	said := make(chan string, 1)
	c.Logger = slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		if strings.Contains(string(p), "waiting for a machine to end") {
			said <- string(p)
		}
		return len(p), nil
	}), nil))
	third := make(chan *Machine, 1)
	go func() {
		m, err := Start(bounded(t), c)
		if err != nil {
			t.Error(err)
		}
		third <- m
	}()
	if line := <-said; !strings.Contains(line, fmt.Sprint("pid ", os.Getpid())) {
		t.Errorf("who holds the slots is not told: %s", line)
	}
	why := errors.New("enough waited")
	ctx, cancel := context.WithCancelCause(t.Context())
	other.Logger = slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) { cancel(why); return len(p), nil }), nil))
	if _, err := Start(ctx, other); !errors.Is(err, why) {
		t.Errorf("a wait for a slot that is given up: %v", err)
	}
	select {
	case <-third:
		t.Error("three machines run at once")
	default:
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if m := <-third; m != nil {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, second, "true")
}
