package container

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/profile"
)

// drainTime is how long the output of an ended process is waited for: a child of it may hold the pipes for ever.
const drainTime = 2 * time.Second

// Exec runs a process in the phone's guest and returns its exit code (128 + n after signal n) when it has ended and its output is
// delivered. The end of the context kills the process with its process group; what the death of the agent leaves of one without a name,
// the next agent's engine ends some seconds after its start, its input first. It has the guest's capabilities, limits and
// system-call filter.
//
// Errors: errdefs.ErrFailedPrecondition if the guest does not run; errdefs.ErrInvalidArgument without arguments;
// errdefs.ErrNotFound if the program does not exist; errdefs.ErrUnavailable if containerd went away meanwhile, and then it is not
// known how the process ended.
func (e *Engine) Exec(ctx context.Context, id string, o ExecOptions) (exitCode uint32, err error) {
	if len(o.Args) == 0 || o.Args[0] == "" {
		return 0, fmt.Errorf("exec in %s: no program: %w", id, errdefs.ErrInvalidArgument)
	}
	task, first, _, err := e.guest(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	return e.execIn(ctx, id, task, first, o)
}

// execIn is Exec in a guest that has been looked up: its task, and its first process as its spec has it.
func (e *Engine) execIn(ctx context.Context, id string, task containerd.Task, first *specs.Process, o ExecOptions) (exitCode uint32, err error) {
	if err := os.MkdirAll(e.execDir(), 0o700); err != nil {
		return 0, fmt.Errorf("exec in %s: make the directory of its pipes: %w", id, err)
	}
	x := newExecution(o)
	name := o.ID
	if name == "" {
		name = e.chooseName()
	}
	process, err := task.Exec(ctx, name, execProcess(first, o), x.pipes(e.execDir()))
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, execError(err))
	}
	exitCode, err = x.run(ctx, process)
	if err != nil {
		return 0, fmt.Errorf("exec %s in %s: %w", o.Args[0], id, execError(err))
	}
	return exitCode, nil
}

// EndExec kills a process that an Exec of an earlier agent has left in the phone's guest under a name, with its process group, and takes
// it out of containerd's books: also one that was still being started. It is errdefs.ErrNotFound if there is none, and
// errdefs.ErrFailedPrecondition if the guest does not run.
func (e *Engine) EndExec(ctx context.Context, id, execID string) error {
	task, _, _, err := e.guest(ctx, id)
	if err == nil {
		err = e.endExec(ctx, task, execID)
	}
	if err != nil {
		return fmt.Errorf("end exec %s in %s: %w", execID, id, unavailable(err))
	}
	return nil
}

// endTime bounds the tries to end a process, and endPause is the time between two.
const (
	endTime  = 10 * time.Second
	endPause = 50 * time.Millisecond
)

