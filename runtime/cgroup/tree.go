package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Tree is the part of every hierarchy below one root, and what is left of phones below the roots of former agents.
type Tree struct {
	root        string
	former      []string
	hierarchies []hierarchy
}

// hierarchy is one mounted cgroup file system. v1 ones have the controllers of their mount; v2 has those that the kernel offers.
type hierarchy struct {
	mount       string
	v2          bool
	controllers []string
}

// Limits of a phone and its guest. Zero values mean no limit, and the kernel's default weight.
type Limits struct {
	// Weight against other phones, 1..10000; 100 is the default.
	Weight uint32
	// CPUQuota and CPUPeriod in microseconds.
	CPUQuota, CPUPeriod int64
	MemoryBytes         uint64
	PIDs                int64
}

// New finds the hierarchies of this host. root is an absolute path below each, such as "/phonehost"; former are other such roots, below
// which nobody else has phones: nothing is made there, but cgroups of phones are found there and removed.
func New(root string, former ...string) (*Tree, error) {
	found, err := mounted()
	if err != nil {
		return nil, err
	}
	t := &Tree{root: path.Clean("/" + root), former: former, hierarchies: found}
	for i, h := range t.hierarchies {
		if !h.v2 {
			continue
		}
		text, err := os.ReadFile(filepath.Join(h.mount, "cgroup.controllers"))
		if err != nil {
			return nil, fmt.Errorf("read the controllers of cgroup v2: %w", err)
		}
		t.hierarchies[i].controllers = strings.Fields(string(text))
	}
	return t, nil
}

// mounted finds the hierarchies of this host, without their controllers where they are v2.
func mounted() ([]hierarchy, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	found := parseMountInfo(string(info))
	if len(found) == 0 {
		return nil, errors.New("find the cgroup hierarchies: none is mounted; mount cgroup2 at /sys/fs/cgroup")
	}
	return found, nil
}

// parseMountInfo returns the first mount of each hierarchy whose root is visible.
func parseMountInfo(text string) []hierarchy {
	var found []hierarchy
	seen := make(map[string]bool)
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(tail) < 3 || fields[3] != "/" || seen[fields[2]] {
			continue
		}
		switch tail[0] {
		case "cgroup2":
			found = append(found, hierarchy{mount: fields[4], v2: true})
		case "cgroup":
			found = append(found, hierarchy{mount: fields[4], controllers: strings.Split(tail[2], ",")})
		default:
			continue
		}
		seen[fields[2]] = true // the device number
	}
	return found
}

// GuestPath is where the guest's container belongs, below each hierarchy.
func (t *Tree) GuestPath(id string) string { return path.Join(t.root, id, "guest", "ctr") }

// DisplayPath is where the display's container belongs, below each hierarchy.
func (t *Tree) DisplayPath(id string) string { return path.Join(t.root, id, "display") }

// Below is the tree of the same hierarchies with another root and no former ones.
func (t *Tree) Below(root string) *Tree {
	return &Tree{root: root, hierarchies: t.hierarchies}
}

// RootOf is the inverse of GuestPath and DisplayPath: the root of the tree to which the path of a phone's container belongs; empty if
// it is none of the two.
func RootOf(container, id string) string {
	for _, below := range []string{path.Join("/", id, "guest", "ctr"), path.Join("/", id, "display")} {
		if root, ok := strings.CutSuffix(container, below); ok {
			return root
		}
	}
	return ""
}

// ServicePath is where the container of one of the host's own services belongs, below each hierarchy. No phone has such a name.
func (t *Tree) ServicePath(instance string) string { return path.Join(t.root, ".services", instance) }

// SwapAccounting reports whether the kernel can limit swap. In v2 it is known once a phone has its cgroups.
func (t *Tree) SwapAccounting() bool {
	for _, h := range t.hierarchies {
		file := filepath.Join(h.mount, "memory.memsw.limit_in_bytes")
		if h.v2 {
			file = filepath.Join(h.mount, t.root, "memory.swap.max")
		}
		if _, err := os.Stat(file); err == nil && slices.Contains(h.controllers, "memory") {
			return true
		}
	}
	return false
}

// Create makes the agent's cgroups of a phone and sets the limits, also those of cgroups that exist.
func (t *Tree) Create(id string, l Limits) error {
	for _, h := range t.hierarchies {
		if err := h.create(path.Join(t.root, id, "guest")); err != nil {
			return fmt.Errorf("cgroups of %s: %w", id, err)
		}
		if err := h.limit(path.Join(t.root, id), l); err != nil {
			return fmt.Errorf("cgroups of %s: %w", id, err)
		}
	}
	return nil
}

