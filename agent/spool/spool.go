// Package spool keeps what callers send for operations in a directory below the state directory, until the operation has used it.
//
// What lies there has a name of its own (rand.Text) and belongs to the operation or the phone whose record names it; Collect removes what
// nothing names, which is what an agent that died had only begun to receive. A Dir keeps no state beside the directory. All methods may
// be called by many goroutines at once.
package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
)

// Dir is a spool's directory.
type Dir struct {
	path string
	// free returns the free bytes of the disk, and reserve is how many of them must stay so.
	free    func() (uint64, error)
	reserve uint64
}

// Open returns the spool in the directory path, which is made for root alone. free returns the free bytes of its disk, of which reserve
// stay free.
func Open(path string, free func() (uint64, error), reserve uint64) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make a spool: %w", err)
	}
	return &Dir{path: path, free: free, reserve: reserve}, nil
}

// Path returns the path of what has the name, or of a file in it.
func (d *Dir) Path(name string, file ...string) string {
	return filepath.Join(append([]string{d.path, name}, file...)...)
}

// Room refuses bytes more if they would leave less than the reserve: a fault of class ErrResourceExhausted with reason DISK_LOW. what
// names in it what the bytes are of.
func (d *Dir) Room(bytes uint64, what string) error {
	free, err := d.free()
	if err != nil {
		return fmt.Errorf("free space: %w", err)
	}
	if need := d.reserve + bytes; free < need {
		return fault.New(errdefs.ErrResourceExhausted, fault.DiskLow, "the host's disk has %d MiB free and needs %d MiB for this %s and its reserve", free>>20, need>>20, what)
	}
	return nil
}

// Sync has the names of the spool's entries reach the disk, and of the files in the directories that are named.
func (d *Dir) Sync(names ...string) error {
	var errs []error
	for _, path := range append(names, "") {
		dir, err := os.Open(d.Path(path))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, dir.Sync(), dir.Close())
	}
	return errors.Join(errs...)
}

// Remove removes what has the name; if that is gone it is no error. It returns errdefs.ErrInvalidArgument for what is no name.
func (d *Dir) Remove(name string) error {
	if name == "" || name == "." || name == ".." || name != filepath.Base(name) {
		return fmt.Errorf("remove %q from a spool: %w", name, errdefs.ErrInvalidArgument)
	}
	return os.RemoveAll(d.Path(name))
}

// Collect removes what is not named.
func (d *Dir) Collect(named func(name string) bool) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("look through a spool: %w", err)
	}
	for _, e := range entries {
		if !named(e.Name()) {
			err = errors.Join(err, d.Remove(e.Name()))
		}
	}
	return err
}
