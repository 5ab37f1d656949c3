package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv"
)

// TestFullDisk fills a small file system: updates fail with the kernel's words, nothing of them is stored, what was stored stays, and
// with room again everything goes on.
func TestFullDisk(t *testing.T) {
	testenv.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	db := open(t, filepath.Join(dir, "db"))
	big := strings.Repeat("x", 16<<10)
	stored := 0
	var full error
	for ; stored < 1000 && full == nil; stored++ {
		full = db.Update(func(tx *Tx) error { return put(tx, fmt.Sprintf("%04d", stored), big) })
	}
	stored--
	if !errors.Is(full, unix.ENOSPC) || !errdefs.IsResourceExhausted(full) {
		t.Fatalf("after %d values the error is %v, want ENOSPC and resource exhausted", stored, full)
	}
	if got := len(names(t, db)); got != stored || stored == 0 {
		t.Errorf("%d values after %d good updates and one that failed", got, stored)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *Tx) error { return put(tx, "later", "1") }); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := len(names(t, open(t, filepath.Join(dir, "db")))); got != stored+1 {
		t.Errorf("%d values after reopening, want %d", got, stored+1)
	}
}
