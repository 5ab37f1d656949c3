package container_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/container"
)

// TestGuestRootAndCgroup finds a guest's root directory while it runs, and its cgroup from before its start until the phone goes.
func TestGuestRootAndCgroup(t *testing.T) {
	h := newHost(t)
	ctx := t.Context()
	p := h.phone("p1", 0)
	if _, _, err := h.engine.GuestCgroup("p1"); !errdefs.IsNotFound(err) && !errdefs.IsNotImplemented(err) {
		t.Errorf("cgroup of a phone that was not started: %v", err)
	}
	if _, err := h.engine.GuestRoot(ctx, "p1"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("root of a guest that does not run: %v", err)
	}
	h.start(p)
	root, err := h.engine.GuestRoot(ctx, "p1")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := h.engine.Exec(ctx, "p1", container.ExecOptions{Args: []string{"sh", "-c", "echo here > /data/mark"}}); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Openat2(int(root.Fd()), "/data/mark", &unix.OpenHow{Flags: unix.O_RDONLY, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		t.Fatalf("what the guest has written: %v", err)
	}
	unix.Close(fd)
	cgroup, dir, err := h.engine.GuestCgroup("p1")
	if errdefs.IsNotImplemented(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Ino != cgroup {
		t.Errorf("cgroup %d is %s: %v, inode %d", cgroup, dir, err, st.Ino)
	}
	if procs, err := os.ReadFile(filepath.Join(dir, "ctr", "cgroup.procs")); err != nil || len(procs) == 0 {
		t.Errorf("the guest's processes are not below it: %q %v", procs, err)
	}
}
