package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/cgroup"
)

// Observe reads the phone's actual state from containerd. It returns errdefs.ErrUnavailable when containerd cannot be asked or does
// not answer in time; that a phone's containers do not exist is an answer.
func (e *Engine) Observe(ctx context.Context, id string) (Observation, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var o Observation
	g, ctx := errgroup.WithContext(ctx)
	for role, into := range map[Role]*Task{Guest: &o.Guest, Display: &o.Display} {
		g.Go(func() error {
			var err error
			*into, err = e.observe(ctx, id, role)
			if role == Guest && into.State != TaskNone {
				into.OOMKills = e.treeOf(id, *into).OOMKills(id)
			}
			if role == Guest && into.State == TaskRunning {
				into.MemoryBytes = e.treeOf(id, *into).MemoryLimit(id)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Observation{}, fmt.Errorf("observe %s: %w", id, err)
	}
	return o, nil
}

func (e *Engine) observe(ctx context.Context, id string, role Role) (Task, error) {
	container := containerID(id, role)
	record, err := e.client.ContainerService().Get(ctx, container)
	if errdefs.IsNotFound(err) {
		return Task{}, nil
	}
	if err != nil {
		return Task{}, fmt.Errorf("ask for container %s: %w", container, unavailable(err))
	}
	t := fromRecord(record)
	t.Outside = t.Cgroup != "" && t.Cgroup != e.cgroupPath(id, role)
	status, found, err := e.task(ctx, container)
	if err != nil || !found {
		return t, err
	}
	t.State = taskState(status.GetStatus())
	switch t.State {
	case TaskStopped:
		t.ExitCode, t.ExitedAt = status.GetExitStatus(), status.GetExitedAt().AsTime()
	case TaskRunning:
		t.PID = status.GetPid()
		t.StartedAt = startedAt(t.PID)
	case TaskCreated:
		t.PID = status.GetPid()
	}
	return t, nil
}

func fromRecord(c containers.Container) Task {
	return Task{
		Container:      true,
		BootGeneration: generation(c.Labels, labelBootGeneration),
		DataGeneration: generation(c.Labels, labelDataGeneration),
		ImageDigest:    c.Labels[labelImageDigest],
		Version:        c.Labels[labelVersion],
		Note:           c.Labels[labelNote],
		Cgroup:         cgroupOf(c),
		HostStopped:    c.Labels[labelHostStopped] != "",
	}
}

// cgroupPath is where a start puts a container.
func (e *Engine) cgroupPath(id string, role Role) string {
	if role == Display {
		return e.cgroups.DisplayPath(id)
	}
	return e.cgroups.GuestPath(id)
}

// treeOf is the tree of cgroups in which a container is: the engine's, unless it is outside.
func (e *Engine) treeOf(id string, t Task) *cgroup.Tree {
	if root := cgroup.RootOf(t.Cgroup, id); t.Outside && root != "" {
		return e.cgroups.Below(root)
	}
	return e.cgroups
}

// cgroupOf reads from a container's record where its processes are; empty if there is no spec that can be read.
func cgroupOf(c containers.Container) string {
	var spec struct {
		Linux struct {
			CgroupsPath string `json:"cgroupsPath"`
		} `json:"linux"`
	}
	if c.Spec == nil || json.Unmarshal(c.Spec.GetValue(), &spec) != nil {
		return ""
	}
	return spec.Linux.CgroupsPath
}

// generation reads a number from a label; a label that is missing or no number is 0, which no generation is.
func generation(labels map[string]string, name string) uint64 {
	n, err := strconv.ParseUint(labels[name], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// ticksPerSecond is USER_HZ, which is 100 on every architecture that Go supports.
const ticksPerSecond = 100

// startedAt reads when a process began from /proc; zero if it has ended meanwhile.
func startedAt(pid uint32) time.Time {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}
	}
	// The second field is the program's name in parentheses and may hold anything; start time is field 22.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return time.Time{}
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}
	}
	var sinceBoot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &sinceBoot); err != nil {
		return time.Time{}
	}
	age := time.Duration(sinceBoot.Nano()) - time.Duration(ticks)*time.Second/ticksPerSecond
	return time.Now().Add(-age).UTC()
}

// IDs names the phones, in order, of which anything is left: containers, snapshots, directories or cgroups.
func (e *Engine) IDs(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	labelled := "labels." + strconv.Quote(labelPhone)
	found, err := e.client.ContainerService().List(ctx, labelled)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", unavailable(err))
	}
	var ids []string
	for _, c := range found {
		ids = append(ids, c.Labels[labelPhone])
	}
	err = e.client.SnapshotService(e.config.Snapshotter).Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		ids = append(ids, i.Labels[labelPhone])
		return nil
	}, labelled)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", unavailable(err))
	}
	for _, dir := range []string{filepath.Join(e.config.StateDir, "phones"), filepath.Join(e.config.RunDir, "phones")} {
		names, err := directories(dir)
		if err != nil {
			return nil, err
		}
		ids = append(ids, names...)
	}
	logged, err := directories(e.config.LogDir)
	if err != nil {
		return nil, err
	}
	// The directory of logs may hold others' directories too.
	ids = append(ids, slices.DeleteFunc(logged, func(id string) bool { return !e.hasLogs(id) })...)
	names, err := e.cgroups.List()
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(append(ids, names...), func(id string) bool { return !validID(id) })
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func directories(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list phones: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
