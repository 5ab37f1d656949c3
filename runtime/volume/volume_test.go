package volume_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

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

func TestCreateWithFillsBeforeItAppears(t *testing.T) {
	testenv.Root(t)
	testenv.Tool(t, "mkfs.ext4")
	path := filepath.Join(t.TempDir(), "data-1.img")
	err := volume.CreateWith(t.Context(), path, size, func(_ context.Context, root *os.Root) error {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the volume is there before it is complete: %v", err)
		}
		return root.WriteFile("kept", []byte("mine"), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	detached(t, path)
	if err := fsck(t, path); err != nil {
		t.Error(err)
	}
	if got := read(t, path, "kept"); got != "mine" {
		t.Errorf("kept = %q", got)
	}
}

func TestCreateWithLeavesNothingOfAFailure(t *testing.T) {
	testenv.Root(t)
	testenv.Tool(t, "mkfs.ext4")
	dir := t.TempDir()
	path := filepath.Join(dir, "data-1.img")
	broken := errors.New("broken")
	err := volume.CreateWith(t.Context(), path, size, func(context.Context, *os.Root) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("CreateWith = %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	path := create(t)
	if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := volume.Remove(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// open mounts a volume for the test.
func open(t *testing.T, path string, readOnly bool) *volume.Mount {
	t.Helper()
	m, err := volume.Open(t.Context(), path, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func closed(t *testing.T, m *volume.Mount) {
	t.Helper()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// read returns the content of a file in a volume that is off.
func read(t *testing.T, path, name string) string {
	t.Helper()
	m := open(t, path, true)
	defer closed(t, m)
	text, err := m.Root().ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// write makes a file in a volume that is off.
func write(t *testing.T, path, name, text string) {
	t.Helper()
	m := open(t, path, false)
	defer closed(t, m)
	if err := m.Root().WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// detached waits until no loop device has a volume: one keeps it locked, and goes by itself, perhaps not before udev has looked at it.
func detached(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if used, err := volume.Attached(path); err != nil || used {
		t.Errorf("Attached = %v, %v for a volume that nobody has locked", used, err)
	}
}
