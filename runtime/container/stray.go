package container

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A stray is a process that was started by an Exec of an agent that has died since, and that nobody knows of. It would not end by itself
// when it waits for input, since its shim keeps the pipe open. There are two kinds.
//
// Processes without a name of their own (ExecOptions.ID) have one that says which engine chose it. Those with a name belong to what gave
// them the name, which calls EndExec.
//
// A process whose start was under way when the agent died may run and yet be unknown to its shim, which has given the start up together
// with the call. It is then a child of the shim in the guest's cgroup that has no name there; it never gets any input.

// strayPrefix begins the names that Exec chooses. Behind it stands the engine's own word, by which a later one knows that they are not its.
const strayPrefix = "stray-"

// newWord returns an engine's word.
func newWord() string { return rand.Text() }

// chooseName returns the name of a process that has none.
func (e *Engine) chooseName() string {
	return strayPrefix + e.word + "-" + strconv.FormatUint(e.unnamed.Add(1), 36)
}

// isStray reports whether a process with this name was started without one, by another engine.
func (e *Engine) isStray(name string) bool {
	return strings.HasPrefix(name, strayPrefix) && !strings.HasPrefix(name, strayPrefix+e.word+"-")
}

const (
	// strayTime is how long a stray may take to end by itself when its input has ended.
	strayTime = 2 * time.Second
	// namelessTime is how long a process may have no name and yet be one that is just being started, by a host with much to do.
	namelessTime = 10 * time.Second
	// strayGuests is how many guests are looked into at the same time.
	strayGuests = 8
)

// endStrays ends the strays in all guests. It is for when the pipes of dead agents are not held open any more (releasePipes).
func (e *Engine) endStrays(ctx context.Context) {
	guests, err := e.client.Containers(ctx, "labels."+strconv.Quote(labelRole)+"=="+Guest.String())
	if err != nil {
		e.log.Warn("processes that a dead agent left in guests are not looked for", "error", err)
		return
	}
	var g errgroup.Group
	g.SetLimit(strayGuests)
	for _, guest := range guests {
		g.Go(func() error {
			if err := e.endStraysOf(ctx, guest); err != nil && !errdefs.IsNotFound(err) && ctx.Err() == nil {
				e.log.Warn("processes that a dead agent left in a guest are not ended", "container", guest.ID(), "error", err)
			}
			return nil
		})
	}
	_ = g.Wait() // always nil
}

func (e *Engine) endStraysOf(ctx context.Context, guest containerd.Container) error {
	task, err := guest.Task(ctx, nil)
	if err != nil {
		return err
	}
	processes, err := task.Pids(ctx)
	if err != nil {
		return errgrpc.ToNative(err)
	}
	nameless, err := namelessOf(task, processes)
	if err != nil {
		return err
	}
	defer nameless.close()
	for _, p := range processes {
		name := execOf(p)
		if !e.isStray(name) {
			continue
		}
		if err := e.endStray(ctx, task, name); err != nil {
			return err
		}
		e.log.Info("a process that a dead agent left in a guest is ended", "container", guest.ID(), "exec", name)
	}
	return e.endNameless(ctx, task, nameless)
}

// nameless are handles of processes (pidfd_open) of a guest that have no name in containerd, by their pids.
type nameless map[int]int

func (n nameless) close() {
	for _, fd := range n {
		_ = unix.Close(fd) // it holds nothing to be flushed
	}
}

// namelessOf finds the children of a task's shim that have no name. One that is just being started has none either.
func namelessOf(task containerd.Task, processes []containerd.ProcessInfo) (nameless, error) {
	found := nameless{}
	shim, err := parentOf(int(task.Pid()))
	if err != nil {
		return found, err
	}
	for _, p := range processes {
		pid := int(p.Pid)
		if p.Pid == task.Pid() || execOf(p) != "" {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		if parent, err := parentOf(pid); err != nil || parent != shim {
			_ = unix.Close(fd)
			continue
		}
		found[pid] = fd
	}
	return found, nil
}

// parentOf reads the parent of a process; errdefs.ErrNotFound if it has ended.
func parentOf(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("parent of process %d: %w: %w", pid, err, errdefs.ErrNotFound)
	}
	// The name in parentheses may hold anything; the state and the parent follow it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0, fmt.Errorf("parent of process %d: %q", pid, stat)
	}
	return strconv.Atoi(fields[1])
}

// endNameless kills, with their groups, those processes that still have no name a while later: nobody is starting them.
func (e *Engine) endNameless(ctx context.Context, task containerd.Task, before nameless) error {
	if len(before) == 0 {
		return nil
	}
	select {
	case <-time.After(namelessTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	processes, err := task.Pids(ctx)
	if err != nil {
		return errgrpc.ToNative(err)
	}
	for _, p := range processes {
		fd, known := before[int(p.Pid)]
		if !known || execOf(p) != "" || unix.PidfdSendSignal(fd, 0, nil, 0) != nil {
			continue // it has a name by now, or is another process with this pid
		}
		killGroup(int(p.Pid))
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err == nil || errors.Is(err, unix.ESRCH) {
			e.log.Info("a process that a dead agent was starting in a guest is ended", "container", task.ID(), "pid", p.Pid)
		}
	}
	return nil
}

// execOf returns the name by which containerd knows a process; empty if it does not.
func execOf(p containerd.ProcessInfo) string {
	if p.Info == nil {
		return ""
	}
	details, err := typeurl.UnmarshalAny(p.Info)
	if err != nil {
		return ""
	}
	if d, ok := details.(*options.ProcessDetails); ok {
		return d.GetExecID()
	}
	return ""
}

// endStray ends the input of a stray, as the agent's death should have, gives it a moment to clear up, and then kills it.
func (e *Engine) endStray(ctx context.Context, task containerd.Task, name string) error {
	service := e.client.TaskService()
	// Its error is that the process has ended, or has no input.
	_, _ = service.CloseIO(ctx, &tasks.CloseIORequest{ContainerID: task.ID(), ExecID: name, Stdin: true})
	for deadline := time.Now().Add(strayTime); time.Now().Before(deadline); {
		now, err := service.Get(ctx, &tasks.GetRequest{ContainerID: task.ID(), ExecID: name})
		if err != nil || now.GetProcess().GetStatus() != tasktypes.Status_RUNNING {
			break
		}
		select {
		case <-time.After(endPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := e.endExec(ctx, task, name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
