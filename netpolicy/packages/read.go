package packages

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The way to the list from the guest's root.
const (
	dataDir   = "data"
	systemDir = "system"
	listFile  = "packages.list"

	// Path is where the list is, as the guest sees it.
	Path = "/" + dataDir + "/" + systemDir + "/" + listFile
)

// Read reads the list of a guest once. root is the guest's root directory, open in any way (O_PATH will do).
//
// It may wait as long as the guest's file system does not answer, which a FUSE server of the guest's can prolong until the guest ends; Follow does not.
//
// Errors: Parse's; errdefs.ErrNotFound when there is no list; errdefs.ErrFailedPrecondition when something else is in its place, or in that
// of a directory; errdefs.ErrUnavailable when it changed while it was read or a program of the guest has a lease on it: read it again.
func Read(root *os.File) (*Table, error) {
	v := visit{root: int(root.Fd()), arm: func(int) {}}
	found := v.look(memory{})
	runtime.KeepAlive(root)
	return found.table, found.err
}

// identity tells files and their versions apart.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// memory is what was found at a file, right or damaged.
type memory struct {
	of     identity
	digest [sha256.Size]byte
	table  *Table
	err    error
}

// visit is a walk to the list. All that it opens it closes again: an open file, even by O_PATH, keeps the guest's /data from being unmounted.
type visit struct {
	root int
	// arm is called with every directory on the way before its entry is looked up, so that no change after that is missed.
	arm func(dir int)
	// again has the file read though it looks as it did.
	again bool
}

// look finds the list and reads it, unless it is the one that is remembered.
func (v visit) look(last memory) memory {
	v.arm(v.root)
	// /data is a mount, what is below it is not.
	data, err := openDir(v.root, dataDir, unix.RESOLVE_IN_ROOT)
	if err != nil {
		return memory{err: explain("/"+dataDir, "a directory", err)}
	}
	defer unix.Close(data)
	v.arm(data)
	system, err := openDir(data, systemDir, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV)
	if err != nil {
		return memory{err: explain("/"+dataDir+"/"+systemDir, "a directory", err)}
	}
	defer unix.Close(system)
	v.arm(system)
	file, err := openAt(system, listFile, unix.O_PATH, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV)
	if err != nil {
		return memory{err: explain(Path, "a regular file", err)}
	}
	defer unix.Close(file)
	return v.read(file, last)
}

func openDir(at int, name string, resolve uint64) (int, error) {
	return openAt(at, name, unix.O_PATH|unix.O_DIRECTORY, resolve)
}

// openAt opens an entry of a directory, and follows no link.
func openAt(at int, name string, flags, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(at, name, &how)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// read reads the file behind a descriptor that only names it.
func (v visit) read(named int, last memory) memory {
	before, err := identify(named)
	if err != nil {
		return memory{err: err}
	}
	if before == last.of && !v.again {
		return last
	}
	// The descriptor stays the same file whatever becomes of the path, so it is regular still.
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(named), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EAGAIN) {
		return memory{err: fmt.Errorf("%s: a program of the guest has a lease on it: %w", Path, errdefs.ErrUnavailable)}
	}
	if err != nil {
		return memory{err: fmt.Errorf("open %s: %w", Path, err)}
	}
	f := os.NewFile(uintptr(fd), Path)
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return memory{err: fmt.Errorf("read %s: %w", Path, err)}
	}
	after, err := identify(fd)
	if err != nil {
		return memory{err: err}
	}
	if before != after || int64(len(text)) != after.size {
		return memory{err: fmt.Errorf("%s changed while it was read: %w", Path, errdefs.ErrUnavailable)}
	}
	found := memory{of: after, digest: sha256.Sum256(text)}
	if found.digest == last.digest && last.of != (identity{}) {
		found.table, found.err = last.table, last.err
		return found
	}
	if found.table, err = parse(string(text)); err != nil {
		found.err = fmt.Errorf("%s: %w", Path, err)
	}
	return found
}

// identify looks at a file and refuses one that is not regular, or too long.
func identify(fd int) (identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return identity{}, fmt.Errorf("look at %s: %w", Path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return identity{}, fmt.Errorf("%s is %s; want a regular file: %w", Path, fileType(st.Mode), errdefs.ErrFailedPrecondition)
	}
	if st.Size > MaxBytes {
		return identity{}, fmt.Errorf("%s has %d bytes; a list has at most %d: %w", Path, st.Size, MaxBytes, errdefs.ErrOutOfRange)
	}
	return identity{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}, nil
}

// explain says what is wrong with a part of the way.
func explain(path, want string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("there is no %s: %w", path, errdefs.ErrNotFound)
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("%s is a symbolic link; want %s: %w", path, want, errdefs.ErrFailedPrecondition)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s is something else; want %s: %w", path, want, errdefs.ErrFailedPrecondition)
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("%s is a mount of its own; want %s of /data's file system: %w", path, want, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// fileType is what a mode says a file is.
func fileType(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFBLK, unix.S_IFCHR:
		return "a device"
	}
	return "of an unknown type"
}
