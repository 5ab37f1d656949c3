package qmp

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// TestQEMU speaks to a QEMU that has no machine.
func TestQEMU(t *testing.T) {
	qemu := testenv.Tool(t, "qemu-system-x86_64")
	ours, theirs := pair(t)
	file, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	theirs.Close()
	cmd := exec.CommandContext(t.Context(), qemu, "-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control")
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	file.Close()
	var came events
	c, err := New(t.Context(), ours, came.take)
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	defer c.Close()

	var version struct {
		QEMU struct{ Major int } `json:"qemu"`
	}
	if err := c.Call(t.Context(), "query-version", nil, &version); err != nil || version.QEMU.Major < 5 {
		t.Errorf("version %+v, %v", version, err)
	}
	var status struct {
		Status  string
		Running bool
	}
	if err := c.Call(t.Context(), "query-status", nil, &status); err != nil || status.Running {
		t.Errorf("status %+v, %v", status, err)
	}
	var refused *Error
	if err := c.Call(t.Context(), "no-such-command", nil, nil); !errors.As(err, &refused) || refused.Class != "CommandNotFound" || !strings.Contains(refused.Desc, "no-such-command") {
		t.Errorf("a command that is none: %v", err)
	}
	if err := c.Call(t.Context(), "device_add", map[string]any{"driver": "no-such-device"}, nil); !errors.As(err, &refused) || refused.Class != "GenericError" {
		t.Errorf("arguments that are wrong: %v", err)
	}
	kept, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	if err := c.SendFile(t.Context(), "kept", kept); err != nil {
		t.Error(err)
	}
	if err := c.Call(t.Context(), "closefd", map[string]string{"fdname": "kept"}, nil); err != nil {
		t.Errorf("QEMU has not the file that it was sent: %v", err)
	}
	if err := c.Call(t.Context(), "cont", nil, nil); err != nil {
		t.Error(err)
	}
	if err := c.Call(t.Context(), "quit", nil, nil); err != nil && !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	<-c.Done()
	if err := <-ended; err != nil {
		t.Errorf("QEMU ended with %v\n%s", err, &stderr)
	}
	if names := strings.Join(came.names(), "\n"); !strings.Contains(names, "RESUME") || !strings.Contains(names, `SHUTDOWN {"guest": false, "reason": "host-qmp-quit"}`) {
		t.Errorf("events:\n%s", names)
	}
	if _, err := ours.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the connection is left open: %v", err)
	}
}
