package container

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/phonehost/phonehost/runtime/ocispec"
	"github.com/phonehost/phonehost/runtime/profile"
)

// SetLimits gives a guest that runs the CPU time, the CPU weight and the memory of p. Memory is never taken from it: a lower limit
// waits for the next Prepare. A guest that does not run is no error.
//
// The phone's own cgroups come first and last: a hierarchy of cgroup v1 lets a container have no more than what is above it, and what
// is above no less than the container. A crash in between leaves a guest that has the least of what it had and what it is to have.
func (e *Engine) SetLimits(ctx context.Context, p Phone) error {
	prof, err := profile.Get(p.Profile)
	if err != nil {
		return err
	}
	guest, err := e.observe(ctx, p.ID, Guest)
	if err != nil {
		return fmt.Errorf("limits of %s: %w", p.ID, err)
	}
	if guest.State != TaskRunning {
		return nil
	}
	tree := e.treeOf(p.ID, guest)
	limits := cgroupLimits(p, prof)
	limits.MemoryBytes = max(limits.MemoryBytes, tree.MemoryLimit(p.ID))
	if err := tree.Limit(p.ID, limits); err != nil {
		return fmt.Errorf("limits of %s: %w", p.ID, err)
	}
	if err := e.updateTask(ctx, p, limits.MemoryBytes); err != nil {
		return fmt.Errorf("limits of %s: %w", p.ID, err)
	}
	if err := tree.Limit(p.ID, limits); err != nil {
		return fmt.Errorf("limits of %s: %w", p.ID, err)
	}
	return nil
}

// updateTask changes the limits of the guest's own cgroup, which is runc's.
func (e *Engine) updateTask(ctx context.Context, p Phone, memory uint64) error {
	quota, period := ocispec.Limits{CPUs: p.VCPUs}.CPUQuota(), uint64(ocispec.CPUPeriod)
	limit := int64(memory)
	resources := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period},
		Memory: &specs.LinuxMemory{Limit: &limit},
	}
	if e.cgroups.SwapAccounting() {
		resources.Memory.Swap = &limit // memory and swap together
	}
	encoded, err := typeurl.MarshalAny(resources)
	if err != nil {
		return fmt.Errorf("encode them: %w", err)
	}
	_, err = e.client.TaskService().Update(ctx, &tasks.UpdateTaskRequest{
		ContainerID: containerID(p.ID, Guest), Resources: typeurl.MarshalProto(encoded),
	})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return nil // it has ended meanwhile
	}
	if err != nil {
		return fmt.Errorf("update its task: %w", unavailable(err))
	}
	return nil
}
