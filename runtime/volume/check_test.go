package volume_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// sum is a digest of a file from an offset on.
func sum(t *testing.T, path string, from int64) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// debugfs changes a file system that is not mounted.
func debugfs(t *testing.T, path string, requests ...string) {
	t.Helper()
	for _, request := range requests {
		out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "debugfs"), "-w", "-R", request, path).CombinedOutput()
		if err != nil {
			t.Fatalf("debugfs %s: %v: %s", request, err, out)
		}
	}
}

// damage marks the file system as damaged, as the kernel does when it finds an error, and breaks its root directory's link count.
func damage(t *testing.T, path string) {
	t.Helper()
	debugfs(t, path, "set_super_value state 2", "set_inode_field <2> links_count 77")
	if err := fsck(t, path); err == nil {
		t.Fatal("the volume is not damaged")
	}
}

// powerCut makes a copy of a volume as a power cut would leave it: while it is mounted, everything in it synced.
func powerCut(t *testing.T, path string, before func(m *volume.Mount)) string {
	t.Helper()
	testenv.Root(t)
	m := open(t, path, false)
	defer closed(t, m)
	before(m)
	if err := m.Sync(); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "data-1.img")
	from, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, from, 0o600); err != nil {
		t.Fatal(err)
	}
	return copied
}

// kernelError has the kernel find an error in a file system that is mounted.
func kernelError(t *testing.T, path string) {
	t.Helper()
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(text)) == path {
			device := filepath.Base(filepath.Dir(filepath.Dir(name)))
			if err := os.WriteFile("/sys/fs/ext4/"+device+"/trigger_fs_error", []byte("a test's"), 0o200); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no loop device has %s", path)
}

