package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// Mount is the file system of a volume that no guest has, mounted where no path of any mount namespace leads.
type Mount struct {
	tree tree
	root *os.Root
}

// Open mounts the volume at path, for reading only if readOnly is set; the kernel replays its journal if need be, even then. The volume
// is in use until Close. No guest's device, set-user-id or executable file is of effect in the mount.
//
// Errors: ErrInUse; errdefs.ErrNotImplemented if the kernel is too old for detached mounts
// and errdefs.ErrPermissionDenied if it refuses them; what the kernel says of the file system otherwise.
func Open(ctx context.Context, path string, readOnly bool) (*Mount, error) {
	loop, err := Attach(ctx, path)
	if err != nil {
		return nil, err
	}
	defer loop.Close() // the mount has it by then
	return openDevice(loop, path, readOnly)
}

func openDevice(loop *Loop, path string, readOnly bool) (*Mount, error) {
	t, err := mountTree(loop.Path, readOnly)
	if err != nil {
		return nil, fmt.Errorf("mount volume %s: %w", path, err)
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", t.dir.Fd()))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount volume %s: %w", path, err), t.close())
	}
	return &Mount{tree: t, root: root}, nil
}

// Root is the root directory of the volume. No path leads out of it, whatever links there are. It is closed by Close.
func (m *Mount) Root() *os.Root { return m.root }

// Sync has everything that was written reach the image, and the image the disk.
func (m *Mount) Sync() error {
	if err := unix.Syncfs(int(m.tree.dir.Fd())); err != nil {
		return fmt.Errorf("sync the volume: %w", err)
	}
	return nil
}

// Close unmounts the volume and gives its loop device up. Files and directories that are still open keep both.
func (m *Mount) Close() error { return errors.Join(m.root.Close(), m.tree.close()) }

// tree is a detached mount: the mount itself, which goes with it, and its root directory.
type tree struct{ mount, dir *os.File }

func (t tree) close() error { return errors.Join(t.dir.Close(), t.mount.Close()) }

// mountTree mounts an ext4 file system on a block device. If it is mounted already, in a guest for instance, this is another mount of
// the same: what is done through one is seen through the other. A read-only and a writable mount exclude each other (EBUSY).
func mountTree(device string, readOnly bool) (tree, error) {
	if err := crashpoint.Fail("volume/mount"); err != nil {
		return tree{}, err
	}
	config, err := fsContext(device, readOnly)
	if err != nil {
		return tree{}, err
	}
	defer unix.Close(config)
	attributes := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOATIME
	if readOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	fd, err := unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return tree{}, refused("fsmount", err)
	}
	mount := os.NewFile(uintptr(fd), "detached mount of "+device)
	// The descriptor of a mount is only a place, like O_PATH: it is opened for ioctls and for reading.
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		mount.Close()
		return tree{}, fmt.Errorf("open the root of %s: %w", device, err)
	}
	return tree{mount: mount, dir: os.NewFile(uintptr(dir), "root of "+device)}, nil
}

// mountToChange is mountTree for a device that is to be changed; ErrInUse if its file system is mounted for reading only.
func mountToChange(loop *Loop) (tree, error) {
	t, err := mountTree(loop.Path, false)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("it is mounted for reading only: %w: %w", err, ErrInUse)
	}
	return t, err
}

// fsContext creates what fsmount(2) makes a mount of: the file system's superblock.
func fsContext(device string, readOnly bool) (fd int, err error) {
	fd, err = unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, refused("fsopen", err)
	}
	err = unix.FsconfigSetString(fd, "source", device)
	if err == nil && readOnly {
		err = unix.FsconfigSetFlag(fd, "ro")
	}
	if err == nil {
		err = unix.FsconfigCreate(fd)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w%s", device, err, complaints(fd))
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// complaints reads what the file system has to say about its configuration: a message at a time, after a letter for its weight and a blank.
func complaints(config int) string {
	var all strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(config, buf)
		if err != nil || n < 3 {
			return all.String()
		}
		all.WriteString(": " + strings.TrimSpace(string(buf[2:n])))
	}
}

// refused says what it means that the kernel does not let a detached mount be made.
func refused(call string, err error) error {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%s: %w: this kernel has no detached mounts, which need Linux 5.2 or later: %w", call, err, errdefs.ErrNotImplemented)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: detached mounts need CAP_SYS_ADMIN, and a seccomp filter that lets fsopen, fsconfig and fsmount pass: %w", call, err, errdefs.ErrPermissionDenied)
	default:
		return fmt.Errorf("%s: %w", call, err)
	}
}
