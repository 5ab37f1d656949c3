package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// releasePipes frees the shims that wait in open(2) for the other end of an exec's pipes, and removes the pipes.
//
// The other end was an agent that has died since, and a shim that waits holds its lock: until it goes on it answers nothing about its
// containers, so containerd reports their status as unknown. Opening a pipe for both directions lets every waiting open succeed at once
// (fifo(7)), and it stays so after the close: the process then writes to nobody. A shim that comes later finds no pipe and its exec
// fails, which nobody waits for either.
func releasePipes(dir string) error {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.Type()&fs.ModeNamedPipe == 0 {
			return err
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		return unix.Close(fd)
	})
	if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
		return fmt.Errorf("remove the pipes of old execs: %w", err)
	}
	return nil
}
