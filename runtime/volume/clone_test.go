package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// hostFileSystem mounts a file system of the test's own, as a host may have for its state, and returns its directory. prepare makes it
// in a file.
func hostFileSystem(t *testing.T, bytes int64, kind string, mkfs ...string) string {
	t.Helper()
	testenv.Root(t)
	program := testenv.Tool(t, mkfs[0])
	image := filepath.Join(t.TempDir(), kind+".img")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, bytes)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), program, append(mkfs[1:], image)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
	loop, err := volume.Attach(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	dir := t.TempDir()
	if err := unix.Mount(loop.Path, dir, kind, 0, ""); errors.Is(err, unix.ENODEV) {
		testenv.Missing(t, kind, "the kernel has no "+kind)
	} else if err != nil {
		t.Fatal(err)
	}
	// Loop devices of files on it may be gone a moment later only.
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func uuid(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id := make([]byte, 16)
	if _, err := f.ReadAt(id, 1024+0x68); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", id)
}

func TestClone(t *testing.T) {
	for _, tt := range []struct {
		name   string
		dir    func(t *testing.T) string
		shared bool
	}{
		{"copied", func(t *testing.T) string {
			return hostFileSystem(t, 512<<20, "ext4", "mkfs.ext4", "-q", "-F")
		}, false},
		{"reflinked", func(t *testing.T) string {
			return hostFileSystem(t, 512<<20, "xfs", "mkfs.xfs", "-q", "-s", "size=4096", "-m", "reflink=1")
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tt.dir(t)
			source, path := filepath.Join(dir, "data-1.img"), filepath.Join(dir, "data-2.img")
			if err := volume.Create(t.Context(), source, 256<<20); err != nil {
				t.Fatal(err)
			}
			noise := make([]byte, 8<<20)
			rand.NewChaCha8([32]byte{1}).Read(noise)
			write(t, source, "kept", string(noise))
			before := sum(t, source, 0)
			free := available(t, dir)

			shared, err := volume.Clone(t.Context(), source, path)
			if err != nil {
				t.Fatal(err)
			}
			if shared != tt.shared {
				t.Errorf("shared = %v", shared)
			}
			took := free - available(t, dir)
			if tt.shared && took > 1<<20 || !tt.shared && (took < len(noise) || took > len(noise)+8<<20) {
				t.Errorf("the clone of a volume with %d bytes in it took %d", len(noise), took)
			}
			if sum(t, source, 0) != before {
				t.Error("the source was changed")
			}
			if uuid(t, path) == uuid(t, source) {
				t.Error("both have the same UUID")
			}
			if err := fsck(t, path); err != nil {
				t.Errorf("fsck of the clone: %v", err)
			}
			if !bytes.Equal([]byte(read(t, path, "kept")), noise) {
				t.Error("the clone does not hold what its source does")
			}
			// They are two.
			write(t, path, "kept", "other")
			if !bytes.Equal([]byte(read(t, source, "kept")), noise) {
				t.Error("what was written to the clone is in its source")
			}
			// A second call keeps what is there.
			if _, err := volume.Clone(t.Context(), source, path); err != nil {
				t.Error(err)
			}
			if read(t, path, "kept") != "other" {
				t.Error("the clone was replaced")
			}
		})
	}
}

func available(t *testing.T, dir string) int {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := errors.Join(unix.Syncfs(int(f.Fd())), unix.Fstatfs(int(f.Fd()), &st)); err != nil {
		t.Fatal(err)
	}
	return int(st.Bavail) * int(st.Bsize)
}

// TestCloneOfWhatWasNotUnmounted wants a check first.
func TestCloneOfWhatWasNotUnmounted(t *testing.T) {
	source := powerCut(t, create(t), func(m *volume.Mount) {
		if err := m.Root().WriteFile("kept", []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	before := sum(t, source, 0)
	path := filepath.Join(t.TempDir(), "data-2.img")
	if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil { // of a crash
		t.Fatal(err)
	}
	if _, err := volume.Clone(t.Context(), source, path); !errdefs.IsFailedPrecondition(err) || errors.Is(err, volume.ErrInUse) {
		t.Errorf("Clone = %v, want a failed precondition", err)
	}
	if sum(t, source, 0) != before {
		t.Error("the source was changed")
	}
	if _, err := volume.Check(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	if _, err := volume.Clone(t.Context(), source, path); err != nil {
		t.Fatal(err)
	}
	if err := fsck(t, path); err != nil {
		t.Error(err)
	}
	if got := read(t, path, "kept"); got != "mine" {
		t.Errorf("kept = %q", got)
	}
}

func TestCloneThatIsCutShortLeavesNothing(t *testing.T) {
	testenv.Root(t)
	source := create(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := volume.Clone(ctx, source, filepath.Join(dir, "data-1.img")); !errors.Is(err, context.Canceled) {
		t.Errorf("Clone = %v, want its context's error", err)
	}
	if _, err := volume.Clone(t.Context(), source+"?", filepath.Join(dir, "data-1.img")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Clone of nothing = %v", err)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
