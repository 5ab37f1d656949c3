package container_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/container"
)

// TestPhonesOutliveContainerd kills containerd while a phone runs: nothing is reported as an exit, and the phone is found again.
func TestPhonesOutliveContainerd(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := h.engine.Events(ctx)
	if e := <-events; e.Kind != container.Back {
		t.Fatalf("the first event is %v", e)
	}
	p := h.phone("p1", 0)
	h.start(p)
	h.booted("p1")
	before := h.observe("p1")

	h.containerd.Kill()
	if e := <-events; e.Kind != container.Lost {
		t.Errorf("after the kill: %+v", e)
	}
	if _, err := h.engine.Observe(ctx, "p1"); !errdefs.IsUnavailable(err) {
		t.Errorf("Observe = %v, want unavailable", err)
	}
	if _, err := h.engine.Version(ctx); !errdefs.IsUnavailable(err) {
		t.Errorf("Version = %v, want unavailable", err)
	}
	for name, err := range map[string]error{
		"Prepare of another generation": h.engine.Prepare(ctx, h.phone("p2", 1)),
		"StartGuest":                    h.engine.StartGuest(ctx, p),
		"Kill":                          h.engine.Kill(ctx, "p1", container.Guest),
		"RemoveGuest":                   h.engine.RemoveGuest(ctx, "p1"),
		"Destroy":                       h.engine.Destroy(ctx, "p1"),
	} {
		if !errdefs.IsUnavailable(err) {
			t.Errorf("%s = %v, want unavailable", name, err)
		}
	}
	for _, pid := range []uint32{before.Guest.PID, before.Display.PID} {
		if err := unix.Kill(int(pid), 0); err != nil {
			t.Errorf("process %d: %v", pid, err)
		}
	}

	h.containerd.Restart()
	if e := <-events; e.Kind != container.Back {
		t.Errorf("after the restart: %+v", e)
	}
	if diff := cmp.Diff(before, h.observe("p1"), cmpopts.IgnoreFields(container.Task{}, "StartedAt")); diff != "" {
		t.Errorf("after the restart: %s", diff)
	}
	// The same shim serves the guest's next boot, and its exit is an event again.
	h.exec("p1", "reboot")
	if e := waitEvent(t, events, container.Exited); e.PhoneID != "p1" || e.ExitCode != 129 {
		t.Errorf("exit = %+v, want 129", e)
	}
	h.start(p)
	if after := h.observe("p1"); after.Display.PID != before.Display.PID || after.Guest.State != container.TaskRunning {
		t.Errorf("after a reboot: %+v", after)
	}
	h.booted("p1")
}

// TestExitWhileContainerdIsAwayIsObserved ends the guest while nobody can tell: it is found stopped, with its exit code.
func TestExitWhileContainerdIsAwayIsObserved(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	h.booted("p1")
	pid := int(h.observe("p1").Guest.PID)
	h.containerd.Kill()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); err != nil {
		t.Fatal(err)
	}
	h.containerd.Restart()
	o := h.observe("p1")
	if o.Guest.State != container.TaskStopped || o.Guest.ExitCode != 137 || o.Display.State != container.TaskRunning {
		t.Errorf("after the restart: %+v", o)
	}
}

// TestShimThatDiesTakesItsPhoneAlong kills the shim: containerd cleans up, and the phone starts anew.
func TestShimThatDiesTakesItsPhoneAlong(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := h.engine.Events(ctx)
	waitEvent(t, events, container.Back)
	p := h.phone("p1", 0)
	h.start(p)
	shims := h.containerd.Shims()
	if len(shims) != 1 {
		t.Fatalf("shims: %v", shims)
	}
	if err := unix.Kill(shims[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended := map[container.Role]bool{}
	for len(ended) < 2 {
		ended[waitEvent(t, events, container.Exited).Role] = true
	}
	h.start(p)
	h.booted("p1")
}

func TestEventsEndWithTheirContext(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	events := h.engine.Events(ctx)
	waitEvent(t, events, container.Back)
	cancel()
	for range events {
	}
}

// TestHalfRemovedTaskDirectory leaves what a containerd leaves that is killed while it removes the directories of tasks: the phone
// starts all the same.
func TestHalfRemovedTaskDirectory(t *testing.T) {
	h := newHost(t)
	state := filepath.Join(filepath.Dir(h.config.Address), "state", "io.containerd.runtime.v2.task", h.config.Namespace)
	for _, name := range []string{"p1", ".p1", "p1.display", ".p1.display"} {
		if err := os.MkdirAll(filepath.Join(state, name, "rootfs"), 0o711); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(state, name, "config.json"), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.start(h.phone("p1", 0))
	h.booted("p1")
	for _, name := range []string{".p1", ".p1.display"} {
		if _, err := os.Stat(filepath.Join(state, name)); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}
