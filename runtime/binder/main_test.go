package binder_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	guest "github.com/phonehost/phonehost/scripts/testphone/binder"
)

// manageEnv has the test binary be the service manager of the device that it names, until its input ends.
const manageEnv = "PHONEHOST_BINDER_TEST_MANAGE"

const managed = "managed"

func TestMain(m *testing.M) {
	device := os.Getenv(manageEnv)
	if device == "" {
		os.Exit(m.Run())
	}
	if err := manageUntilEOF(device); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func manageUntilEOF(device string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		_, _ = bufio.NewReader(os.Stdin).ReadString(0)
	}()
	err := guest.ServeManager(ctx, device, slog.New(slog.NewTextHandler(managedWriter{}, nil)))
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// managedWriter turns the first message of a service manager into a line that manage waits for.
type managedWriter struct{}

func (managedWriter) Write(b []byte) (int, error) {
	fmt.Println(managed)
	return len(b), nil
}

// manage makes another process the service manager of a device. stop ends it.
func manage(t *testing.T, device string) (stop func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), manageEnv+"="+device)
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("service manager of %s: %v", device, err)
		}
	}
	t.Cleanup(stop)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if strings.TrimSpace(line) != managed {
		t.Fatalf("service manager of %s says %q %v", device, line, err)
	}
	return stop
}

// ping calls the context manager of a device from this process.
func ping(t *testing.T, device string) error {
	t.Helper()
	return guest.Do(device, nil, func(c *guest.Conn) error { return c.Ping(t.Context(), 0) })
}

// nodeDir is a directory in which device nodes open, as in a guest's /dev.
func nodeDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// guestRoot is a directory like a guest's root that has a binderfs of its own, mounted with options.
func guestRoot(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	mountPoint := filepath.Join(dir, "dev", "binderfs")
	if err := os.MkdirAll(mountPoint, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("binder", mountPoint, "binder", unix.MS_NOSUID|unix.MS_NOEXEC, options); err != nil {
		t.Fatalf("mount binderfs with %q: %v", options, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mountPoint, 0); err != nil {
			t.Errorf("unmount binderfs: %v", err)
		}
	})
	return dir
}
