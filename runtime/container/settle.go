package container

import (
	"context"
	"errors"
	"fmt"
	"os"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/profile"
)

// settle does what no spec can say, to a guest that has been created and does not run: its mounts are complete, and no program of it
// has begun. An agent that is killed meanwhile leaves a container that was not started, which the next start replaces.
func (e *Engine) settle(ctx context.Context, p Phone, pid uint32, devices binder.Grant) error {
	prof, err := profile.Get(p.Profile)
	if err != nil {
		return err
	}
	if prof.Seccomp.Android {
		if err := e.protect(p.ID); err != nil {
			return err
		}
	}
	if devices.Instance == nil && !prof.Console && len(prof.Tmpfs) == 0 {
		return nil
	}
	root, err := e.createdRoot(ctx, p.ID, pid)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, t := range prof.Tmpfs {
		if err := settleTmpfs(root, t); err != nil {
			return err
		}
	}
	if prof.Console {
		if err := settleConsole(root); err != nil {
			return err
		}
	}
	if devices.Instance != nil {
		if err := binder.Allocate(root, prof.BinderDir); err != nil {
			return err
		}
	}
	if prof.Seccomp.Android && prof.ReadonlyRoot {
		return sealRoot(root)
	}
	return nil
}

// createdRoot opens the root directory of a guest that has been created. Nothing outside it is reached through it, whatever links lie
// in the image.
func (e *Engine) createdRoot(ctx context.Context, id string, pid uint32) (*os.Root, error) {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return nil, fmt.Errorf("open its root directory: %w", err)
	}
	// While the task is created and not started its first process is the one with this pid; so it is its root that was opened.
	status, found, err := e.task(ctx, containerID(id, Guest))
	if err == nil && (!found || status.GetStatus() != tasktypes.Status_CREATED || status.GetPid() != pid) {
		err = fmt.Errorf("look at its root directory: its first process ended before it was started: %w", errdefs.ErrAborted)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// settleTmpfs gives a file system in memory the mode that its profile says. The option of its mount does that as well, but runc before
// 1.1.8 gives it the mode of the image's directory that it lies over (https://github.com/opencontainers/runc/issues/3911), by which
// everybody would pass where few are to.
func settleTmpfs(root *os.Root, t profile.Tmpfs) error {
	dir, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("open its root directory: %w", err)
	}
	defer dir.Close()
	// Links in the image are followed as runc does, within the root.
	fd, err := unix.Openat2(int(dir.Fd()), t.Path, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fmt.Errorf("open its %s: %w", t.Path, err)
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return fmt.Errorf("look at its %s: %w", t.Path, err)
	}
	if uint32(st.Type) != unix.TMPFS_MAGIC {
		return fmt.Errorf("look at its %s: a file system of type %#x is there, want one in memory: %w", t.Path, st.Type, errdefs.ErrFailedPrecondition)
	}
	if err := unix.Fchmod(fd, t.Mode); err != nil {
		return fmt.Errorf("give its %s the mode %#o: %w", t.Path, t.Mode, err)
	}
	return nil
}

// settleConsole prepares /dev for Android's init.
//
// It makes /dev/kmsg a link to the terminal of the first process, whose output is the guest's log. And it puts a new node in the place
// of /dev/null: runc hides files by binding /dev/null over them, and init gives some of them other modes (/proc/kmsg 0440,
// /proc/sysrq-trigger 0220), which would be /dev/null's too.
func settleConsole(root *os.Root) error {
	dev, err := root.Open("dev")
	if err != nil {
		return fmt.Errorf("open its /dev: %w", err)
	}
	defer dev.Close()
	if err := root.Remove("dev/null"); err != nil {
		return fmt.Errorf("take its /dev/null from what it hides: %w", err)
	}
	if err := unix.Mknodat(int(dev.Fd()), "null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return fmt.Errorf("make its /dev/null: %w", err)
	}
	if err := root.Chmod("dev/null", 0o666); err != nil { // whatever the umask
		return fmt.Errorf("make its /dev/null: %w", err)
	}
	if err := root.Symlink("console", "dev/kmsg"); err != nil {
		return fmt.Errorf("link its /dev/kmsg: %w", err)
	}
	return nil
}

// sealRoot makes the file system of a guest's root read-only, where so far only its mount is: a guest that mounts can have another
// mount of it (open_tree_attr(2), Linux 6.15, which an older libseccomp does not know), and its writes would go to the host's disk.
//
// It reaches an overlay alone, which is this guest's own. The file system of another snapshotter could be the host's.
func sealRoot(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("open its root directory: %w", err)
	}
	defer dir.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil || uint32(st.Type) != unix.OVERLAYFS_SUPER_MAGIC {
		return err
	}
	fd, err := unix.Fspick(int(dir.Fd()), "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err == nil {
		defer unix.Close(fd)
		err = errors.Join(unix.FsconfigSetFlag(fd, "ro"), unix.FsconfigReconfigure(fd))
	}
	if err != nil {
		return fmt.Errorf("make the file system of its root read-only: %w", err)
	}
	return nil
}
