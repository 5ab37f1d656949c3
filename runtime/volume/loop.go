package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// Loop is a loop device that has a volume. While it is open the device stays attached; when the last of its users, this one or a
// mount, is gone, the kernel detaches it.
type Loop struct {
	// Path of the block device, "/dev/loop7".
	Path string

	f *os.File
}

// attempts bounds how often Attach tries again when others take the device that was free.
const attempts = 64

// Attach gives the volume at path a loop device. The caller closes it when somebody else, a mount, holds the device. The volume stays
// locked for as long as the device is attached (see the package comment): a second device for the same volume is refused.
//
// A device that is about to go, or a program that works on the volume, is waited for until ctx ends. Errors:
// ErrInUse if another loop device has the volume; errdefs.ErrResourceExhausted when no loop device
// can be had.
func Attach(ctx context.Context, path string) (*Loop, error) {
	back, err := lockFree(ctx, path, unix.LOCK_EX, mountGrace)
	if err != nil {
		return nil, err
	}
	defer back.Close() // the device has it by then, and the lock with it
	return attach(back, path)
}

// attach gives a locked volume a loop device.
func attach(back *os.File, path string) (*Loop, error) {
	if err := crashpoint.Fail("volume/attach"); err != nil {
		return nil, fmt.Errorf("attach volume %s: %w", path, err)
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach volume %s: %w: is the loop module loaded?", path, err)
	}
	defer control.Close()
	for range attempts {
		l, err := tryAttach(control, back, path)
		if err == nil {
			crashpoint.Reached("volume/attached")
			return l, nil
		}
		// Another process took the device between finding it free and configuring it, or opening it.
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENXIO) {
			return nil, fmt.Errorf("attach volume %s: %w", path, err)
		}
	}
	return nil, fmt.Errorf("attach volume %s: every free loop device was taken by somebody else, %d times: %w", path, attempts, errdefs.ErrResourceExhausted)
}

func tryAttach(control, back *os.File, path string) (*Loop, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find a free loop device: %w", err)
	}
	device := fmt.Sprintf("/dev/loop%d", n)
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{
		Fd:   uint32(back.Fd()),
		Size: 4096,
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], path)
	if err := unix.IoctlLoopConfigure(int(f.Fd()), &config); err != nil {
		f.Close()
		return nil, fmt.Errorf("configure %s: %w", device, err)
	}
	return &Loop{Path: device, f: f}, nil
}

// Close gives the device up.
func (l *Loop) Close() error { return l.f.Close() }

// Attached reports whether a loop device has the volume at path.
func Attached(path string) (bool, error) {
	device, err := attachedTo(path)
	return device != "", err
}

// attachedTo returns the path of the loop device that has the volume, or "". By the time it returns that may have changed.
func attachedTo(path string) (device string, err error) {
	l, err := share(path)
	if l == nil || err != nil {
		return "", err
	}
	return l.Path, l.Close()
}

// mounted reports whether an ext4 file system on the device is mounted, wherever that may be. The device alone does not tell: udev, for
// one, opens each that appears.
func mounted(device string) bool {
	_, err := os.Stat("/sys/fs/ext4/" + filepath.Base(device))
	return err == nil
}

// share opens the loop device that has the volume, or returns nil if none has it. While it is open the device stays what it is.
func share(path string) (*Loop, error) {
	d, err := listDevices()
	if err != nil {
		return nil, err
	}
	return d.share(path)
}

// devices are the loop devices of this host at one moment, by the name of the file that they have.
type devices map[string][]string

// nameOf is what devices are found by: the last two names of a path. All of it may look different from another mount namespace, and the
// last name is the same for most volumes.
func nameOf(path string) string {
	return filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path))
}

func listDevices() (devices, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	found := make(devices)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it was detached meanwhile
		}
		name := nameOf(strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), " (deleted)"))
		found[name] = append(found[name], "/dev/"+filepath.Base(filepath.Dir(filepath.Dir(file))))
	}
	return found, nil
}

func (d devices) share(path string) (*Loop, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	st := info.Sys().(*syscall.Stat_t)
	for _, device := range d[nameOf(path)] {
		// For reading only: when a writer closes a device, udev looks at what is on it.
		f, err := os.Open(device)
		if err != nil {
			continue // it was detached meanwhile
		}
		// The name tells most devices apart; device and inode number decide.
		if back, err := unix.IoctlLoopGetStatus64(int(f.Fd())); err == nil && back.Device == uint64(st.Dev) && back.Inode == st.Ino {
			return &Loop{Path: device, f: f}, nil
		}
		f.Close()
	}
	return nil, nil
}
