package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// GuestCgroup returns the id and the directory of the cgroup that all of a guest is below, in cgroup v2. It is there from Prepare on, before the
// guest's first process, and stays when the guest has ended. ErrNotFound: the phone has no cgroups; ErrNotImplemented: this host has no
// cgroup v2.
func (e *Engine) GuestCgroup(id string) (cgroup uint64, dir string, err error) {
	if dir, err = e.cgroups.GuestDir(id); err != nil {
		return 0, "", err
	}
	cgroup, err = e.cgroups.GuestID(id)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, "", fmt.Errorf("cgroup of %s: %w", id, errdefs.ErrNotFound)
	}
	return cgroup, dir, err
}

// GuestRoot opens the root directory of a running guest (O_PATH), which the caller closes. Whatever is looked for below it is the guest's: its
// links and mounts are not to be followed (openat2). ErrFailedPrecondition: the guest does not run; ErrUnavailable: containerd cannot be
// asked.
func (e *Engine) GuestRoot(ctx context.Context, id string) (*os.File, error) {
	pid, err := e.runningPID(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("root of %s: %w", id, err)
	}
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	// While the task runs its first process is the one with this pid; so it is its root that was opened.
	again, stillErr := e.runningPID(ctx, id)
	switch {
	case stillErr == nil && again != pid:
		stillErr = fmt.Errorf("the guest has been started anew: %w", errdefs.ErrUnavailable)
	case stillErr == nil && err != nil:
		return nil, fmt.Errorf("root of %s: %w", id, err)
	}
	if stillErr != nil {
		if err == nil {
			root.Close()
		}
		return nil, fmt.Errorf("root of %s: %w", id, stillErr)
	}
	return root, nil
}

// runningPID returns the first process of a guest that runs.
func (e *Engine) runningPID(ctx context.Context, id string) (uint32, error) {
	status, found, err := e.task(ctx, containerID(id, Guest))
	if err != nil {
		return 0, err
	}
	if !found || status.GetStatus() != tasktypes.Status_RUNNING || status.GetPid() == 0 {
		return 0, fmt.Errorf("the guest does not run: %w", errdefs.ErrFailedPrecondition)
	}
	return status.GetPid(), nil
}
