package volume_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
)

const size = 64 << 20

func create(t *testing.T) string {
	t.Helper()
	testenv.Tool(t, "mkfs.ext4")
	path := filepath.Join(t.TempDir(), "data-1.img")
	if err := volume.Create(t.Context(), path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// fsck returns what fsck.ext4 says without changing anything.
func fsck(t *testing.T, path string) error {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "fsck.ext4"), "-f", "-n", path).CombinedOutput()
	if err != nil {
		t.Logf("fsck.ext4: %s", out)
	}
	return err
}

func TestCreateMakesASparseCleanFileSystem(t *testing.T) {
	path := create(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != size {
		t.Errorf("size = %d, want %d", info.Size(), size)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 2<<20 {
		t.Errorf("an empty volume takes %d bytes", used)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v", info.Mode())
	}
	if err := fsck(t, path); err != nil {
		t.Errorf("fsck: %v", err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unfinished file is left: %v", err)
	}
}

func TestCreateKeepsWhatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data-1.img")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := volume.Create(t.Context(), path, size); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "mine" {
		t.Error("Create replaced a volume")
	}
}

func TestCreateReplacesWhatACrashLeft(t *testing.T) {
	testenv.Tool(t, "mkfs.ext4")
	path := filepath.Join(t.TempDir(), "data-1.img")
	if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := volume.Create(t.Context(), path, size); err != nil {
		t.Fatal(err)
	}
	if err := fsck(t, path); err != nil {
		t.Error(err)
	}
}

func TestCreateRefusesSizes(t *testing.T) {
	for _, bytes := range []uint64{0, 4096, volume.MinBytes - 4096, volume.MinBytes + 1} {
		path := filepath.Join(t.TempDir(), "data-1.img")
		if err := volume.Create(t.Context(), path, bytes); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create of %d bytes = %v, want an invalid argument", bytes, err)
		}
		if left, _ := filepath.Glob(path + "*"); left != nil {
			t.Errorf("left: %v", left)
		}
	}
}

func TestAttachDetachesItself(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	loop, err := volume.Attach(path)
	if err != nil {
		t.Fatal(err)
	}
	if used, err := volume.Attached(path); err != nil || !used {
		t.Errorf("Attached = %v, %v while it is", used, err)
	}
	if err := volume.Repair(t.Context(), path); err != nil {
		t.Errorf("Repair of a clean volume in use: %v", err)
	}
	if err := loop.Close(); err != nil {
		t.Fatal(err)
	}
	if used, err := volume.Attached(path); err != nil || used {
		t.Errorf("Attached = %v, %v after the last user left", used, err)
	}
}

// TestAttachUnderContention has many attach at once, as a host does that starts all its phones.
func TestAttachUnderContention(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	var g errgroup.Group
	for range 16 {
		g.Go(func() error {
			for range 10 {
				loop, err := volume.Attach(path)
				if err != nil {
					return err
				}
				if err := loop.Close(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// damage marks the file system as damaged, as the kernel does when it finds an error, and breaks its root directory's link count.
func damage(t *testing.T, path string) {
	t.Helper()
	debugfs := testenv.Tool(t, "debugfs")
	for _, request := range []string{"set_super_value state 2", "set_inode_field <2> links_count 77"} {
		if out, err := exec.CommandContext(t.Context(), debugfs, "-w", "-R", request, path).CombinedOutput(); err != nil {
			t.Fatalf("debugfs %s: %v: %s", request, err, out)
		}
	}
	if err := fsck(t, path); err == nil {
		t.Fatal("the volume is not damaged")
	}
}

func TestRepairMendsWhatTheKernelMarked(t *testing.T) {
	path := create(t)
	damage(t, path)
	if err := volume.Repair(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := fsck(t, path); err != nil {
		t.Errorf("after Repair: %v", err)
	}
}

func TestRepairLeavesAVolumeInUse(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	damage(t, path)
	loop, err := volume.Attach(path)
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	if err := volume.Repair(t.Context(), path); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Repair = %v, want a failed precondition", err)
	}
}

func TestRepairTellsDataLoss(t *testing.T) {
	path := create(t)
	// Nothing of a file system is left.
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := volume.Repair(t.Context(), path); !errdefs.IsDataLoss(err) {
		t.Errorf("Repair = %v, want data loss", err)
	}
}
