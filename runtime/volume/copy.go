package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyImage fills an empty file with what another holds, holes left out.
func copyImage(ctx context.Context, from, to *os.File) (shared bool, err error) {
	err = unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
	if err == nil {
		return true, nil
	}
	if !lacking(err) {
		return false, fmt.Errorf("reflink: %w", err)
	}
	info, err := from.Stat()
	if err != nil {
		return false, err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return false, err
	}
	for at := int64(0); ; {
		begin, end, err := nextData(from, at, info.Size())
		if err != nil || begin == end {
			return false, err
		}
		if err := copyRange(ctx, from, to, begin, end); err != nil {
			return false, err
		}
		at = end
	}
}

// lacking reports whether an error says that a file system, or a pair of them, cannot do what was asked.
func lacking(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) ||
		errors.Is(err, unix.ENOSYS)
}

// nextData returns where the next data of a file of the given size lies, from offset at on; begin == end if there is none.
func nextData(f *os.File, at, size int64) (begin, end int64, err error) {
	if at >= size {
		return size, size, nil
	}
	begin, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE)
	return begin, end, err
}

// copyStep is how much is copied between two looks at the context.
const copyStep = 64 << 20

// copyRange copies a range of one file to the same place of another, inside the kernel where that can be.
func copyRange(ctx context.Context, from, to *os.File, begin, end int64) error {
	for at := begin; at < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		step := min(copyStep, end-at)
		source, target := at, at
		n, err := unix.CopyFileRange(int(from.Fd()), &source, int(to.Fd()), &target, int(step), 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && lacking(err) {
			var copied int64
			copied, err = io.Copy(io.NewOffsetWriter(to, at), io.NewSectionReader(from, at, step))
			n = int(copied)
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		at += int64(n)
	}
	return nil
}
