package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// MinBytes is the least size of a volume; a smaller file system has no room for its journal.
const MinBytes = 16 << 20

// Create makes a volume of the given size, a multiple of 4096, unless there is one at path. The directory of path exists.
// The volume appears under its name when it is complete and on the disk; a crash leaves path+".new" at most, which the next Create
// replaces. Errors: errdefs.ErrInvalidArgument for a size that is too small or uneven; what the disk says otherwise.
func Create(ctx context.Context, path string, bytes uint64) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("volume: %w", err)
	}
	if bytes < MinBytes || bytes%4096 != 0 {
		return fmt.Errorf("volume of %d bytes, not a multiple of 4096 of at least %d: %w", bytes, MinBytes, errdefs.ErrInvalidArgument)
	}
	temp := path + ".new"
	if err := makeImage(ctx, temp, bytes); err != nil {
		return errors.Join(fmt.Errorf("make volume %s: %w", path, err), os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	crashpoint.Reached("volume/renamed")
	return syncFile(filepath.Dir(path))
}

// makeImage writes a sparse file with an empty file system. Nothing of the file but a few metadata blocks takes space: what mkfs
// would zero, it finds zero already.
func makeImage(ctx context.Context, path string, bytes uint64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(bytes)); err != nil {
		return err
	}
	if err := crashpoint.Fail("volume/truncated"); err != nil {
		return err
	}
	program, err := tool("mkfs.ext4")
	if err != nil {
		return err
	}
	// metadata_csum_seed lets a copy get a new UUID without touching its metadata; no block is kept back for root.
	cmd := exec.CommandContext(ctx, program, "-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-O", "metadata_csum_seed", "-E", "lazy_journal_init=1", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, strings.TrimSpace(string(out)))
	}
	crashpoint.Reached("volume/formatted")
	return f.Sync()
}

// Repair checks the file system of the volume at path and mends it, if its superblock says that the kernel found an error in it. A
// volume that was only not unmounted needs no check: its journal is replayed when it is mounted. It returns
// errdefs.ErrFailedPrecondition if a loop device has the volume, and errdefs.ErrDataLoss if fsck could not mend it.
func Repair(ctx context.Context, path string) error {
	damaged, err := hasErrors(path)
	if err != nil || !damaged {
		return err
	}
	if used, err := Attached(path); err != nil {
		return err
	} else if used {
		return fmt.Errorf("check volume %s: a loop device has it: %w", path, errdefs.ErrFailedPrecondition)
	}
	program, err := tool("fsck.ext4")
	if err != nil {
		return fmt.Errorf("check volume %s: %w", path, err)
	}
	out, err := exec.CommandContext(ctx, program, "-f", "-y", path).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 && exit.ExitCode() < 4 {
		return nil // 1: errors corrected; 2: and a mounted file system's host should restart
	}
	if err != nil {
		return fmt.Errorf("check volume %s: fsck.ext4: %w: %s: %w", path, err, strings.TrimSpace(string(out)), errdefs.ErrDataLoss)
	}
	return nil
}

// Where the superblock lies and what Repair reads of it (Documentation/filesystems/ext4/super.rst).
const (
	superblockOffset = 1024
	magicOffset      = 0x38
	stateOffset      = 0x3a
	ext4Magic        = 0xef53
	stateErrors      = 0x2
)

// hasErrors reports whether the kernel marked the file system as damaged, or whether it has no superblock at all.
func hasErrors(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("volume: %w", err)
	}
	defer f.Close()
	var super [stateOffset + 2]byte
	if _, err := f.ReadAt(super[:], superblockOffset); err != nil {
		return false, fmt.Errorf("read the superblock of volume %s: %w", path, err)
	}
	magic := binary.LittleEndian.Uint16(super[magicOffset:])
	state := binary.LittleEndian.Uint16(super[stateOffset:])
	return magic != ext4Magic || state&stateErrors != 0, nil
}

// tool finds a program of e2fsprogs, which need not be on the PATH of a service.
func tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed; install the package e2fsprogs: %w", name, errdefs.ErrFailedPrecondition)
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
