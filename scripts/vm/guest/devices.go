package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// uevents is a socket that gets a datagram for each device that the kernel adds, changes or removes.
type uevents struct{ file *os.File }

func listenUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listen for the kernel's devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen for the kernel's devices: %w", err)
	}
	return &uevents{os.NewFile(uintptr(fd), "uevents")}, nil
}

// waitFor calls find until it returns a name, each time after the kernel told of a device. It says what was waited for when
// ctx ends.
func waitFor(ctx context.Context, what string, find func() (string, error)) (string, error) {
	events, err := listenUevents()
	if err != nil {
		return "", err
	}
	defer events.file.Close()
	stop := context.AfterFunc(ctx, func() { events.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 8192)
	for {
		if name, err := find(); name != "" || err != nil {
			return name, err
		}
		if _, err := events.file.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return "", fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}

// findByAttribute returns the name of the device in a class's directory whose attribute has the value, or "".
func findByAttribute(class, attribute, value string) (string, error) {
	names, err := filepath.Glob(filepath.Join(class, "*", attribute))
	if err != nil {
		return "", err
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue // it went away
		}
		if err != nil {
			return "", fmt.Errorf("look at a device: %w", err)
		}
		if strings.TrimRight(string(data), "\n\x00") == value {
			return filepath.Base(filepath.Dir(name)), nil
		}
	}
	return "", nil
}

// drive returns the device of the virtio-blk drive with a serial, or "" if there is none.
func drive(serial string) (string, error) {
	name, err := findByAttribute("/sys/block", "serial", serial)
	if name == "" || err != nil {
		return "", err
	}
	return "/dev/" + name, nil
}

// waitDrive waits for a drive.
func waitDrive(ctx context.Context, serial string) (string, error) {
	return waitFor(ctx, "drive "+serial, func() (string, error) { return drive(serial) })
}