func TestCheck(t *testing.T) {
	testenv.Root(t)
	keep := func(m *volume.Mount) {
		if err := m.Root().WriteFile("kept", []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		make    func(t *testing.T) string
		outcome volume.Outcome
		says    string // in the report's Reason and Summary
	}{
		{"unmounted", func(t *testing.T) string {
			path := create(t)
			m := open(t, path, false)
			keep(m)
			closed(t, m)
			return path
		}, volume.Clean, ""},
		{"a power cut", func(t *testing.T) string {
			return powerCut(t, create(t), keep)
		}, volume.Replayed, "recovering journal"},
		{"a power cut with an open file that was removed", func(t *testing.T) string {
			return powerCut(t, create(t), func(m *volume.Mount) {
				keep(m)
				f, err := m.Root().Create("gone")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
				if _, err := f.Write(make([]byte, 1<<20)); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(f.Sync(), m.Root().Remove("gone")); err != nil {
					t.Fatal(err)
				}
			})
		}, volume.Replayed, "Clearing orphaned inode"},
		{"an error that the kernel found", func(t *testing.T) string {
			path := create(t)
			return powerCut(t, path, func(m *volume.Mount) {
				keep(m)
				kernelError(t, path)
			})
		}, volume.Mended, "with errors, check forced"},
		{"a broken link count", func(t *testing.T) string {
			path := create(t)
			write(t, path, "kept", "mine")
			damage(t, path)
			return path
		}, volume.Mended, "ref count is 77"},
		{"a broken superblock", func(t *testing.T) string {
			// Larger than one block group, so that there is a second superblock.
			path := filepath.Join(t.TempDir(), "data-1.img")
			if err := volume.Create(t.Context(), path, 256<<20); err != nil {
				t.Fatal(err)
			}
			write(t, path, "kept", "mine")
			overwrite(t, path, 1024, 1024)
			return path
		}, volume.Mended, "trying backup blocks"},
		{"a root directory that is none", func(t *testing.T) string {
			path := create(t)
			write(t, path, "kept", "mine")
			debugfs(t, path, "set_super_value state 2", "set_inode_field <2> mode 0100755")
			return path
		}, volume.Mended, "UNEXPECTED INCONSISTENCY"},
		{"mounted often enough", func(t *testing.T) string {
			path := create(t)
			out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "tune2fs"), "-c", "1", path).CombinedOutput()
			if err != nil {
				t.Fatalf("tune2fs: %v: %s", err, out)
			}
			write(t, path, "kept", "mine")
			return path
		}, volume.Clean, "mounted 1 times"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := tt.make(t)
			report, err := volume.Check(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if report.Outcome != tt.outcome || !strings.Contains(report.Reason+"\n"+report.Summary, tt.says) {
				t.Errorf("Check = %v, %q, %q; want %v with %q", report.Outcome, report.Reason, report.Summary, tt.outcome, tt.says)
			}
			if err := fsck(t, path); err != nil {
				t.Errorf("after the check: %v", err)
			}
			if again, err := volume.Check(t.Context(), path); err != nil || again.Outcome != volume.Clean {
				t.Errorf("checked again: %+v, %v", again, err)
			}
			if diff := cmp.Diff([]string{"mine"}, kept(t, path)); diff != "" {
				t.Errorf("the file kept: %s", diff)
			}
			if diff := cmp.Diff([]string{path}, glob(t, path+"*")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// kept returns what is in the file kept, or in the files that a check has put into lost+found.
func kept(t *testing.T, path string) []string {
	t.Helper()
	m := open(t, path, true)
	defer closed(t, m)
	var found []string
	for _, pattern := range []string{"kept", "lost+found/*"} {
		names, err := fs.Glob(m.Root().FS(), pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if text, err := m.Root().ReadFile(name); err == nil {
				found = append(found, string(text))
			}
		}
	}
	return found
}

// overwrite puts random bytes into an image.
func overwrite(t *testing.T, path string, at int64, bytes int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise := make([]byte, bytes)
	rand.NewChaCha8([32]byte{}).Read(noise)
	if _, err := f.WriteAt(noise, at); err != nil {
		t.Fatal(err)
	}
}

// TestCheckLeavesWhatIsBeyondRepair wants the image untouched, and the same answer the next time.
func TestCheckLeavesWhatIsBeyondRepair(t *testing.T) {
	for _, tt := range []struct {
		name string
		ruin func(t *testing.T, path string)
		says string
	}{
		{"noise", func(t *testing.T, path string) { overwrite(t, path, 0, size) }, "superblock"},
		{"cut short", func(t *testing.T, path string) {
			damage(t, path)
			if err := os.Truncate(path, size/2); err != nil {
				t.Fatal(err)
			}
		}, "physical size"},
		{"empty", func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		}, "short read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := create(t)
			tt.ruin(t, path)
			const superblock = 2048 // e2fsck -p notes the errors, and when, in the superblock, as the kernel does
			before := sum(t, path, superblock)
			for range 2 {
				report, err := volume.Check(t.Context(), path)
				if !errdefs.IsDataLoss(err) || report.Outcome != volume.BeyondRepair {
					t.Errorf("Check = %v, %v; want beyond repair", report.Outcome, err)
				}
				if !strings.Contains(report.Summary, tt.says) {
					t.Errorf("the summary %q does not say %q", report.Summary, tt.says)
				}
				if sum(t, path, superblock) != before {
					t.Fatal("the image was changed")
				}
			}
			if diff := cmp.Diff([]string{path}, glob(t, path+"*")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCheckIsBoundedByItsContext cuts a check short; the next one does it.
func TestCheckIsBoundedByItsContext(t *testing.T) {
	path := create(t)
	damage(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := volume.Check(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("Check = %v, want its context's error", err)
	}
	if report, err := volume.Check(t.Context(), path); err != nil || report.Outcome != volume.Mended {
		t.Errorf("the next check = %v, %v", report, err)
	}
	if diff := cmp.Diff([]string{path}, glob(t, path+"*")); diff != "" {
		t.Error(diff)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
