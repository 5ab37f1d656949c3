package container_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRootIsMadeAnewWhenItsDirectoriesAreLost does what a power cut does between containerd's record of a snapshot, which is synced, and the
// snapshot's directories, which are not: the next start has a root all the same.
func TestRootIsMadeAnewWhenItsDirectoriesAreLost(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	for _, lost := range []string{"work", "."} {
		h.prepare(p)
		h.start(p)
		h.booted("p1")
		h.off("p1") // its container stays, and names the snapshot
		if err := os.RemoveAll(filepath.Join(h.upper("p1"), "..", lost)); err != nil {
			t.Fatal(err)
		}
		p.BootGeneration++
		h.prepare(p)
		if info, err := os.Stat(h.upper("p1")); err != nil || !info.IsDir() {
			t.Errorf("without its directory %q the root was not made anew: %v", lost, err)
		}
		h.start(p)
		h.booted("p1")
		h.off("p1")
		p.BootGeneration++
	}
	if keys := h.snapshots("p1"); len(keys) != 1 {
		t.Errorf("the phone has the snapshots %v, want one", keys)
	}
}

// upper returns the directory that the phone's root file system is written to.
func (h *host) upper(id string) string {
	h.t.Helper()
	mounts, err := h.engine.Client().SnapshotService("overlayfs").Mounts(h.t.Context(), h.snapshots(id)[0])
	if err != nil {
		h.t.Fatal(err)
	}
	for _, option := range mounts[0].Options {
		if dir, found := strings.CutPrefix(option, "upperdir="); found {
			return dir
		}
	}
	h.t.Fatalf("the root of %s is mounted by %v, without an upper directory", id, mounts)
	return ""
}
