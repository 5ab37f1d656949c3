package container

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/runtime/crashpoint"
	"github.com/phonehost/phonehost/runtime/profile"
	"github.com/phonehost/phonehost/runtime/volume"
)

const runcRuntime = "io.containerd.runc.v2"

// cleanupTime bounds what is undone after a start that did not succeed, when the caller may have left already.
const cleanupTime = 20 * time.Second

// StartDisplay creates and starts the phone's display unless it runs; one that has ended is replaced. It returns when the process
// runs, which is before its sockets are ready. Prepare must have been called.
// A crash in between leaves a container without a running task, which the next call replaces.
func (e *Engine) StartDisplay(ctx context.Context, p Phone) error {
	running, err := e.vacate(ctx, p.ID, Display)
	if err != nil || running {
		return err
	}
	root, err := e.displayRoot(ctx)
	if err != nil {
		return fmt.Errorf("start the display of %s: %w", p.ID, err)
	}
	spec, err := e.displaySpec(p, root)
	if err == nil {
		err = e.keepBesideGuest(ctx, p.ID, spec)
	}
	if err != nil {
		return fmt.Errorf("start the display of %s: %w", p.ID, err)
	}
	crashpoint.Reached("display/root")
	record := e.record(p, Display)
	record.Labels[labelVersion] = filepath.Base(root)
	if err := e.launch(ctx, p.ID, Display, making{record: record, spec: spec}); err != nil {
		return fmt.Errorf("start the display of %s: %w", p.ID, err)
	}
	return nil
}

// keepBesideGuest puts a display that starts under a running guest into the phone's cgroup in which that guest is, wherever it is: a
// phone is in one place, with the limits of that place.
func (e *Engine) keepBesideGuest(ctx context.Context, id string, display *specs.Spec) error {
	guest, err := e.observe(ctx, id, Guest)
	if err == nil && guest.State == TaskRunning {
		display.Linux.CgroupsPath = e.treeOf(id, guest).DisplayPath(id)
	}
	return err
}

// StartGuest creates and starts the phone's guest unless it runs; one that has ended is replaced. It returns when init runs.
// Prepare must have been called, and the display must run, whose shim serves both.
// A crash in between leaves a container without a running task, which the next call replaces; the loop device of /data detaches
// itself as soon as neither this process nor the guest has it.
//
// The error is a *binder.Refusal if the guest cannot have the binder devices that its profile wants, and errdefs.ErrFailedPrecondition if
// it may mount and nothing would guard the host from it; then nothing has changed.
func (e *Engine) StartGuest(ctx context.Context, p Phone) error {
	prof, err := profile.Get(p.Profile)
	if err == nil {
		err = e.mustGuard(prof)
	}
	if err != nil {
		return fmt.Errorf("start the guest of %s: %w", p.ID, err)
	}
	// Before the former container goes, whose devices the guest is to have again.
	devices, release, err := e.claimBinder(ctx, p)
	if err != nil {
		return fmt.Errorf("start the guest of %s: %w", p.ID, err)
	}
	defer release()
	running, err := e.vacate(ctx, p.ID, Guest)
	if err != nil || running {
		return err
	}
	if err := e.unprotect(p.ID); err != nil {
		return fmt.Errorf("start the guest of %s: %w", p.ID, err)
	}
	data, err := volume.Attach(ctx, e.dataImage(p.ID, p.DataGeneration))
	if err != nil {
		return fmt.Errorf("start the guest of %s: %w", p.ID, err)
	}
	// runc has mounted the device when the task is created; from then on the mount holds it.
	defer data.Close()
	spec, err := e.guestSpec(p, data.Path, devices)
	if err != nil {
		return fmt.Errorf("start the guest of %s: %w", p.ID, err)
	}
	record := e.record(p, Guest)
	record.Snapshotter, record.SnapshotKey = e.config.Snapshotter, snapshotKey(p)
	if label := devices.Label(); label != "" {
		record.Labels[labelBinder] = label
	}
	m := making{record: record, spec: spec, terminal: spec.Process.Terminal, rootfs: func(ctx context.Context) ([]mount.Mount, error) {
		return e.client.SnapshotService(record.Snapshotter).Mounts(ctx, record.SnapshotKey)
	}}
	m.created = func(ctx context.Context, pid uint32) error { return e.settle(ctx, p, pid, devices) }
	if err := e.launch(ctx, p.ID, Guest, m); err != nil {
		return fmt.Errorf("start the guest of %s: %w", p.ID, err)
	}
	return nil
}

