package volume

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ioctlTrim is FITRIM, _IOWR('X', 121, struct fstrim_range) (include/uapi/linux/fs.h).
const ioctlTrim = 0xc0185879

// trimRange is struct fstrim_range, in bytes. The kernel writes to length how much it has discarded.
type trimRange struct{ start, length, _ uint64 }

// trimStep is how much of a file system is trimmed between two looks at the context.
const trimStep = 4 << 30

// Trim gives the blocks that the file system of the volume at path does not use back to the host, and returns how many bytes the kernel
// has discarded; what it knows to be discarded already it does not count again while the file system stays mounted. A guest's mount
// discards what it frees by itself; this is for volumes that come from somewhere else, or a host that could not at the time. It returns ErrInUse if the volume is mounted for reading only.
func Trim(ctx context.Context, path string) (discarded uint64, err error) {
	loop, _, err := use(ctx, path)
	if err != nil {
		return 0, err
	}
	discarded, err = trimDevice(ctx, loop)
	if err = errors.Join(err, loop.Close()); err != nil {
		return discarded, fmt.Errorf("trim volume %s: %w", path, err)
	}
	return discarded, nil
}

func trimDevice(ctx context.Context, loop *Loop) (discarded uint64, err error) {
	t, err := mountToChange(loop)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	size, err := unix.Seek(int(loop.f.Fd()), 0, unix.SEEK_END)
	if err != nil {
		return 0, err
	}
	for start := uint64(0); start < uint64(size); start += trimStep {
		if err := ctx.Err(); err != nil {
			return discarded, err
		}
		r := trimRange{start: start, length: trimStep}
		err := ioctlPointer(t.dir, ioctlTrim, &r)
		if errors.Is(err, unix.EINVAL) && start > 0 {
			return discarded, nil // the file system ends before its device: it was to grow
		}
		if err != nil {
			return discarded, err
		}
		discarded += r.length
	}
	return discarded, nil
}
