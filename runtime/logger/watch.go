package logger

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watch reports changes in a directory by inotify.
type watch struct {
	f    *os.File
	stop func() bool
}

// watchDir starts watching dir. The end of ctx ends a wait. The caller closes the watch.
func watchDir(ctx context.Context, dir string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: start inotify (fs.inotify.max_user_instances bounds how many there can be): %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	const changes = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, changes); err != nil {
		f.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	return &watch{f: f, stop: stop}, nil
}

func (w *watch) close() {
	w.stop()
	w.f.Close()
}

// wait returns when something has changed since the last wait. It returns fs.ErrNotExist if the directory was removed.
func (w *watch) wait(ctx context.Context) error {
	var buf [4096]byte
	n, err := w.f.Read(buf[:])
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("wait for a change: %w", err)
	}
	if removed(buf[:n]) {
		return fmt.Errorf("the log's directory was removed: %w", fs.ErrNotExist)
	}
	return nil
}

// removed reports whether one of the inotify events in buf says that the watched directory is gone.
func removed(buf []byte) bool {
	for len(buf) >= unix.SizeofInotifyEvent {
		if binary.NativeEndian.Uint32(buf[4:])&(unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0 {
			return true
		}
		name := int(binary.NativeEndian.Uint32(buf[12:]))
		buf = buf[min(len(buf), unix.SizeofInotifyEvent+name):]
	}
	return false
}
