package volume

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// ioctlResize is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64): the new number of blocks (fs/ext4/ext4.h).
const ioctlResize = 0x40086610

// Grow makes the volume at path at least bytes large, a multiple of 4096, whether a guest has it mounted or not. It never makes one
// smaller: errdefs.ErrInvalidArgument for less than the file system has. A last piece that is too small for a block group's own
// metadata stays unused.
//
// The image grows first, then its loop device, then the file system, by the kernel and through its journal, so that a crash leaves
// at each level what was or what shall be, and the next call does the rest. Without CAP_SYS_RESOURCE the kernel refuses; a volume that
// no guest has is then grown by resize2fs, and one that is mounted says errdefs.ErrFailedPrecondition: it grows when it is off. ErrInUse
// means that it is mounted for reading only.
func Grow(ctx context.Context, path string, bytes uint64) error {
	if err := checkSize(bytes); err != nil {
		return err
	}
	loop, live, err := use(ctx, path)
	if err != nil {
		return err
	}
	err = errors.Join(growDevice(loop, path, bytes), loop.Close())
	if err == nil || !errors.Is(err, unix.EPERM) {
		return err
	}
	if live {
		return fmt.Errorf("%w: %s: %w", err, whyRefused(), errdefs.ErrFailedPrecondition)
	}
	return growOffline(ctx, path)
}

// use opens the loop device that has the volume, and attaches one if none has it. live tells whether the file system is mounted.
func use(ctx context.Context, path string) (loop *Loop, live bool, err error) {
	for {
		loop, err := share(path)
		if err != nil {
			return nil, false, err
		}
		if loop != nil {
			return loop, mounted(loop.Path), nil
		}
		loop, err = Attach(ctx, path)
		if err == nil {
			return loop, false, nil
		}
		// Somebody attached it in between.
		if !errors.Is(err, ErrInUse) {
			return nil, false, err
		}
	}
}

// growDevice grows the image behind a loop device, the device, and the file system on it.
func growDevice(loop *Loop, path string, bytes uint64) error {
	if err := growImage(path, bytes); err != nil {
		return err
	}
	if err := crashpoint.Fail("volume/image_grown"); err != nil {
		return fmt.Errorf("grow %s, the device of volume %s: %w", loop.Path, path, err)
	}
	if err := unix.IoctlSetInt(int(loop.f.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("grow %s, the device of volume %s: %w", loop.Path, path, err)
	}
	crashpoint.Reached("volume/device_grown")
	t, err := mountToChange(loop)
	if err != nil {
		return fmt.Errorf("grow volume %s: %w", path, err)
	}
	err = growMounted(t.dir, bytes)
	if err != nil {
		err = fmt.Errorf("grow volume %s: %w", path, err)
	}
	crashpoint.Reached("volume/file_system_grown")
	return errors.Join(err, t.close())
}

// growImage makes the file as large as it is to be, and returns when that is on the disk: the file system must never be larger.
func growImage(path string, bytes uint64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("grow volume: %w", err)
	}
	defer f.Close()
	s, err := readSuperblock(f)
	if err == nil && s.valid && s.bytes() > bytes {
		err = fmt.Errorf("its file system has %d bytes, and volumes do not shrink to %d: %w", s.bytes(), bytes, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("grow volume %s: %w", path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("grow volume: %w", err)
	}
	if uint64(info.Size()) >= bytes {
		return nil // by a call that was cut off, or all is done
	}
	if err := f.Truncate(int64(bytes)); err != nil {
		return fmt.Errorf("grow volume: %w", err)
	}
	return f.Sync()
}

// growMounted grows the file system of which a directory is given.
func growMounted(dir *os.File, bytes uint64) error {
	blocks := bytes / blockBytes
	if err := ioctlPointer(dir, ioctlResize, &blocks); err != nil {
		return fmt.Errorf("resize the file system: %w", err)
	}
	return dir.Sync() // its journal is committed
}

// growOffline has resize2fs make the file system as large as its image. What resize2fs asks for comes first: a whole check. If it is cut
// off itself, it leaves a file system that has errors, which Check mends.
func growOffline(ctx context.Context, path string) error {
	if _, err := Check(ctx, path); err != nil {
		return fmt.Errorf("grow: %w", err)
	}
	image, err := lockFree(ctx, path, unix.LOCK_EX, mountGrace)
	if err != nil {
		return fmt.Errorf("grow: %w", err)
	}
	defer image.Close()
	if err := withinTables(image); err != nil {
		return fmt.Errorf("grow volume %s: %w", path, err)
	}
	code, output, err := run(ctx, image, "e2fsck", "-f", "-p", image.Name())
	if err == nil && code > codeInOrder {
		err = fmt.Errorf("e2fsck exited with %d: %s", code, summary(output))
	}
	if err == nil {
		err = crashpoint.Fail("volume/checked")
	}
	if err == nil {
		err = succeed(ctx, image, "resize2fs", image.Name())
		crashpoint.Reached("volume/resized")
	}
	if err != nil {
		return fmt.Errorf("grow volume %s: %w", path, err)
	}
	return image.Sync()
}

// withinTables refuses what resize2fs only begins: growth beyond the room that mkfs has kept in the tables of group descriptors.
func withinTables(image *os.File) error {
	info, err := image.Stat()
	if err != nil {
		return err
	}
	s, err := readSuperblock(image)
	if err != nil {
		return err
	}
	if most := s.growableTo(); uint64(info.Size()) > most {
		return fmt.Errorf("it can grow to %d bytes; more needs CAP_SYS_RESOURCE: %w", most, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// whyRefused says why the kernel did not let a mounted file system grow: both reasons have the same error.
func whyRefused() string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err == nil && sets[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return "this process lacks CAP_SYS_RESOURCE, so the file system grows only while it is not mounted"
	}
	return "the kernel has found errors in the file system: it is mended, and grows, when it is not mounted"
}