// vacate makes room for a new container: it reports whether the present one's process runs, and removes one that does not.
func (e *Engine) vacate(ctx context.Context, id string, role Role) (running bool, err error) {
	if !validID(id) {
		return false, fmt.Errorf("phone id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	status, found, err := e.task(ctx, containerID(id, role))
	if err != nil {
		return false, fmt.Errorf("look at the %s of %s: %w", role, id, err)
	}
	if found && taskState(status.GetStatus()) == TaskRunning {
		return true, nil
	}
	if found {
		return false, e.remove(ctx, id, role)
	}
	return false, nil
}

// record is the container as containerd keeps it, but for its spec and root.
func (e *Engine) record(p Phone, role Role) containers.Container {
	return containers.Container{
		ID:    containerID(p.ID, role),
		Image: p.Image,
		Labels: map[string]string{
			labelPhone:          p.ID,
			labelRole:           role.String(),
			labelProfile:        p.Profile,
			labelBootGeneration: strconv.FormatUint(p.BootGeneration, 10),
			labelDataGeneration: strconv.FormatUint(p.DataGeneration, 10),
			labelImageDigest:    p.ImageDigest,
			labelNote:           p.Note,
		},
	}
}

// making is what launch makes a container of.
type making struct {
	record containers.Container
	spec   *specs.Spec
	// rootfs returns the mounts of the root file system; nil if the spec names a directory.
	rootfs func(context.Context) ([]mount.Mount, error)
	// terminal gives the first process a pseudo-terminal, as the spec says.
	terminal bool
	// created does what remains to be done between the creation of the task and its start, when its namespaces and mounts are
	// complete and its program does not run; may be nil. pid is that of its first process.
	created func(ctx context.Context, pid uint32) error
}

// vacateTime is how long a start waits for the processes of a former container to leave its cgroup, which they do once they have ended.
const vacateTime = 5 * time.Second

// vacateCgroup removes the cgroup that is left of a container whose shim died. If it cannot be, the start goes on and may not succeed.
func (e *Engine) vacateCgroup(ctx context.Context, id string, role Role) {
	path := e.cgroups.GuestPath(id)
	if role == Display {
		path = e.cgroups.DisplayPath(id)
	}
	ctx, cancel := context.WithTimeout(ctx, vacateTime)
	defer cancel()
	if err := e.cgroups.Vacate(ctx, path); err != nil {
		e.log.Warn("the cgroup of a former container is left, with its limits and rules", "phone", id, "role", role.String(), "error", err)
	}
}

// launch makes the container's record, its task, and starts it. If one of these does not succeed, nothing is left.
func (e *Engine) launch(ctx context.Context, id string, role Role, m making) (err error) {
	var mounts []mount.Mount
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.createRecord(gctx, id, role, m.record, m.spec) })
	g.Go(func() error {
		e.vacateCgroup(gctx, id, role)
		return nil
	})
	g.Go(func() error {
		if m.rootfs == nil {
			return nil
		}
		var err error
		if mounts, err = m.rootfs(gctx); err != nil {
			return fmt.Errorf("mounts of its root: %w", unavailable(err))
		}
		return nil
	})
	err = g.Wait()
	if err == nil {
		err = reached(role, "recorded")
	}
	if err == nil {
		err = e.runTask(ctx, id, role, mounts, m)
	}
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if undoErr := e.remove(undo, id, role); undoErr != nil {
		e.log.Warn("a container that did not start is left until the next start", "phone", id, "role", role.String(), "error", undoErr)
	}
	return err
}

func (e *Engine) createRecord(ctx context.Context, id string, role Role, record containers.Container, spec *specs.Spec) error {
	var err error
	if record.Spec, err = typeurl.MarshalAny(spec); err != nil {
		return fmt.Errorf("encode its spec: %w", err)
	}
	// Containers with the same name of another containerd on this host must not meet in runc's default directory.
	runc, err := typeurl.MarshalAny(&options.Options{Root: e.runcRoot()})
	if err != nil {
		return fmt.Errorf("encode its runtime options: %w", err)
	}
	record.Runtime = containers.RuntimeInfo{Name: runcRuntime, Options: runc}
	_, err = e.client.ContainerService().Create(ctx, record)
	if errdefs.IsAlreadyExists(err) { // a record without a task
		if err := e.remove(ctx, id, role); err != nil {
			return err
		}
		_, err = e.client.ContainerService().Create(ctx, record)
	}
	if err != nil {
		return fmt.Errorf("create its container: %w", unavailable(err))
	}
	return nil
}

