package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// MinBytes is the least size of a volume; a smaller file system has no room for its journal.
const MinBytes = 16 << 20

// blockBytes is the block size of the file systems: sizes of volumes are multiples of it.
const blockBytes = 4096

// Create makes a volume of the given size, a multiple of 4096, unless there is one at path. The directory of path exists.
// The volume appears under its name when it is complete and on the disk; a crash leaves path+".new" at most, which the next attempt
// replaces. Errors: errdefs.ErrInvalidArgument for a size that is too small or uneven; what the disk says otherwise.
func Create(ctx context.Context, path string, bytes uint64) error {
	return CreateWith(ctx, path, bytes, nil)
}

// CreateWith is Create for a volume that is not empty: before it appears, fill gets the root directory of its file system. What fill
// opens it closes. An error of fill is returned, and then there is no volume.
func CreateWith(ctx context.Context, path string, bytes uint64, fill func(ctx context.Context, root *os.Root) error) error {
	if err := checkSize(bytes); err != nil {
		return err
	}
	return appear(ctx, path, func(image *os.File) error {
		if err := makeFileSystem(ctx, image, bytes); err != nil || fill == nil {
			return err
		}
		return fillFileSystem(ctx, image, fill)
	})
}

func checkSize(bytes uint64) error {
	if bytes < MinBytes || bytes%blockBytes != 0 || bytes > maxBytes {
		return fmt.Errorf("volume of %d bytes, not a multiple of %d from %d to %d: %w", bytes, blockBytes, MinBytes, uint64(maxBytes), errdefs.ErrInvalidArgument)
	}
	return nil
}

// maxBytes bounds the size of a volume. The largest file of an ext4 host is one block smaller.
const maxBytes = 16 << 40

// appear has a file come to be at path, unless there is one: build gets an empty file under another name, locked, and when it has
// returned without an error the file is on the disk and has its name. After an error nothing is left.
func appear(ctx context.Context, path string, build func(image *os.File) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("volume: %w", err)
	}
	if err := replace(ctx, path, build); err != nil {
		return fmt.Errorf("make volume %s: %w", path, err)
	}
	return nil
}

const newSuffix = ".new"

// replace is appear for a path at which there may be a file, which then goes.
func replace(ctx context.Context, path string, build func(image *os.File) error) error {
	temp := path + newSuffix
	image, err := begin(ctx, temp)
	if err != nil {
		return err
	}
	defer image.Close()
	err = build(image)
	if err == nil {
		err = image.Sync()
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	crashpoint.Reached("volume/renamed")
	return syncFile(filepath.Dir(path))
}

// begin makes an empty file at path and locks it. What is there may still be written to, by a program whose agent has died: it is waited
// for, and a new file takes the place of what it wrote.
func begin(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err == nil {
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
				f.Close()
				return nil, fmt.Errorf("lock %s: %w", path, err)
			}
			return f, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := removeFile(ctx, path); err != nil {
			return nil, err
		}
	}
}

// makeFileSystem makes an empty file a sparse one with an empty file system. Nothing of it but a few metadata blocks takes space: what
// mkfs would zero, it finds zero already.
func makeFileSystem(ctx context.Context, image *os.File, bytes uint64) error {
	if err := image.Truncate(int64(bytes)); err != nil {
		return err
	}
	if err := crashpoint.Fail("volume/truncated"); err != nil {
		return err
	}
	// metadata_csum_seed lets a copy get a new UUID without touching its metadata; no block is kept back for root.
	err := succeed(ctx, image, "mkfs.ext4", "-q", "-F", "-b", fmt.Sprint(blockBytes), "-I", "256", "-m", "0", "-O", "metadata_csum_seed",
		"-E", "lazy_journal_init=1", image.Name())
	crashpoint.Reached("volume/formatted")
	return err
}

// fillFileSystem mounts a locked image, has it filled, and returns when everything is in the file.
func fillFileSystem(ctx context.Context, image *os.File, fill func(ctx context.Context, root *os.Root) error) error {
	loop, err := attach(image, image.Name())
	if err != nil {
		return err
	}
	defer loop.Close()
	m, err := openDevice(loop, image.Name(), false)
	if err != nil {
		return err
	}
	err = fill(ctx, m.Root())
	if err == nil {
		err = crashpoint.Fail("volume/filled")
	}
	if err == nil {
		err = m.Sync()
	}
	crashpoint.Reached("volume/synced")
	return errors.Join(err, m.Close())
}

// Remove removes the volume at path and whatever was left beside it by a crash, and returns when that is on the disk. Nobody can reach
// what the volume held from then on: its blocks are free space of the host's file system. A volume that does not exist is no error.
// It returns ErrInUse, and removes nothing, if a loop device has the volume.
func Remove(ctx context.Context, path string) error {
	for _, name := range []string{path, path + newSuffix} {
		if err := removeFile(ctx, name); err != nil {
			return err
		}
	}
	return syncFile(filepath.Dir(path))
}

// removeFile removes a file that nobody has locked.
func removeFile(ctx context.Context, path string) error {
	f, err := lockFree(ctx, path, unix.LOCK_EX, mountGrace)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove volume: %w", err)
	}
	return nil
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
