package container_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// ownFileSystem returns a lay function for newHostOn: the state lies on an ext4 of the test's own of that size, in the file image.
func ownFileSystem(t *testing.T, image string, bytes uint64) func(stateDir string) {
	return func(stateDir string) {
		t.Helper()
		if err := volume.Create(t.Context(), image, bytes); err != nil {
			t.Fatal(err)
		}
		loop, err := volume.Attach(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		defer loop.Close()
		if err := unix.Mount(loop.Path, stateDir, "ext4", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(stateDir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
}

// holds reports whether the file at path holds a text.
func holds(t *testing.T, path, text string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const step = 4 << 20
	var before []byte // the end of what was looked at
	buf := make([]byte, step)
	for {
		n, err := io.ReadFull(f, buf)
		before = append(before, buf[:n]...)
		if bytes.Contains(before, []byte(text)) {
			return true
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		before = bytes.Clone(before[max(0, len(before)-len(text)):])
	}
}

// holders lists the files below a directory that hold a text.
func holders(t *testing.T, dir, text string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && holds(t, path, text) {
			found = append(found, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestResetWipes looks for what a phone has stored after its reset: in every file of the host's file system, and on the disk below it. No
// file holds it. The blocks do, until the host's file system gives them to another file or to the disk (trim).
func TestResetWipes(t *testing.T) {
	fstrim := testenv.Tool(t, "fstrim")
	disk := filepath.Join(t.TempDir(), "disk.img")
	h := newHostOn(t, ownFileSystem(t, disk, 256<<20))
	p := h.phone("p1", 0)
	h.start(p)
	const secret = "what only the user of this phone may know"
	h.shell("p1", "yes '"+secret+"' | head -c 8388608 > /data/secret; sync")
	if got := holders(t, h.config.StateDir, secret); len(got) != 1 || got[0] != "/phones/p1/data-1.img" {
		t.Fatalf("before the reset the text is in %v", got)
	}
	before, err := h.engine.DataSpace(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	h.off("p1")
	p.DataGeneration, p.BootGeneration = 2, 2
	h.start(p)
	if err := h.engine.KeepGeneration(t.Context(), "p1", 2); err != nil {
		t.Fatal(err)
	}
	if got := holders(t, h.config.StateDir, secret); len(got) != 0 {
		t.Errorf("after the reset the text is in %v", got)
	}
	if out := h.shell("p1", "ls /data/secret 2>/dev/null || echo gone"); out != "gone\n" {
		t.Errorf("the phone still has %s", out)
	}
	// Nothing holds the removed file open: its space is free.
	after, err := h.engine.DataSpace(t.Context())
	if err != nil || after.HostFreeBytes < before.HostFreeBytes+6<<20 {
		t.Errorf("%d bytes were free before and %d are after the reset, %v", before.HostFreeBytes, after.HostFreeBytes, err)
	}
	if loops := h.loops(); len(loops) != 1 || !strings.HasSuffix(loops[0], "/data-2.img") {
		t.Errorf("loop devices: %v", loops)
	}

	// What is left below the file system, and how it goes. Blocks that ext4 has set aside for an image in use are not trimmed, and the old
	// data's may be among them.
	h.off("p1")
	h.syncState()
	if !holds(t, disk, secret) {
		t.Log("the disk holds nothing of it even before the trim")
	}
	if out, err := exec.CommandContext(t.Context(), fstrim, h.config.StateDir).CombinedOutput(); err != nil {
		t.Fatalf("fstrim: %v: %s", err, out)
	}
	h.syncState()
	if holds(t, disk, secret) {
		t.Error("the disk holds the text after the trim")
	}
}

// syncState has everything on the state's file system reach the disk.
func (h *host) syncState() {
	h.t.Helper()
	d, err := os.Open(h.config.StateDir)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := errors.Join(unix.Syncfs(int(d.Fd())), d.Close()); err != nil {
		h.t.Fatal(err)
	}
}