// endExec tries until the process is gone: one whose start hangs in the shim can be neither killed nor deleted before that has gone on.
func (e *Engine) endExec(ctx context.Context, task containerd.Task, execID string) error {
	process, err := task.LoadProcess(ctx, execID, nil)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(endTime); ; {
		// A process that was loaded does not know its pid.
		now, err := e.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: task.ID(), ExecID: execID})
		if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
			return nil
		}
		if err == nil && now.GetProcess().GetStatus() == tasktypes.Status_RUNNING {
			killGroup(int(now.GetProcess().GetPid()))
			err = process.Kill(ctx, syscall.SIGKILL)
		}
		if err == nil || errdefs.IsNotFound(err) {
			if _, err = process.Delete(ctx); err == nil || errdefs.IsNotFound(err) {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(endPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// killGroup kills the processes of a running process's group, by its pid on the host. runc makes every process that it executes the leader of a session and
// so of a group (setsid in its nsexec.c); one that is none is left to Kill.
func killGroup(pid int) {
	if pid <= 1 {
		return
	}
	if group, err := unix.Getpgid(pid); err != nil || group != pid {
		return
	}
	_ = unix.Kill(-pid, unix.SIGKILL) // it may have ended
}

// guest returns the running guest's task, its first process as its spec has it, and its profile.
func (e *Engine) guest(ctx context.Context, id string) (containerd.Task, *specs.Process, *profile.Profile, error) {
	notRunning := fmt.Errorf("the guest does not run: %w", errdefs.ErrFailedPrecondition)
	c, err := e.client.LoadContainer(ctx, containerID(id, Guest))
	if errdefs.IsNotFound(err) {
		return nil, nil, nil, notRunning
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("load its container: %w", unavailable(err))
	}
	info, err := c.Info(ctx, containerd.WithoutRefreshedMetadata)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("load its container: %w", unavailable(err))
	}
	prof, err := profile.Get(info.Labels[labelProfile])
	if err != nil {
		return nil, nil, nil, err
	}
	var spec specs.Spec
	if info.Spec == nil {
		return nil, nil, nil, fmt.Errorf("read its spec: it has none: %w", errdefs.ErrNotFound)
	}
	if err := json.Unmarshal(info.Spec.GetValue(), &spec); err != nil {
		return nil, nil, nil, fmt.Errorf("read its spec: %w", err)
	}
	task, err := c.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil, nil, nil, notRunning
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("load its task: %w", unavailable(err))
	}
	return task, spec.Process, prof, nil
}

// execProcess is the guest's first process with other arguments.
func execProcess(first *specs.Process, o ExecOptions) *specs.Process {
	p := *first
	p.Args = o.Args
	p.Env = slices.Clone(first.Env)
	p.User = specs.User{UID: o.UID, GID: o.UID}
	p.Cwd = "/"
	if o.Cwd != "" {
		p.Cwd = o.Cwd
	}
	if p.Terminal = o.Terminal; o.Terminal {
		p.Env = append(p.Env, "TERM=xterm-256color")
		p.ConsoleSize = &specs.Box{Width: uint(max(o.Width, 1)), Height: uint(max(o.Height, 1))}
		if o.Width == 0 || o.Height == 0 {
			p.ConsoleSize = &specs.Box{Width: 80, Height: 24}
		}
	}
	p.Env = append(p.Env, o.Env...)
	return &p
}

// execError sorts the runtime's complaint about a program that does not exist from other errors.
func execError(err error) error {
	err = unavailable(err)
	text := err.Error()
	for _, missing := range []string{"executable file not found", "no such file or directory"} {
		if strings.Contains(text, "exec failed") && strings.Contains(text, missing) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		}
	}
	if strings.Contains(text, "cannot exec in a stopped") || strings.Contains(text, "container not running") || strings.Contains(text, "not created") {
		return fmt.Errorf("the guest has ended: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return err
}

// execution is the way of one process through containerd.
type execution struct {
	o     ExecOptions
	stdin *endingReader // nil without input
}

func newExecution(o ExecOptions) *execution {
	x := &execution{o: o}
	if o.Stdin != nil {
		x.stdin = &endingReader{r: o.Stdin, ended: make(chan struct{})}
	}
	return x
}

// pipes makes the pipes between the shim and the options' readers and writers.
func (x *execution) pipes(dir string) cio.Creator {
	var stdin io.Reader
	if x.stdin != nil {
		stdin = x.stdin
	}
	stdout, stderr := outputs(x.o.Stdout, x.o.Stderr)
	opts := []cio.Opt{cio.WithFIFODir(dir)}
	if x.o.Terminal {
		return cio.NewCreator(append(opts, cio.WithStreams(stdin, stdout, nil), cio.WithTerminal)...)
	}
	return cio.NewCreator(append(opts, cio.WithStreams(stdin, stdout, stderr))...)
}

// run starts the process and stays with it. When it returns, the process has ended, as far as containerd can be asked, and nothing
// but a blocked read of the caller's Stdin is left of it.
func (x *execution) run(ctx context.Context, process containerd.Process) (uint32, error) {
	// What must happen also after the caller has left, and yet not for ever.
	detached, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	exited, err := process.Wait(detached)
	if err != nil {
		return 0, err
	}
	if err := process.Start(ctx); err != nil {
		x.remove(detached, process)
		return 0, err
	}
	var helpers sync.WaitGroup
	ended := make(chan struct{})
	helpers.Go(func() { x.serve(detached, process, ended) })
	var status containerd.ExitStatus
	select {
	case status = <-exited:
	case <-ctx.Done():
		status = x.kill(detached, process, exited)
	}
	close(ended)
	helpers.Wait()
	x.drain(ctx, process)
	x.remove(detached, process)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	code, _, err := status.Result()
	return code, err
}

// serve passes the end of the input and new sizes of the terminal on until the process has ended.
func (x *execution) serve(ctx context.Context, process containerd.Process, ended <-chan struct{}) {
	var stdinEnded <-chan struct{}
	if x.stdin != nil {
		stdinEnded = x.stdin.ended
	}
	resize := x.o.Resize
	for {
		// Either call fails only because the process or containerd has ended, which its caller learns anyway.
		select {
		case <-ended:
			return
		case <-stdinEnded:
			stdinEnded = nil
			_ = process.CloseIO(ctx, containerd.WithStdinCloser)
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			_ = process.Resize(ctx, uint32(size.Width), uint32(size.Height))
		}
	}
}

// kill ends the process with its group and waits for its end.
func (x *execution) kill(ctx context.Context, process containerd.Process, exited <-chan containerd.ExitStatus) containerd.ExitStatus {
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	killGroup(int(process.Pid()))
	if err := process.Kill(ctx, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		return *containerd.NewExitStatus(containerd.UnknownExitStatus, time.Time{}, err)
	}
	select {
	case status := <-exited:
		return status
	case <-ctx.Done():
		return *containerd.NewExitStatus(containerd.UnknownExitStatus, time.Time{}, ctx.Err())
	}
}

// drain waits until the output has been delivered, but not for ever, and not for a caller that has left.
func (x *execution) drain(ctx context.Context, process containerd.Process) {
	delivered := make(chan struct{})
	go func() { // ends when the pipes have ended, which drain or remove sees to
		process.IO().Wait()
		close(delivered)
	}()
	select {
	case <-delivered:
		return
	case <-time.After(drainTime):
	case <-ctx.Done():
	}
	process.IO().Cancel()
	<-delivered
}

// remove takes the process out of containerd's books and removes its pipes.
func (x *execution) remove(ctx context.Context, process containerd.Process) {
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	if _, err := process.Delete(ctx); err != nil {
		// The shim forgets it together with its container.
		process.IO().Cancel()
		process.IO().Wait()
		process.IO().Close()
	}
}

// endingReader closes ended when its reader has ended. One goroutine reads it.
type endingReader struct {
	r     io.Reader
	ended chan struct{}
	once  sync.Once
}

func (e *endingReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil {
		e.once.Do(func() { close(e.ended) })
	}
	return n, err
}
