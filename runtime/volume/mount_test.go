package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// mounted attaches a volume and mounts it at a directory, as runc does for a guest, until the end of the test or unmount.
func mounted(t *testing.T, path string) (dir string) {
	t.Helper()
	testenv.Root(t)
	loop, err := volume.Attach(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	dir = t.TempDir()
	if err := unix.Mount(loop.Path, dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "discard"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

// device returns the path of the loop device that has a volume.
func device(t *testing.T, path string) string {
	t.Helper()
	for _, name := range glob(t, "/sys/block/loop*/loop/backing_file") {
		if text, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(text)) == path {
			return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(name)))
		}
	}
	t.Fatalf("no loop device has %s", path)
	return ""
}

// TestOpenIsNowhereMounted looks for the mount in the mount namespaces of this process and of the host's first.
func TestOpenIsNowhereMounted(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	m := open(t, path, false)
	used := device(t, path)
	if err := m.Root().WriteFile("here", []byte("mine"), 0o640); err != nil {
		t.Error(err)
	}
	for _, process := range []string{"self", "1"} {
		info, err := os.ReadFile("/proc/" + process + "/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(info), used+" ") {
			t.Errorf("process %s sees it mounted", process)
		}
	}
	closed(t, m)
	detached(t, path)
	if got := read(t, path, "here"); got != "mine" {
		t.Errorf("here = %q", got)
	}
	if err := fsck(t, path); err != nil {
		t.Error(err)
	}
}

// TestOpenedRootIsTheEnd tries ways out of the volume.
func TestOpenedRootIsTheEnd(t *testing.T) {
	testenv.Root(t)
	m := open(t, create(t), false)
	defer closed(t, m)
	root := m.Root()
	if err := errors.Join(root.Symlink("/etc", "absolute"), root.Symlink("../../../etc", "upward"), root.Mkdir("dir", 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../etc/hostname", "absolute/hostname", "upward/hostname", "dir/../../etc/hostname", "/etc/hostname"} {
		if text, err := root.ReadFile(name); err == nil {
			t.Errorf("%s leads to %q", name, text)
		}
	}
}

func TestOpenReadOnlyChangesNothing(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	write(t, path, "kept", "mine")
	before := sum(t, path, 0)
	m := open(t, path, true)
	if err := m.Root().WriteFile("new", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a file in a read-only volume: %v", err)
	}
	if text, err := m.Root().ReadFile("kept"); err != nil || string(text) != "mine" {
		t.Errorf("kept = %q, %v", text, err)
	}
	if u := stat(t, path); !u.Live {
		t.Errorf("usage of an opened volume: %+v", u)
	}
	closed(t, m)
	if sum(t, path, 0) != before {
		t.Error("the image was changed")
	}
	m = open(t, path, true)
	defer closed(t, m)
	if err := volume.Grow(t.Context(), path, 2*size); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("Grow of a volume that is being read = %v, want that it is in use", err)
	}
	if _, err := volume.Trim(t.Context(), path); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("Trim of a volume that is being read = %v, want that it is in use", err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	overwrite(t, path, 0, 1<<20)
	_, err := volume.Open(t.Context(), path, false)
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), path) {
		t.Errorf("Open of noise = %v, want an invalid argument with the name", err)
	}
	detached(t, path)
	if _, err := volume.Open(t.Context(), path+"?", false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of nothing = %v", err)
	}
}
