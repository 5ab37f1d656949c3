package volume

import (
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

// Attach gives the volume at path a loop device. The caller closes it when somebody else, a mount, holds the device. It returns
// errdefs.ErrResourceExhausted when no loop device can be had.
func Attach(path string) (*Loop, error) {
	back, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach volume: %w", err)
	}
	defer back.Close()
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
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("volume: %w", err)
	}
	st := info.Sys().(*syscall.Stat_t)
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return false, err
	}
	for _, file := range files {
		// The name is cheap to read and tells most devices apart; device and inode number decide.
		name, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(name), filepath.Base(path)) {
			continue
		}
		dev, ino, err := backing("/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file))))
		if err == nil && dev == uint64(st.Dev) && ino == st.Ino {
			return true, nil
		}
	}
	return false, nil
}

// backing returns the device and inode number of the file that a loop device has.
func backing(device string) (dev, ino uint64, err error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return 0, 0, err
	}
	return info.Device, info.Inode, nil
}
