package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Limits bound what an archive may unpack to.
type Limits struct {
	// Bytes of content, and Entries.
	Bytes, Entries uint64
}

// check refuses an archive that does not fit by its own account.
func (l Limits) check(m Manifest) error {
	if m.Bytes > l.Bytes || m.Entries > l.Entries {
		return fmt.Errorf("the archive holds %d bytes in %d files, and there is room for %d bytes in %d: %w", m.Bytes, m.Entries, l.Bytes, l.Entries, errdefs.ErrOutOfRange)
	}
	return nil
}

// Verify reads an archive to its end and checks all that can be checked without unpacking it, its digest included. Errors are those of
// Import.
func Verify(ctx context.Context, r io.Reader) (Manifest, error) {
	a, err := newReader(r)
	if err != nil {
		return Manifest{}, err
	}
	defer a.close()
	buf := make([]byte, copyBytes)
	for {
		e, err := a.next()
		if err == io.EOF {
			return a.manifest, nil
		}
		if err == nil {
			err = a.read(ctx, e, buf, func([]byte, int64) error { return nil })
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return Manifest{}, err
		}
	}
}

// Import unpacks an archive into root, the empty root directory of a volume. After an error part of it is there.
//
// Errors: errdefs.ErrInvalidArgument for what is no archive, or one that Export has not written; errdefs.ErrNotImplemented for one of
// another format; errdefs.ErrDataLoss for one that is damaged or cut short; errdefs.ErrOutOfRange for one that is larger than the limits
// or the file system; those of r, of ctx and of the file system as they are.
func Import(ctx context.Context, r io.Reader, root *os.Root, limits Limits) (Manifest, error) {
	a, err := newReader(r)
	if err != nil {
		return Manifest{}, err
	}
	defer a.close()
	if err := limits.check(a.manifest); err != nil {
		return Manifest{}, err
	}
	u := &unpacker{archive: a, buf: make([]byte, copyBytes)}
	if err := errors.Join(u.unpack(ctx, root), u.leave(0)); err != nil {
		return Manifest{}, err
	}
	return a.manifest, nil
}

// unpacker makes the files of an archive. A directory is entered when it is made and left when something outside it comes: it stays open
// meanwhile, so that no path is ever looked up, and its time is set at the end, when nothing changes it any more.
type unpacker struct {
	archive *reader
	buf     []byte
	dirs    []directory // the root, and those that lead to the last entry
}

type directory struct {
	*os.File
	entry *entry
}

func (u *unpacker) unpack(ctx context.Context, root *os.Root) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := u.archive.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(e.names) == 0 {
			err = u.enterRoot(root, e)
		} else {
			err = u.add(ctx, e)
		}
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EFBIG) {
			err = fmt.Errorf("%w: the volume has no room for the archive: %w", err, errdefs.ErrOutOfRange)
		}
		if err != nil {
			return fmt.Errorf("unpack %q: %w", e, err)
		}
	}
}

func (u *unpacker) enterRoot(root *os.Root, e *entry) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	u.dirs = append(u.dirs, directory{f, e})
	return own(f, ".", e)
}

// leave closes all but the first depth directories. What they get now must not be in force while something is made in them: a default
// ACL is inherited, and their time changes.
func (u *unpacker) leave(depth int) error {
	var errs []error
	for len(u.dirs) > depth {
		last := len(u.dirs) - 1
		d := u.dirs[last]
		in, name := d.File, "."
		if last > 0 {
			in, name = u.dirs[last-1].File, d.entry.name()
		}
		if err := errors.Join(finish(in, name, d.entry), d.Close()); err != nil {
			errs = append(errs, fmt.Errorf("unpack %q: %w", d.entry, err))
		}
		u.dirs = u.dirs[:last]
	}
	return errors.Join(errs...)
}

// add makes an entry other than the root.
func (u *unpacker) add(ctx context.Context, e *entry) error {
	if err := u.leave(len(e.names)); err != nil {
		return err
	}
	in, name := u.dirs[len(u.dirs)-1].File, e.name()
	var err error
	switch e.kind {
	case tar.TypeDir:
		return u.enter(in, name, e)
	case tar.TypeLink:
		return u.link(in, name, e)
	case tar.TypeReg:
		err = u.file(ctx, in, name, e)
	case tar.TypeSymlink:
		err = twice(unix.Symlinkat(e.target, int(in.Fd()), name))
	case tar.TypeFifo:
		err = twice(unix.Mknodat(int(in.Fd()), name, unix.S_IFIFO|0o600, 0))
	}
	if err == nil {
		err = own(in, name, e)
	}
	if err == nil {
		err = finish(in, name, e)
	}
	return err
}

// enter makes a directory and opens it. The one that every new ext4 file system has may be there.
func (u *unpacker) enter(in *os.File, name string, e *entry) error {
	err := unix.Mkdirat(int(in.Fd()), name, 0o700)
	if err != nil && !(errors.Is(err, unix.EEXIST) && len(e.names) == 1 && name == lostFound) {
		return twice(err)
	}
	fd, err := unix.Openat(int(in.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	u.dirs = append(u.dirs, directory{os.NewFile(uintptr(fd), name), e})
	return own(in, name, e)
}

// link gives a file of the archive another name. Only directories lead to it.
func (u *unpacker) link(in *os.File, name string, e *entry) error {
	root := u.dirs[0]
	from := strings.Join(append([]string{"."}, e.linked[:len(e.linked)-1]...), "/")
	fd, err := unix.Openat2(int(root.Fd()), from, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err == nil {
		defer unix.Close(fd)
		err = unix.Linkat(fd, e.linked[len(e.linked)-1], int(in.Fd()), name, 0)
	}
	for _, no := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EPERM} {
		if errors.Is(err, no) {
			return fmt.Errorf("another name of %q, which is no file of the archive: %w: %w", "/data/"+strings.Join(e.linked, "/"), err, errdefs.ErrInvalidArgument)
		}
	}
	return twice(err)
}

// file makes a regular file with its content.
func (u *unpacker) file(ctx context.Context, in *os.File, name string, e *entry) error {
	fd, err := unix.Openat(int(in.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return twice(err)
	}
	f := os.NewFile(uintptr(fd), name)
	err = u.archive.read(ctx, e, u.buf, func(p []byte, at int64) error {
		_, err := f.WriteAt(p, at)
		return err
	})
	if err == nil {
		err = f.Truncate(e.size) // what comes after the last piece
	}
	return errors.Join(err, f.Close())
}

// own gives a file its owner and then its mode, of which a change of the owner takes some.
func own(in *os.File, name string, e *entry) error {
	if err := unix.Fchownat(int(in.Fd()), name, int(e.uid), int(e.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	if e.kind == tar.TypeSymlink {
		return nil // it has no mode
	}
	// Nothing but this program is here, so that the name is still that of what was made, which is no link.
	if err := unix.Fchmodat(int(in.Fd()), name, e.mode, 0); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	return nil
}

// finish gives a file its attributes and its time.
func finish(in *os.File, name string, e *entry) error {
	if err := writeXattrs(at(int(in.Fd()), name), e.xattrs); err != nil {
		return err
	}
	times := []unix.Timespec{
		{Nsec: unix.UTIME_OMIT},
		{Sec: e.modified.Unix(), Nsec: int64(e.modified.Nanosecond())},
	}
	if err := unix.UtimesNanoAt(int(in.Fd()), name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	return nil
}

// twice gives the error of making something that is there already its class.
func twice(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("the archive has it twice: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// at is a path for calls that take no descriptor of a directory. The last name is not followed if it is a link.
func at(directory int, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", directory, name)
}
