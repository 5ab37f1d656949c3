package soak

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// inventory is all that a host has of phones, a line each, in order: containers, tasks, snapshots, leases and images of containerd, its
// task directories and shims, loop devices, mounts, cgroups, network interfaces, BPF pins, processes, and the files below the agent's directories.
type inventory []string

// take makes an inventory. Names of what one phone has are the same for every phone, generation and image, so that two phones in the
// same situation have the same.
func (h *host) take(ctx context.Context, id string) (inventory, error) {
	var all inventory
	add := func(kind, name string) { all = append(all, kind+" "+general(name, id)) }
	if err := h.takeContainerd(ctx, add); err != nil {
		return nil, err
	}
	for range h.containerd.Shims() {
		add("shim", "")
	}
	if err := h.takeKernel(add); err != nil {
		return nil, err
	}
	for _, top := range []string{"state", "run", "log"} {
		err := filepath.WalkDir(h.path(top), func(path string, e fs.DirEntry, err error) error {
			if err == nil && !own(path) {
				add("file", strings.TrimPrefix(path, h.dir))
			}
			return nil // what went away meanwhile is not there
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(all)
	return all, nil
}

func (h *host) takeContainerd(ctx context.Context, add func(kind, name string)) error {
	containers, err := h.ctrd.ContainerService().List(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		add("container", c.ID)
	}
	running, err := h.ctrd.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return err
	}
	for _, p := range running.GetTasks() {
		add("task", p.GetID()+" "+p.GetStatus().String())
	}
	err = h.ctrd.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		add("snapshot", i.Name)
		return nil
	})
	if err != nil {
		return err
	}
	leases, err := h.ctrd.LeasesService().List(ctx)
	if err != nil {
		return err
	}
	for range leases {
		add("lease", "")
	}
	images, err := h.ctrd.ImageService().List(ctx)
	if err != nil {
		return err
	}
	for _, i := range images {
		add("image", i.Name)
	}
	bundles, err := filepath.Glob(filepath.Join(filepath.Dir(h.containerd.Address), "state", "io.containerd.runtime.v2.task", "phonehost", "*"))
	for _, dir := range bundles {
		add("bundle", filepath.Base(dir))
	}
	return err
}

func (h *host) takeKernel(add func(kind, name string)) error {
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	for _, file := range loops {
		if backing, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(backing), h.dir) {
			add("loop", strings.TrimSpace(strings.TrimPrefix(string(backing), h.dir)))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		at := strings.Fields(line)[4]
		for _, dir := range []string{h.dir, filepath.Dir(h.containerd.Address)} {
			if rest, ok := strings.CutPrefix(at, dir+"/"); ok {
				add("mount", rest)
			}
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		roots, err := filepath.Glob(filepath.Join(pattern, filepath.Base(h.dir)))
		if err != nil {
			return err
		}
		for _, root := range roots {
			_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					add("cgroup", path)
				}
				return nil
			})
		}
	}
	return errors.Join(h.takeNetworks(add), h.takePins(add), h.takeProcesses(add))
}

// takeProcesses finds the processes whose arguments name the host's directory: log writers, and tools that an agent began. The agent
// itself is not counted.
func (h *host) takeProcesses(add func(kind, name string)) error {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), h.dir+"/") {
			continue
		}
		if name := filepath.Base(strings.SplitN(string(text), "\x00", 2)[0]); name != "phonehostd" && name != "containerd" {
			add("process", name)
		}
	}
	return nil
}

// own are the files of the agent itself.
func own(path string) bool {
	name := filepath.Base(path)
	return strings.HasPrefix(name, "phonehost.db") || name == "exec"
}

var (
	generations = regexp.MustCompile(`data-\d+\.img|\.root\.\d+\.[0-9a-f]+`)
	logNumbers  = regexp.MustCompile(`\.log\.\d+$`)
)

// general makes the name of a thing that a phone has that of any phone's.
func general(name, id string) string {
	name = strings.ReplaceAll(name, id, "ID")
	name = generations.ReplaceAllString(name, ".GENERATION")
	return logNumbers.ReplaceAllString(name, ".log.N")
}

// differs says what of got is not in want, and the other way round; "" where nothing is.
func (want inventory) differs(got inventory) string {
	var b strings.Builder
	count := map[string]int{}
	for _, name := range want {
		count[name]--
	}
	for _, name := range got {
		count[name]++
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(want), got...)))) {
		if n := count[name]; n > 0 {
			fmt.Fprintf(&b, "\n  too much: %s (%d)", name, n)
		} else if n < 0 {
			fmt.Fprintf(&b, "\n  missing: %s (%d)", name, -n)
		}
	}
	return b.String()
}
