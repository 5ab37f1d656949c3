package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Usage tells how large a volume is and how full. Sizes are in bytes.
type Usage struct {
	// Bytes is the size of the image: what the host has promised to the guest, and what the volume may take of its disk.
	Bytes uint64
	// AllocatedBytes is what the image takes of the host's disk now. Blocks that two clones share are counted in both.
	AllocatedBytes uint64
	// CapacityBytes is what the guest can store, and FreeBytes what is left of that.
	CapacityBytes, FreeBytes uint64
	// Files is the greatest number of files, directories included, and FreeFiles what is left of that.
	Files, FreeFiles uint64
	// Live tells that the kernel has the file system mounted and was asked. Otherwise the figures of the file system are those of its
	// superblock, which are of an earlier moment if it was not unmounted.
	Live bool
}

// Stat returns the usage of the volume at path, in use or not.
func Stat(path string) (Usage, error) {
	d, err := listDevices()
	if err != nil {
		return Usage{}, err
	}
	return d.stat(path)
}

// StatAll returns the usages of many volumes, by path. Those that do not exist are left out.
func StatAll(ctx context.Context, paths []string) (map[string]Usage, error) {
	d, err := listDevices()
	if err != nil {
		return nil, err
	}
	all := make(map[string]Usage, len(paths))
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		u, err := d.stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all[path] = u
	}
	return all, nil
}

func (d devices) stat(path string) (Usage, error) {
	f, err := os.Open(path)
	if err != nil {
		return Usage{}, fmt.Errorf("volume: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Usage{}, fmt.Errorf("volume: %w", err)
	}
	u := Usage{Bytes: uint64(info.Size()), AllocatedBytes: uint64(info.Sys().(*syscall.Stat_t).Blocks) * 512}
	loop, err := d.share(path)
	if err != nil {
		return Usage{}, err
	}
	if loop != nil {
		err = u.fromDevice(loop)
		err = errors.Join(err, loop.Close())
	}
	if err == nil && !u.Live {
		err = u.fromImage(f)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("usage of volume %s: %w", path, err)
	}
	return u, nil
}

// fromImage reads the superblock.
func (u *Usage) fromImage(image *os.File) error {
	s, err := readSuperblock(image)
	if err != nil || !s.valid {
		return err
	}
	u.CapacityBytes = (s.blocks - min(s.blocks, s.overhead)) * s.blockSize
	u.FreeBytes = s.free * s.blockSize
	u.Files, u.FreeFiles = s.inodes, s.unused
	return nil
}

// fromDevice asks the kernel about the file system on a loop device, if it is mounted: by a guest, or a reader of this package.
func (u *Usage) fromDevice(loop *Loop) error {
	if !mounted(loop.Path) {
		return nil
	}
	t, err := mountTree(loop.Path, false)
	if errors.Is(err, unix.EBUSY) {
		t, err = mountTree(loop.Path, true)
	}
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	err = unix.Fstatfs(int(t.dir.Fd()), &st)
	if err == nil {
		block := uint64(st.Bsize)
		u.CapacityBytes, u.FreeBytes = st.Blocks*block, st.Bfree*block
		u.Files, u.FreeFiles = st.Files, st.Ffree
		u.Live = true
	}
	return errors.Join(err, t.close())
}
