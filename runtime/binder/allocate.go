package binder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// deviceDir is where a guest finds links to its devices, as Android's own init makes them.
	deviceDir = "dev"
	// usualDir is where Android's own init mounts a binderfs.
	usualDir = "dev/binderfs"
	control  = "binder-control"
)

// Mode is what the devices' nodes have in a guest: every app uses them.
const Mode = 0o666

// magic is BINDERFS_SUPER_MAGIC (include/uapi/linux/magic.h).
const magic = 0x6c6f6f70

// ctlAdd is BINDER_CTL_ADD, _IOWR('b', 1, struct binderfs_device) (include/uapi/linux/android/binderfs.h).
const ctlAdd = 3<<30 | unsafe.Sizeof(ctlDevice{})<<16 | 'b'<<8 | 1

// ctlDevice is struct binderfs_device.
type ctlDevice struct {
	name         [256]byte // BINDERFS_MAX_NAME + 1
	major, minor uint32    // answers
}

// Allocate completes the binderfs that is mounted at dir, such as "/dev/binderfs", of a guest that has been created and does not run
// yet: it adds the devices of Names that are missing, makes all three usable by everybody, and links them in the guest's /dev. root is
// the guest's root directory; nothing outside it is touched, whatever links lie in it. errdefs.ErrFailedPrecondition if no binderfs is
// there.
//
// Where dir is another than /dev/binderfs, a file is put there. Android's init would mount a binderfs there, whose devices are only
// those that the kernel gives to every instance; it cannot mount one over a file, and goes on with the links that it finds.
func Allocate(root *os.Root, dir string) error {
	mountDir := strings.TrimPrefix(dir, "/")
	mounted, err := root.OpenRoot(mountDir)
	if err != nil {
		return fmt.Errorf("open the guest's binderfs: %w", err)
	}
	defer mounted.Close()
	ctl, err := openControl(mounted)
	if err != nil {
		return err
	}
	defer ctl.Close()
	for _, name := range Names {
		// A device that is there already is one of the module's parameter devices=. A full instance says ENOSPC before it says EEXIST.
		if _, err := mounted.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			if err := Add(ctl, name); err != nil {
				return err
			}
		} else if err != nil {
			return fmt.Errorf("look at binder device %s: %w", name, err)
		}
		if err := mounted.Chmod(name, Mode); err != nil {
			return fmt.Errorf("open binder device %s to the guest: %w", name, err)
		}
		if err := root.Symlink("/"+mountDir+"/"+name, deviceDir+"/"+name); err != nil {
			return fmt.Errorf("link binder device %s: %w", name, err)
		}
	}
	if mountDir == usualDir {
		return nil
	}
	f, err := root.OpenFile(usualDir, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("take the place of another binderfs: %w", err)
	}
	return f.Close()
}

// openControl opens the node that makes devices, having made sure that the directory is a binderfs.
func openControl(dir *os.Root) (*os.File, error) {
	here, err := dir.Open(".")
	if err != nil {
		return nil, fmt.Errorf("open the guest's binderfs: %w", err)
	}
	defer here.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(here.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look at the guest's binderfs: %w", err)
	}
	if uint32(st.Type) != magic {
		return nil, fmt.Errorf("look at the guest's binderfs: a file system of type %#x is there: %w", st.Type, errdefs.ErrFailedPrecondition)
	}
	ctl, err := dir.Open(control)
	if err != nil {
		return nil, fmt.Errorf("open the guest's binderfs: %w", err)
	}
	return ctl, nil
}

// Add makes a device in the instance of binderfs whose control node is given. The error is unix.ENOSPC if it may have no more, and else
// of class fs.ErrExist if it has one of that name.
func Add(ctl *os.File, name string) error {
	var d ctlDevice
	if len(name) == 0 || len(name) >= len(d.name) {
		return fmt.Errorf("add binder device %q: its name must have 1..%d bytes: %w", name, len(d.name)-1, errdefs.ErrInvalidArgument)
	}
	copy(d.name[:], name)
	raw, err := ctl.SyscallConn()
	if err != nil {
		return fmt.Errorf("add binder device %s: %w", name, err)
	}
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, ctlAdd, uintptr(unsafe.Pointer(&d)))
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return fmt.Errorf("add binder device %s: %w", name, err)
	}
	return nil
}
