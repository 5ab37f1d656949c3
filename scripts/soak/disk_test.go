package soak

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv"
)

// diskBytes is the size of the file system below a host's state directory: room for the display's root and some phones.
const diskBytes = 1 << 30

// smallDisk puts the state directory on a file system of its own, which a test can fill.
func smallDisk(t testing.TB, dir string) {
	t.Helper()
	state, image := filepath.Join(dir, "state"), filepath.Join(dir, "disk.img")
	if err := os.Mkdir(state, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, diskBytes); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{testenv.Tool(t, "mkfs.ext4"), "-q", "-F", "-m", "0", image}, {testenv.Tool(t, "mount"), "-o", "loop", image, state}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(state, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount the state directory: %v", err)
		}
	})
}

// fullFor is how long the disk stays full: long enough for a step to meet it and to be tried again.
const fullFor = 1200 * time.Millisecond

// fill takes every free block of the state directory's file system.
func (h *host) fill() error {
	f, err := os.OpenFile(h.path("state", "fill"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var at int64
	for size := int64(diskBytes); size >= 4096; { // halved until nothing fits any more
		switch err := unix.Fallocate(int(f.Fd()), 0, at, size); {
		case err == nil:
			at += size
		case errors.Is(err, unix.ENOSPC):
			size /= 2
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("fill the disk: %w", err)
		}
	}
	return nil
}

// free gives the blocks back.
func (h *host) free() error { return os.Remove(h.path("state", "fill")) }
