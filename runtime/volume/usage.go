package volume

import (
	"errors"
	"fmt"
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
	loop, err := share(path)
	if err != nil {
		return Usage{}, err
	}
	if loop != nil && !mounted(loop.Path) {
		if err := loop.Close(); err != nil {
			return Usage{}, fmt.Errorf("volume: %w", err)
		}
		loop = nil
	}
	if loop == nil {
		s, err := readSuperblock(f)
		if err != nil {
			return Usage{}, fmt.Errorf("volume %s: %w", path, err)
		}
		u.fromSuperblock(s)
		return u, nil
	}
	if err := errors.Join(u.fromDevice(loop), loop.Close()); err != nil {
		return Usage{}, fmt.Errorf("usage of volume %s: %w", path, err)
	}
	return u, nil
}

func (u *Usage) fromSuperblock(s superblock) {
	if !s.valid {
		return
	}
	u.CapacityBytes = (s.blocks - min(s.blocks, s.overhead)) * s.blockSize
	u.FreeBytes = s.free * s.blockSize
	u.Files, u.FreeFiles = s.inodes, s.unused
}

// fromDevice asks the kernel about the file system on a loop device, which a guest has mounted, or a reader of this package.
func (u *Usage) fromDevice(loop *Loop) error {
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
