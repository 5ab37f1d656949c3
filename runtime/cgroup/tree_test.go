package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestParseMountInfo(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []hierarchy
	}{
		{"v2 alone", "31 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n", []hierarchy{{mount: "/sys/fs/cgroup", v2: true}}},
		{"hybrid", `30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
`, []hierarchy{
			{mount: "/sys/fs/cgroup/unified", v2: true},
			{mount: "/sys/fs/cgroup/systemd", controllers: []string{"rw", "xattr", "name=systemd"}},
			{mount: "/sys/fs/cgroup/cpu,cpuacct", controllers: []string{"rw", "cpu", "cpuacct"}},
		}},
		{"a hierarchy mounted twice counts once", "31 23 0:27 / /a rw - cgroup2 none rw\n32 23 0:27 / /b rw - cgroup2 none rw\n", []hierarchy{{mount: "/a", v2: true}}},
		{"a part of a hierarchy is none", "31 23 0:27 /docker/x /a rw - cgroup2 none rw\n", nil},
		{"rubbish", "x\n - cgroup2\n1 2 3 4 5\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parseMountInfo(tt.text), cmp.AllowUnexported(hierarchy{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// newTree is a tree of a test in the host's hierarchies; everything of it is removed when the test ends.
func newTree(t *testing.T) *Tree {
	t.Helper()
	testenv.Root(t)
	tree, err := New(fmt.Sprintf("/phonehost-cgtest-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, h := range tree.hierarchies {
			if err := os.Remove(filepath.Join(h.mount, tree.root)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	return tree
}

// TestFormerRoot has a phone in the root of a former agent: it is found, left alone while something runs in it, and removed.
func TestFormerRoot(t *testing.T) {
	former := newTree(t)
	tree, err := New(former.root+"-next", former.root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, h := range tree.hierarchies {
			if err := os.Remove(filepath.Join(h.mount, tree.root)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	for _, id := range []string{"p1", "p2"} {
		if err := former.Create(id, Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Create("p1", Limits{}); err != nil {
		t.Fatal(err)
	}
	if ids, err := tree.List(); err != nil || !slices.Equal(ids, []string{"p1", "p2"}) {
		t.Errorf("List = %v, %v, want p1 once, and p2", ids, err)
	}
	cmd := exec.Command(testenv.Tool(t, "sleep"), "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A process may be in any leaf, but in a new cpuset of v1.
	i := slices.IndexFunc(former.hierarchies, func(h hierarchy) bool { return h.v2 || !slices.Contains(h.controllers, "cpuset") })
	display := filepath.Join(former.hierarchies[i].mount, former.DisplayPath("p1"))
	if err := os.Mkdir(display, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := write(filepath.Join(display, "cgroup.procs"), fmt.Sprint(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if err := tree.Leave(t.Context(), "p1"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Leave of a phone that runs = %v, want a failed precondition", err)
	}
	for _, h := range former.hierarchies {
		if _, err := os.Stat(filepath.Join(h.mount, former.root, "p1", "guest")); err != nil {
			t.Errorf("cgroups of a phone that runs: %v", err)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := tree.Leave(t.Context(), "p1"); err != nil {
		t.Error(err)
	}
	for _, h := range former.hierarchies {
		if _, err := os.Stat(filepath.Join(h.mount, former.root, "p1")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the former cgroup: %v", err)
		}
		if _, err := os.Stat(filepath.Join(h.mount, tree.root, "p1", "guest")); err != nil {
			t.Errorf("the present cgroup: %v", err)
		}
	}
	for _, id := range []string{"p1", "p2"} {
		if err := tree.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if ids, err := tree.List(); err != nil || len(ids) != 0 {
		t.Errorf("List = %v, %v", ids, err)
	}
}

func TestRootOf(t *testing.T) {
	tree := &Tree{root: "/a.slice/b.scope"}
	for _, tt := range []struct{ path, id, want string }{
		{tree.GuestPath("p1"), "p1", "/a.slice/b.scope"},
		{tree.DisplayPath("p1"), "p1", "/a.slice/b.scope"},
		{tree.Below("/phonehost").DisplayPath("p1"), "p1", "/phonehost"},
		{tree.GuestPath("p1"), "p2", ""},
		{"/a/xp1/display", "p1", ""},
		{"/p1/display", "p1", ""},
		{"", "p1", ""},
	} {
		if got := RootOf(tt.path, tt.id); got != tt.want {
			t.Errorf("RootOf(%q, %q) = %q, want %q", tt.path, tt.id, got, tt.want)
		}
	}
}

func TestCreateChangesLimits(t *testing.T) {
	tree := newTree(t)
	for _, memory := range []uint64{256 << 20, 64 << 20, 512 << 20} { // down, and up again
		if err := tree.Create("p1", Limits{MemoryBytes: memory, CPUQuota: 50_000, CPUPeriod: 100_000, PIDs: 100}); err != nil {
			t.Fatal(err)
		}
		checked := 0
		for _, h := range tree.hierarchies {
			for _, name := range []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max"} {
				text, err := os.ReadFile(filepath.Join(h.mount, tree.root, "p1", "guest", name))
				if err != nil {
					continue
				}
				checked++
				if got := string(text); got != fmt.Sprintln(memory) {
					t.Errorf("%s = %q, want %d", name, got, memory)
				}
			}
		}
		if checked == 0 {
			t.Error("no hierarchy has a memory limit")
		}
	}
	if ids, err := tree.List(); err != nil || len(ids) != 1 || ids[0] != "p1" {
		t.Errorf("List = %v, %v", ids, err)
	}
	if err := tree.Remove(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	if err := tree.Remove(t.Context(), "p1"); err != nil {
		t.Errorf("removing twice: %v", err)
	}
	if ids, err := tree.List(); err != nil || len(ids) != 0 {
		t.Errorf("List = %v, %v", ids, err)
	}
}

// TestRemoveWaitsForProcesses removes cgroups with a process in one that a guest made: not while it lives, and then at once.
func TestRemoveWaitsForProcesses(t *testing.T) {
	tree := newTree(t)
	if err := tree.Create("p1", Limits{}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testenv.Tool(t, "sleep"), "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, h := range tree.hierarchies {
		if err := write(filepath.Join(h.guests(t, tree), "cgroup.procs"), fmt.Sprint(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tree.Remove(ctx, "p1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Remove with a process inside = %v", err)
	}
	if err := tree.Vacate(ctx, tree.GuestPath("p1")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Vacate with a process inside = %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for range 2 { // the second finds nothing
		if err := tree.Vacate(t.Context(), tree.GuestPath("p1")); err != nil {
			t.Error(err)
		}
	}
	for _, h := range tree.hierarchies {
		if left, err := os.ReadDir(filepath.Join(h.mount, tree.root, "p1", "guest")); err != nil || slices.ContainsFunc(left, os.DirEntry.IsDir) {
			t.Errorf("after Vacate the guest's cgroup has %v, %v, want itself alone", left, err)
		}
	}
	if err := tree.Remove(t.Context(), "p1"); err != nil {
		t.Error(err)
	}
}

// guests makes the cgroup "own" of a guest below its container's, and returns its directory. In v2 a cgroup that hands controllers on
// takes no processes, so the guest's hands on none.
func (h hierarchy) guests(t *testing.T, tree *Tree) string {
	t.Helper()
	own := filepath.Join(tree.GuestPath("p1"), "own")
	dir := filepath.Join(h.mount, own)
	err := h.create(tree.GuestPath("p1"))
	if err == nil && h.v2 {
		err = os.Mkdir(dir, 0o755)
	} else if err == nil {
		err = h.create(own)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
