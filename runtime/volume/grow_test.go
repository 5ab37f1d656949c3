package volume_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// grown checks that a volume and its file system have a size, and that nothing in it was lost.
func grown(t *testing.T, path string, bytes uint64) {
	t.Helper()
	detached(t, path)
	if err := fsck(t, path); err != nil {
		t.Errorf("after growing: %v", err)
	}
	if got := read(t, path, "kept"); got != "mine" {
		t.Errorf("kept = %q", got)
	}
	u := stat(t, path)
	if u.Bytes != bytes || u.CapacityBytes < bytes*8/10 || u.CapacityBytes > bytes {
		t.Errorf("usage = %+v, want a file system of nearly %d bytes", u, bytes)
	}
}

func TestGrowWhenOff(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	write(t, path, "kept", "mine")
	for _, bytes := range []uint64{size, 2 * size, 2 * size, 2*size + 4096, 20 * size} {
		if err := volume.Grow(t.Context(), path, bytes); err != nil {
			t.Fatal(err)
		}
		grown(t, path, bytes)
	}
}

// TestGrowFinishesWhatACrashLeft begins with a file that is longer than its file system, and one whose file system was in use then.
func TestGrowFinishesWhatACrashLeft(t *testing.T) {
	testenv.Root(t)
	for name, cut := range map[string]func(t *testing.T, path string) string{
		"off": func(t *testing.T, path string) string { return path },
		"not unmounted": func(t *testing.T, path string) string {
			return powerCut(t, path, func(*volume.Mount) {})
		},
		"with errors": func(t *testing.T, path string) string {
			damage(t, path)
			return path
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := create(t)
			write(t, path, "kept", "mine")
			path = cut(t, path)
			if err := os.Truncate(path, 3*size); err != nil {
				t.Fatal(err)
			}
			if err := volume.Grow(t.Context(), path, 3*size); err != nil {
				t.Fatal(err)
			}
			grown(t, path, 3*size)
		})
	}
}

func TestGrowNeverShrinks(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	write(t, path, "kept", "mine")
	for _, bytes := range []uint64{0, size / 2, size - 4096, size + 1, 1 << 62} {
		if err := volume.Grow(t.Context(), path, bytes); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Grow to %d = %v, want an invalid argument", bytes, err)
		}
	}
	grown(t, path, size)
}

// mayResize reports whether the kernel lets this process grow a mounted file system.
func mayResize(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		t.Fatal(err)
	}
	return sets[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// TestGrowWhenMounted grows under a mount, as a guest's is: it sees the room at once.
func TestGrowWhenMounted(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	write(t, path, "kept", "mine")
	dir := mounted(t, path)
	err := volume.Grow(t.Context(), path, 4*size)
	if !mayResize(t) {
		if !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Grow = %v, want a failed precondition without CAP_SYS_RESOURCE", err)
		}
		// It grows as soon as it is off. The rest is shown in machines: TestVMVolumes.
		unmount(t, dir)
		if err := volume.Grow(t.Context(), path, 4*size); err != nil {
			t.Error(err)
		}
		grown(t, path, 4*size)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 3*size), 0o600); err != nil {
		t.Errorf("the guest cannot use its new room: %v", err)
	}
	// A crash after the file, and one after the device, had grown.
	if err := os.Truncate(path, 5*size); err != nil {
		t.Fatal(err)
	}
	if err := volume.Grow(t.Context(), path, 5*size); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(path, 6*size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "losetup"), "--set-capacity", device(t, path)).CombinedOutput(); err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	for range 2 {
		if err := volume.Grow(t.Context(), path, 6*size); err != nil {
			t.Error(err)
		}
	}
	if u := stat(t, path); u.Bytes != 6*size || u.CapacityBytes < 5*size {
		t.Errorf("usage = %+v", u)
	}
	unmount(t, dir)
	grown(t, path, 6*size)
}

// TestGrowFarBeyond grows past what mkfs has kept room for in its tables, which is about a thousand times the size.
func TestGrowFarBeyond(t *testing.T) {
	testenv.Root(t)
	path := filepath.Join(t.TempDir(), "data-1.img")
	if err := volume.Create(t.Context(), path, volume.MinBytes); err != nil {
		t.Fatal(err)
	}
	write(t, path, "kept", "mine")
	const far = 2048 * volume.MinBytes
	err := volume.Grow(t.Context(), path, far)
	if !mayResize(t) {
		if !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Grow = %v, want a failed precondition without CAP_SYS_RESOURCE", err)
		}
		if err := fsck(t, path); err != nil {
			t.Errorf("after the refusal: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	grown(t, path, far)
}