func (e *Engine) runTask(ctx context.Context, id string, role Role, mounts []mount.Mount, m making) error {
	pid, err := e.createTask(ctx, id, role, mounts, m.terminal)
	if err != nil {
		return fmt.Errorf("create its task: %w", takenAway(err))
	}
	if err := reached(role, "created"); err != nil {
		return err
	}
	if m.created != nil {
		if err := m.created(ctx, pid); err != nil {
			return err
		}
	}
	if err := reached(role, "settled"); err != nil {
		return err
	}
	_, err = e.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: containerID(id, role)})
	if err != nil {
		return fmt.Errorf("start its task: %w", takenAway(err))
	}
	return reached(role, "started")
}

// takenAway classes an error about a task that is being made. One that is not found is no lasting one: containerd still takes away what a dead
// agent has asked it to make, and so what is made now; another try finds it done.
func takenAway(err error) error {
	if err = unavailable(err); errdefs.IsNotFound(err) {
		return fmt.Errorf("%v: %w", err, errdefs.ErrAborted)
	}
	return err
}

// reached marks a boundary in the making of a container, "guest/created". It returns an error only where a test asks for one.
func reached(role Role, what string) error {
	if !crashpoint.Enabled {
		return nil
	}
	return crashpoint.Fail(role.String() + "/" + what)
}

// createTask has the shim make namespaces, mounts and the first process, which waits, and returns its pid.
func (e *Engine) createTask(ctx context.Context, id string, role Role, mounts []mount.Mount, terminal bool) (pid uint32, err error) {
	output := e.logURI(id, role)
	request := &tasks.CreateTaskRequest{ContainerID: containerID(id, role), Stdout: output, Stderr: output, Terminal: terminal}
	if terminal {
		request.Stderr = "" // all output comes by the terminal
	}
	for _, m := range mounts {
		request.Rootfs = append(request.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	service := e.client.TaskService()
	answer, err := service.Create(ctx, request)
	if errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		// An agent died while containerd made the task: the shim is listed, but there is no container in it that could be seen.
		// Deleting takes it off the list, and says not found all the same.
		_, err = service.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: request.ContainerID})
		if err = errgrpc.ToNative(err); err == nil || errdefs.IsNotFound(err) {
			answer, err = service.Create(ctx, request)
		}
	}
	if err != nil {
		if dir := e.takenBundle(request.ContainerID, err); dir != "" {
			e.log.Warn("containerd left the directory of a task that it does not know; it is removed", "phone", id, "role", role.String(), "dir", dir)
			if err := clearBundle(dir); err != nil {
				return 0, err
			}
			answer, err = service.Create(ctx, request)
		}
	}
	return answer.GetPid(), err
}

// logURI makes the shim start the log writer for a container's output.
func (e *Engine) logURI(id string, role Role) string {
	u := url.URL{Scheme: "binary", Path: e.config.LogBinary, RawQuery: url.Values{"-path": {e.logPath(id, role)}}.Encode()}
	return u.String()
}

// task asks for a container's task. A container or task that does not exist is not found, which is no error.
func (e *Engine) task(ctx context.Context, container string) (status *tasktypes.Process, found bool, err error) {
	answer, err := e.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: container})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("ask for the task of %s: %w", container, unavailable(err))
	}
	if answer.GetProcess().GetStatus() == tasktypes.Status_UNKNOWN {
		// containerd answers so when the shim does not: this is not an end.
		return nil, false, fmt.Errorf("ask for the task of %s: its shim does not answer: %w", container, errdefs.ErrUnavailable)
	}
	return answer.GetProcess(), true, nil
}

func taskState(s tasktypes.Status) TaskState {
	switch s {
	case tasktypes.Status_CREATED:
		return TaskCreated
	case tasktypes.Status_RUNNING, tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		return TaskRunning
	case tasktypes.Status_STOPPED:
		return TaskStopped
	default:
		return TaskNone
	}
}
