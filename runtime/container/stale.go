package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// holdTime is how long released pipes are held open: much longer than a shim takes from finding a pipe to waiting in it.
const holdTime = 5 * time.Second

// pipes are ends of named pipes that are held open.
type pipes struct {
	fds    []int
	closed sync.Once
}

// close lets go of the pipes; their other ends then see that nobody is there. It may be called again, by any goroutine.
func (p *pipes) close() {
	p.closed.Do(func() {
		for _, fd := range p.fds {
			_ = unix.Close(fd) // it holds nothing to be flushed
		}
	})
}

// releasePipes frees the shims that wait in open(2) for the other end of an exec's pipes, and removes the pipes.
//
// The other end was an agent that has died since, and a shim that waits holds its lock: until it goes on it answers nothing about its
// containers, so containerd reports their status as unknown. A pipe that is open for both directions lets every open succeed at once
// (fifo(7)). It is held for a while, since a shim may have found the pipe and not opened it yet; one that comes later finds none and
// its exec fails, which nobody waits for either. The caller closes what is returned.
func releasePipes(dir string) (*pipes, error) {
	held := &pipes{}
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
		held.fds = append(held.fds, fd)
		return nil
	})
	if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
		held.close()
		return nil, fmt.Errorf("remove the pipes of old execs: %w", err)
	}
	return held, nil
}
