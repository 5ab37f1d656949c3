package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// EndForHost ends a phone's guest and display because the host stops, and marks the guest's container, so that whoever observes it
// next does not take the end for the guest's own wish: Task.HostStopped. The guest is asked to shut down, and killed after grace. A
// phone that does not run is no error. The mark goes with the next start.
func (e *Engine) EndForHost(ctx context.Context, id string, grace time.Duration) error {
	status, found, err := e.task(ctx, containerID(id, Guest))
	if err != nil {
		return fmt.Errorf("end %s for the host: %w", id, err)
	}
	if found && taskState(status.GetStatus()) == TaskRunning {
		if err := e.markHostStopped(ctx, id); err != nil {
			return err
		}
		if err := e.shutdownAndWait(ctx, id, grace); err != nil {
			e.log.Warn("a guest is killed that did not shut down", "phone_id", id, "error", err)
		}
		// The task goes and the container stays: it carries the mark.
		if err := e.removeTask(ctx, id, Guest); err != nil {
			return err
		}
	}
	return e.RemoveDisplay(ctx, id)
}

func (e *Engine) markHostStopped(ctx context.Context, id string) error {
	_, err := e.client.ContainerService().Update(ctx, containers.Container{
		ID: containerID(id, Guest), Labels: map[string]string{labelHostStopped: "true"},
	}, "labels."+labelHostStopped)
	if err != nil {
		return fmt.Errorf("mark %s as stopped by the host: %w", id, unavailable(err))
	}
	return nil
}

// shutdownAndWait asks the guest to shut down and waits for its end, for grace at most.
func (e *Engine) shutdownAndWait(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	asked := e.Shutdown(ctx, id)
	if asked != nil && !errdefs.IsNotFound(asked) {
		return asked
	}
	_, err := e.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: containerID(id, Guest)})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return errors.Join(fmt.Errorf("wait for the end of %s: %w", id, unavailable(err)), asked)
	}
	return nil
}
