package screen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// waitSocket connects to a socket and, while there is none or nobody listens, waits for something to change in its directory.
func waitSocket(ctx context.Context, path string, out io.Writer) (*net.UnixConn, error) {
	watch, err := newWatch(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer watch.Close()
	stop := context.AfterFunc(ctx, func() { watch.Close() })
	defer stop()
	said := false
	for {
		conn, err := connectUnix(path)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) {
			return nil, fmt.Errorf("connect to the display: %w", err)
		}
		if !said {
			said = true
			fmt.Fprintf(out, "screen: waiting for the display's socket %s (%v)\n", path, errors.Unwrap(err))
		}
		if _, err := watch.Read(make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("wait for the display's socket: %w", err)
		}
	}
}

// newWatch returns a file that can be read when a name appears in a directory.
func newWatch(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ATTRIB|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}
