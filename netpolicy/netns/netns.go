// Package netns makes, lists and removes named network namespaces: files in one directory, each a bind mount of a namespace, as
// `ip netns` keeps them. A namespace lives as long as its file, whether or not a process is in it, so it survives the agent.
//
// A new namespace has one interface, loopback, and it is up.
//
// Namespaces belong to threads. Create keeps a thread to itself while it is away and gives it back only when it is home again: no
// other goroutine ever runs in the new namespace. All methods may be called from several goroutines; calls for one name must not
// overlap.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Dir is a directory of named network namespaces.
type Dir struct {
	path string
}

// New returns the directory at path, an absolute path. It is made by the first Create.
func New(path string) Dir { return Dir{path: path} }

// Path returns where the namespace called id lies, whether or not it exists.
func (d Dir) Path(id string) string { return filepath.Join(d.path, id) }

// Create makes the namespace called id, with loopback up, and returns its path. A namespace that exists is left as it is.
// A name that is no plain file name is refused with errdefs.ErrInvalidArgument. It needs CAP_SYS_ADMIN.
//
// A crash inside leaves at most an empty file, which the next Create turns into the namespace and Delete removes.
func (d Dir) Create(id string) (path string, err error) {
	if err := checkName(id); err != nil {
		return "", err
	}
	path = d.Path(id)
	if made, err := isNamespace(path); err != nil {
		return "", fmt.Errorf("network namespace %s: %w", id, err)
	} else if made {
		return path, nil
	}
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return "", fmt.Errorf("make the directory of network namespaces: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return "", fmt.Errorf("network namespace %s: make its file: %w", id, err)
	}
	f.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := makeAt(path)
		if home {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine
		done <- err
	}()
	if err := <-done; err != nil {
		return "", errors.Join(fmt.Errorf("network namespace %s: %w", id, err), d.Delete(id))
	}
	return path, nil
}

// Do calls fn on a thread that is in the namespace called id, and takes the thread home. What fn opens there stays there; goroutines that
// it starts do not run there. One that does not exist is an error of errdefs.ErrNotFound.
func (d Dir) Do(id string, fn func() error) error {
	if err := checkName(id); err != nil {
		return err
	}
	f, err := os.Open(d.Path(id))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errdefs.ErrNotFound
		}
		return fmt.Errorf("network namespace %s: %w", id, err)
	}
	defer f.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := callIn(f, fn)
		if home {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("network namespace %s: %w", id, err)
	}
	return nil
}

// callIn takes the calling thread to a namespace, calls fn and takes it home, if it can.
func callIn(ns *os.File, fn func() error) (home bool, err error) {
	origin, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, fmt.Errorf("open the present namespace: %w", err)
	}
	defer origin.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("enter: %w", err)
	}
	err = fn()
	if back := unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET); back != nil {
		return false, errors.Join(err, fmt.Errorf("return to the present namespace: %w", back))
	}
	return true, err
}

// makeAt makes a network namespace with loopback up and binds it to path. It takes the calling thread there and back; home tells
// whether it came back. (A main thread must: the process as others see it is where its main thread is.)
func makeAt(path string) (home bool, err error) {
	origin, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, fmt.Errorf("open the present namespace: %w", err)
	}
	defer origin.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("unshare: %w", err)
	}
	err = loopbackUp()
	if err == nil {
		err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		if err != nil {
			err = fmt.Errorf("bind to %s: %w", path, err)
		}
	}
	if back := unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET); back != nil {
		return false, errors.Join(err, fmt.Errorf("return to the present namespace: %w", back))
	}
	return true, err
}

// loopbackUp brings lo up in the calling thread's namespace.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("read the flags of lo: %w", err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// Delete removes the namespace called id. One that does not exist is no error. Processes in it keep it alive, unnamed.
func (d Dir) Delete(id string) error {
	if err := checkName(id); err != nil {
		return err
	}
	path := d.Path(id)
	// More than one mount can lie on the file only if something else put it there; all go.
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("network namespace %s: unmount: %w", id, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("network namespace %s: remove its file: %w", id, err)
	}
	return nil
}

// List returns the names in order, half-made ones included, so that they can be deleted.
func (d Dir) List() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if checkName(e.Name()) == nil && !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// isNamespace reports whether path is a mounted namespace. A missing or plain file is none.
func isNamespace(path string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", path, err)
	}
	return st.Type == unix.NSFS_MAGIC, nil
}

func checkName(id string) error {
	if id == "" || id == "." || id == ".." || strings.ContainsAny(id, "/\x00") {
		return fmt.Errorf("name of a network namespace %q: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}