// Limit sets the limits of a phone's cgroups that exist. One that a hierarchy of cgroup v1 refuses because a container below has more
// of it yet, a lower CPU quota, is left as it is.
func (t *Tree) Limit(id string, l Limits) error {
	for _, h := range t.hierarchies {
		if err := h.limit(path.Join(t.root, id), l); err != nil {
			return fmt.Errorf("cgroups of %s: %w", id, err)
		}
	}
	return nil
}

// create makes every level of p that is missing.
func (h hierarchy) create(p string) error {
	dir := h.mount
	for _, name := range strings.Split(strings.Trim(p, "/"), "/") {
		if h.v2 {
			if err := h.delegate(dir); err != nil {
				return err
			}
		}
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if !h.v2 && slices.Contains(h.controllers, "cpuset") {
			if err := inheritCPUSet(dir); err != nil {
				return err
			}
		}
	}
	if h.v2 {
		return h.delegate(dir)
	}
	return nil
}

// used are the controllers of cgroup v2 that limits or runc want below the agent's cgroups.
var used = []string{"cpu", "cpuset", "io", "memory", "pids"}

// delegate makes the controllers that are used available to the children of a v2 cgroup.
func (h hierarchy) delegate(dir string) error {
	file := filepath.Join(dir, "cgroup.subtree_control")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	enabled := strings.Fields(string(text))
	var missing []string
	for _, c := range used {
		if slices.Contains(h.controllers, c) && !slices.Contains(enabled, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return write(file, strings.Join(missing, " "))
}

// inheritCPUSet fills a new v1 cpuset from its parent: nothing can run in an empty one.
func inheritCPUSet(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, name), strings.TrimSpace(string(parent))); err != nil {
			return err
		}
	}
	return nil
}

// Remove kills nothing: it removes the phone's cgroups, those that a guest made below its own included, from every hierarchy, below
// former roots too. A process that is about to end keeps its cgroup for a moment; Remove waits for it until the context ends.
func (t *Tree) Remove(ctx context.Context, id string) error {
	return t.remove(ctx, id, t.roots())
}

// Leave is Remove below the former roots alone. It touches nothing of a phone that has a process there, and returns
// errdefs.ErrFailedPrecondition.
func (t *Tree) Leave(ctx context.Context, id string) error {
	for _, h := range t.hierarchies {
		for _, root := range t.former {
			dir := filepath.Join(h.mount, root, id)
			if used, err := inUse(dir); err != nil {
				return fmt.Errorf("leave cgroup %s: %w", dir, err)
			} else if used {
				return fmt.Errorf("leave cgroup %s: processes are in it: %w", dir, errdefs.ErrFailedPrecondition)
			}
		}
	}
	return t.remove(ctx, id, t.former)
}

// inUse reports whether a cgroup or one below it has a process.
func inUse(dir string) (bool, error) {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || len(procs) > 0 {
		return len(procs) > 0, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if used, err := inUse(filepath.Join(dir, e.Name())); used || err != nil {
			return used, err
		}
	}
	return false, nil
}

func (t *Tree) roots() []string { return append([]string{t.root}, t.former...) }

func (t *Tree) remove(ctx context.Context, id string, roots []string) error {
	var errs []error
	for _, h := range t.hierarchies {
		for _, root := range roots {
			dir := filepath.Join(h.mount, root, id)
			if err := removeAll(ctx, dir); err != nil {
				errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Vacate removes what a former container left at p, as GuestPath and DisplayPath return it, from every hierarchy. A cgroup that the
// next one took over would bring its limits along, and its rules about devices, which runc replaces only after it has opened some.
// Vacate kills nothing and waits as Remove does; the error is the context's if processes are left.
func (t *Tree) Vacate(ctx context.Context, p string) error {
	var errs []error
	for _, h := range t.hierarchies {
		dir := filepath.Join(h.mount, p)
		if err := removeAll(ctx, dir); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup %s of a former container: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

func removeAll(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeAll(ctx, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	// v1 has no event for the last process's departure, so this asks again, less and less often.
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: processes are left in it: %w", err, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// List names the phones that have a cgroup in any hierarchy, below former roots too, in order. Cgroups whose names begin with a dot are no phones'.
func (t *Tree) List() ([]string, error) {
	var ids []string
	for _, h := range t.hierarchies {
		for _, root := range t.roots() {
			entries, err := os.ReadDir(filepath.Join(h.mount, root))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("list cgroups: %w", err)
			}
			for _, e := range entries {
				if e.IsDir() && !strings.HasPrefix(e.Name(), ".") { // see doc.go
					ids = append(ids, e.Name())
				}
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func write(file, value string) error {
	// Not os.WriteFile: a cgroup file is never created.
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	return nil
}
