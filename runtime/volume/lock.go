package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// lockInterval is how often a lock is asked for that another has: a blocked flock(2) could not be given up.
	lockInterval = 5 * time.Millisecond
	// mountGrace is how long a mount may take to go after its last user, and deviceGrace how long a loop device without a mount. The
	// kernel detaches it before the umount returns, unless udev looks at it just then.
	mountGrace  = 2 * time.Second
	deviceGrace = 10 * time.Second
)

// ErrInUse means that a loop device has the volume and keeps it: for a guest's mount, or a reader. It is an errdefs.ErrFailedPrecondition.
var ErrInUse = fmt.Errorf("it is in use: %w", errdefs.ErrFailedPrecondition)

// lock opens the volume at path and takes its lock, unix.LOCK_EX or unix.LOCK_SH. It lasts until the returned file and everything
// that was given it are closed.
//
// What goes away by itself is waited for, until ctx ends: a program that works on the volume, and for a while a loop device that nobody
// has mounted. A mount is waited for patience at most. Then the error is ErrInUse.
func lock(ctx context.Context, path string, how int, patience time.Duration) (*os.File, error) {
	tick := time.NewTicker(lockInterval)
	defer tick.Stop()
	for began := time.Now(); ; {
		f, err := tryLock(path, how)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return f, err
		}
		device, err := attachedTo(path)
		if err != nil {
			return nil, err
		}
		waited := time.Since(began)
		if device != "" && (waited > deviceGrace || waited > patience && mounted(device)) {
			return nil, inUse(path, device)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("volume %s: wait for who works on it: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

func inUse(path, device string) error {
	return fmt.Errorf("volume %s: %s has it: %w", path, device, ErrInUse)
}

// tryLock opens and locks the file that is at path when it returns. It returns unix.EWOULDBLOCK if another has the lock.
func tryLock(path string, how int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("volume: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock volume %s: %w", path, err)
		}
		// The one who had the lock before may have removed or replaced the file.
		same, err := isAt(f, path)
		if same {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

// isAt reports whether the open file is still the one that path leads to.
func isAt(f *os.File, path string) (bool, error) {
	opened, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("volume: %w", err)
	}
	named, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("volume: %w", err)
	}
	return err == nil && os.SameFile(opened, named), nil
}

// lockFree is lock for those who cannot do with a volume that any loop device has, also one of others that holds no lock.
func lockFree(ctx context.Context, path string, how int, patience time.Duration) (*os.File, error) {
	f, err := lock(ctx, path, how, patience)
	if err != nil {
		return nil, err
	}
	device, err := attachedTo(path)
	if err == nil && device != "" {
		err = inUse(path, device)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
