package volume_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/phonehost/phonehost/runtime/volume"
)

// stat returns the usage of a volume.
func stat(t *testing.T, path string) volume.Usage {
	t.Helper()
	u, err := volume.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// near reports whether two numbers of bytes differ by less than a MiB.
func near(a, b uint64) bool { return max(a, b)-min(a, b) < 1<<20 }

// TestStat compares what is said of a volume that is off with what the kernel says when it is mounted.
func TestStat(t *testing.T) {
	path := create(t)
	empty := stat(t, path)
	if empty.Bytes != size || empty.AllocatedBytes == 0 || empty.AllocatedBytes > 2<<20 || empty.Live || empty.CapacityBytes == 0 ||
		!near(empty.FreeBytes, empty.CapacityBytes) || empty.Files == 0 || empty.FreeFiles > empty.Files {
		t.Errorf("an empty volume: %+v", empty)
	}
	dir := mounted(t, path)
	const fill = 20 << 20
	f, err := os.Create(filepath.Join(dir, "full"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, fill)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	live := stat(t, path)
	if !live.Live || live.Files != empty.Files || live.FreeFiles != empty.FreeFiles-1 || !near(live.CapacityBytes, empty.CapacityBytes) ||
		!near(live.FreeBytes, empty.FreeBytes-fill) || live.AllocatedBytes < fill {
		t.Errorf("mounted, with %d bytes: %+v; empty it was %+v", fill, live, empty)
	}
	unmount(t, dir)
	detached(t, path) // a mount namespace that another program made just now has a copy of the mount for a moment
	off := stat(t, path)
	if off.Live || off.Files != live.Files || off.FreeFiles != live.FreeFiles || !near(off.FreeBytes, live.FreeBytes) || !near(off.CapacityBytes, live.CapacityBytes) {
		t.Errorf("unmounted: %+v; mounted it was %+v", off, live)
	}
}
