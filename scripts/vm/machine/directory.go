package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"golang.org/x/sys/unix"
)

// Names in a machine's directory.
const (
	serialFile  = "serial.log"
	diskFile    = "disk.qcow2"
	payloadFile = "payload.img"
	controlFile = "control"
	lockFile    = "lock"
)

// directory is the directory of one machine. While its process lives the file "lock" in it is locked.
type directory struct {
	path string
	own  bool // it is of the cache, and goes with the machine
	lock *os.File
}

// alone returns with the directory of all machines' directories locked against other processes and goroutines that make, remove or look
// through them: between a directory's making and its lock it looks like one that was left behind.
func alone(parent string) (unlock func() error, err error) {
	f, err := os.Open(parent)
	if err != nil {
		return nil, fmt.Errorf("lock the directory of machines: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", parent, err)
		}
	}
}

// newDirectory makes path, or a directory of the cache if path is "". It removes those of machines whose process was killed.
func newDirectory(cache *asset.Cache, path string) (*directory, error) {
	parent, err := cache.Keep("machines")
	if err != nil {
		return nil, err
	}
	unlock, err := alone(parent)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := sweep(parent); err != nil {
		return nil, err
	}
	if path != "" {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, fmt.Errorf("make the machine's directory: %w", err)
		}
		lock, err := tryLock(path)
		if err == nil && lock == nil {
			err = fmt.Errorf("directory %s is another machine's", path)
		}
		return &directory{path: path, lock: lock}, err
	}
	path, err = os.MkdirTemp(parent, "machine-")
	if err != nil {
		return nil, fmt.Errorf("make the machine's directory: %w", err)
	}
	lock, err := tryLock(path)
	if err == nil && lock == nil {
		err = fmt.Errorf("directory %s was locked by another process as soon as it was made", path)
	}
	return &directory{path: path, own: true, lock: lock}, err
}

// tryLock locks a directory, or returns nil if it is locked.
func tryLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the machine's directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// Whoever held it before may have removed it.
	var held, there unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &held); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if unix.Stat(f.Name(), &there) != nil || held.Ino != there.Ino {
		return nil, f.Close()
	}
	return f, nil
}

// sweep removes the directories that no process has locked. The caller is alone.
func sweep(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("look for machines that were left behind: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(parent, entry.Name())
		lock, err := tryLock(path)
		if err != nil {
			return err
		}
		if lock == nil {
			continue
		}
		err = os.RemoveAll(path)
		lock.Close()
		if err != nil {
			return fmt.Errorf("remove a machine that was left behind: %w", err)
		}
	}
	return nil
}

func (d *directory) file(name string) string { return filepath.Join(d.path, name) }

// remove removes the directory, or all but the serial log from one that the caller named.
func (d *directory) remove() error {
	defer d.lock.Close()
	if d.own {
		unlock, err := alone(filepath.Dir(d.path))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // all directories were removed
		}
		if err != nil {
			return err
		}
		defer unlock()
		return os.RemoveAll(d.path)
	}
	var all error
	for _, name := range []string{diskFile, payloadFile, controlFile, lockFile} {
		if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}
