package service

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
)

// signal sends a signal to an instance's process. One that does not run is no error.
func (h *Host) signal(ctx context.Context, i Instance, s unix.Signal) error {
	_, err := h.cfg.Client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: i.ID, Signal: uint32(s)})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("send %v to %s: %w", s, i.ID, unavailable(err))
	}
	return nil
}

// remove kills an instance if it runs, and removes its task, its container and its directories. What is not there is no error.
func (h *Host) remove(ctx context.Context, i Instance) error {
	if err := h.signal(ctx, i, unix.SIGKILL); err != nil {
		return err
	}
	if _, err := h.Wait(ctx, i); err != nil {
		return err
	}
	_, err := h.cfg.Client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: i.ID})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove the task of %s: %w", i.ID, unavailable(err))
	}
	if err := h.cgroups.Vacate(ctx, h.cgroupPath(i.ID)); err != nil {
		return fmt.Errorf("remove %s: %w", i.ID, err)
	}
	if err := os.RemoveAll(h.instanceDir(i)); err != nil {
		return fmt.Errorf("remove %s: %w", i.ID, err)
	}
	// The record last: while it is there, another call finds what is left.
	if err := h.cfg.Client.ContainerService().Delete(ctx, i.ID); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove %s: %w", i.ID, unavailable(err))
	}
	return nil
}
