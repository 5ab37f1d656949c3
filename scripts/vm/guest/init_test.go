package guest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestKernelMounts(t *testing.T) {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	// hierarchies are the targets of one kind.
	hierarchies := func(cgroup1 bool, kind string) (targets []string) {
		b := &boot{line: commandLine{cgroup1: cgroup1}}
		for _, m := range b.kernelMounts() {
			if !strings.Contains(string(known), "\t"+m.kind+"\n") {
				t.Errorf("%s is mounted at %s, which the kernel does not know", m.kind, m.target)
			}
			if m.kind == kind {
				targets = append(targets, m.target)
			}
		}
		if len(b.problems) > 0 {
			t.Errorf("problems: %q", b.problems)
		}
		return targets
	}
	if strings.Contains(string(known), "\tcgroup2\n") {
		if diff := cmp.Diff([]string{"/sys/fs/cgroup"}, hierarchies(false, "cgroup2")); diff != "" {
			t.Errorf("version 2 (-want +got):\n%s", diff)
		}
	}
	if got := hierarchies(true, "cgroup2"); len(got) > 0 {
		t.Errorf("with version 1, version 2 is mounted at %q", got)
	}
	if got := hierarchies(false, "cgroup"); len(got) > 0 {
		t.Errorf("with version 2, version 1 is mounted at %q", got)
	}
	if got := hierarchies(true, "cgroup"); strings.Contains(string(known), "\tcgroup\n") && !slices.Contains(got, "/sys/fs/cgroup/memory") {
		t.Errorf("version 1 is mounted at %q, want all of its hierarchies", got)
	}
}

// TestProblems keeps an error of several lines in one, as the file of problems has them.
func TestProblems(t *testing.T) {
	b := &boot{}
	b.problem(errors.Join(errors.New("one"), errors.New("two")))
	b.problem(errors.New("three"))
	if diff := cmp.Diff([]string{"one; two", "three"}, b.problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestDescribe(t *testing.T) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	g, err := describe(commandLine{kind: kindSystem})
	if err != nil || g.BootID+"\n" != string(boot) || g.Release+"\n" != string(release) || g.Kind != kindSystem {
		t.Errorf("got %+v, %v, want boot %s, release %s", g, err, boot, release)
	}
}

// TestEmpty deletes what an initrd has, but what is mounted on the new root's directory.
func TestEmpty(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	for _, name := range []string{filepath.Join(dir, "bin/busybox"), filepath.Join(dir, "init"), filepath.Join(dir, "newroot/kept"), outside} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, "linked-directory")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := empty(root); err != nil {
		t.Fatal(err)
	}
	alone(t, dir, "newroot")
	alone(t, filepath.Join(dir, "newroot"), "kept")
	alone(t, filepath.Dir(outside), "outside")
}

func TestCopyTree(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	if err := os.MkdirAll(filepath.Join(from, "dir", "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "dir", "file"), []byte("hello"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(from, "dir", "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(from, "dir", "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(from, to); err != nil {
		t.Fatal(err)
	}
	alone(t, to, "dir")
	alone(t, filepath.Join(to, "dir"), "empty", "file", "link")
	text, err := os.ReadFile(filepath.Join(to, "dir", "link"))
	info, statErr := os.Lstat(filepath.Join(to, "dir", "file"))
	if err := errors.Join(err, statErr); err != nil || string(text) != "hello" || info.Mode() != 0o750 {
		t.Errorf("the copy has %q, %v, %v", text, info.Mode(), err)
	}
	if err := copyTree(filepath.Join(from, "none"), to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a tree that is not there: %v", err)
	}
}
