package volume_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/runtime/volume"
)

// TestHostRunsOutOfSpace promises more than the host has. What a guest has synced before survives, and with room on the host again the
// volume is brought in order.
func TestHostRunsOutOfSpace(t *testing.T) {
	host := hostFileSystem(t, 64<<20, "ext4", "mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0")
	path, ballast := filepath.Join(host, "data-1.img"), filepath.Join(host, "ballast")
	if err := volume.Create(t.Context(), path, 256<<20); err != nil {
		t.Fatal(err)
	}
	write(t, path, "kept", "mine")
	if err := os.WriteFile(ballast, make([]byte, 20<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := mounted(t, path)
	var failed error
	for i := 0; i < 256 && failed == nil; i++ {
		failed = writeSynced(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 1<<20))
	}
	if failed == nil {
		t.Fatal("a guest has stored more than there is")
	}
	t.Logf("the guest met: %v", failed)
	unmount(t, dir)
	detached(t, path)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	report, err := volume.Check(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the check: %v, %s", report.Outcome, report.Reason)
	if err := fsck(t, path); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"mine"}, kept(t, path)); diff != "" {
		t.Error(diff)
	}
}

func writeSynced(path string, text []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
