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

// newDirectory makes path, or a directory of the cache if path is "". It removes those of machines whose process was killed.
func newDirectory(cache *asset.Cache, path string) (*directory, error) {
	parent, err := cache.Keep("machines")
	if err != nil {
		return nil, err
	}
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
	for {
		path, err := os.MkdirTemp(parent, "machine-")
		if err != nil {
			return nil, fmt.Errorf("make the machine's directory: %w", err)
		}
		lock, err := tryLock(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && lock == nil {
			continue // another process took it for one that was left behind
		}
		return &directory{path: path, own: true, lock: lock}, err
	}
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

// sweep removes the directories that no process has locked.
func sweep(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("look for machines that were left behind: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(parent, entry.Name())
		lock, err := tryLock(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if lock == nil {
			continue
		}
		err = removeAll(path)
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
		return removeAll(d.path)
	}
	var all error
	for _, name := range []string{diskFile, payloadFile, controlFile, lockFile} {
		if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// removeAll removes a machine's directory. Another process that looks for machines which were left behind may make the lock file anew
// once it is gone, which keeps the directory from being removed for that moment.
func removeAll(path string) error {
	for {
		if err := os.RemoveAll(path); !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
}
