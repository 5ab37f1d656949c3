package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// Kill ends every process of a container with SIGKILL and does not wait for it: the end is an event. A container that does not run is
// no error.
func (e *Engine) Kill(ctx context.Context, id string, role Role) error {
	// The first process is init of a pid namespace: the kernel kills the others with it.
	return e.signal(ctx, id, role, unix.SIGKILL)
}

// signal sends a signal to a container's first process, from the host's pid namespace: init of another pid namespace sees no sender.
func (e *Engine) signal(ctx context.Context, id string, role Role, signal unix.Signal) error {
	_, err := e.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: containerID(id, role), Signal: uint32(signal)})
	if err = errgrpc.ToNative(err); err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("send %v to the %s of %s: %w", signal, role, id, unavailable(err))
}

// RemoveGuest removes the guest's task and container, and kills it if it runs. Root snapshot and data stay.
func (e *Engine) RemoveGuest(ctx context.Context, id string) error { return e.remove(ctx, id, Guest) }

// RemoveDisplay removes the display's task and container, and kills it if it runs.
func (e *Engine) RemoveDisplay(ctx context.Context, id string) error {
	return e.remove(ctx, id, Display)
}

func (e *Engine) remove(ctx context.Context, id string, role Role) error {
	if err := e.removeTask(ctx, id, role); err != nil {
		return err
	}
	if err := reached(role, "task_removed"); err != nil {
		return err
	}
	err := e.client.ContainerService().Delete(ctx, containerID(id, role))
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove the %s of %s: %w", role, id, unavailable(err))
	}
	return reached(role, "removed")
}

// removeTask deletes a task; one that has not ended is killed and waited for.
func (e *Engine) removeTask(ctx context.Context, id string, role Role) error {
	container := containerID(id, role)
	status, found, err := e.task(ctx, container)
	if err != nil {
		return err
	}
	if found && taskState(status.GetStatus()) != TaskStopped {
		if err := e.Kill(ctx, id, role); err != nil {
			return err
		}
		_, err := e.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: container})
		if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("wait for the end of the %s of %s: %w", role, id, unavailable(err))
		}
	}
	// Also one that is not found: an agent may have died while containerd deleted it. Then its shim, which has forgotten it, is listed
	// still, and goes with this call, which says not found all the same.
	_, err = e.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: container})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove the %s of %s: %w", role, id, unavailable(err))
	}
	return nil
}

// KeepGeneration removes the root snapshots and data volumes of every other data generation of the phone than keep, half-made ones
// included. Nothing of them can be reached from then on, by anybody and after any crash. The guest must not run on one of those:
// errdefs.ErrFailedPrecondition.
func (e *Engine) KeepGeneration(ctx context.Context, id string, keep uint64) error {
	if !validID(id) {
		return fmt.Errorf("phone id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	err := e.removeSnapshots(ctx, id, func(labels map[string]string) bool { return generation(labels, labelDataGeneration) != keep })
	if err != nil {
		return err
	}
	return e.removeData(ctx, id, func(n uint64) bool { return n != keep })
}

// Destroy kills what runs of a phone and removes everything of it that this package owns. A phone that does not exist, or of which
// only parts do, is no error. What could not be removed is told; the rest is gone.
func (e *Engine) Destroy(ctx context.Context, id string) error {
	if !validID(id) {
		return fmt.Errorf("phone id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	// The guest first: its shim is the display's.
	for _, role := range []Role{Guest, Display} {
		if err := e.remove(ctx, id, role); err != nil {
			return err
		}
	}
	var errs []error
	for _, part := range []struct {
		name   string
		remove func() error
	}{
		{"guard", func() error { return e.unprotect(id) }}, // while its cgroup says which it is
		{"snapshots", func() error { return e.removeSnapshots(ctx, id, func(map[string]string) bool { return true }) }},
		{"cgroups", func() error { return e.cgroups.Remove(ctx, id) }},
		{"logs", func() error { return e.removeLogs(id) }},
		{"run directory", func() error { return os.RemoveAll(e.runDir(id)) }},
		{"state directory", func() error { return e.removeState(ctx, id) }},
	} {
		if err := part.remove(); err != nil {
			errs = append(errs, fmt.Errorf("remove the %s of %s: %w", part.name, id, err))
		}
		if crashpoint.Enabled {
			crashpoint.Reached("destroy/" + strings.ReplaceAll(part.name, " ", "_"))
		}
	}
	return errors.Join(errs...)
}
