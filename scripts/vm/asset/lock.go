package asset

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	shared    = unix.LOCK_SH
	exclusive = unix.LOCK_EX
)

// retry is how often a lock that others hold is tried again. The kernel has no wait for flock that can be given up, and no event
// that comes after the release.
const retry = 50 * time.Millisecond

// Lock is an flock(2) on a file of the cache's directory. It ends with Close, or with the process.
type Lock struct {
	file *os.File
}

// Lock waits until the lock called name is free and takes it for this process alone. waiting, if not nil, is called once if it is
// not free at first. The cache cannot be emptied while the lock is held.
func (c *Cache) Lock(ctx context.Context, waiting func(holders string), name string) (*Lock, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("lock %q: want a name of letters, digits and ._+-: %w", name, errdefs.ErrInvalidArgument)
	}
	l, err := c.lock(name)
	if err != nil {
		return nil, err
	}
	tell := func() {
		if waiting != nil {
			waiting(l.Holders())
		}
	}
	if err := l.wait(ctx, exclusive, tell, nil); err != nil {
		l.Close()
		return nil, fmt.Errorf("wait for the lock %s: %w", name, err)
	}
	return l, nil
}

// Close gives the lock up.
func (l *Lock) Close() error { return l.file.Close() }

// Holders names the processes that hold the lock, "pid 12, pid 15", or "nobody".
func (l *Lock) Holders() string {
	pids := holders(l.file)
	if len(pids) == 0 {
		return "nobody"
	}
	names := make([]string, len(pids))
	for i, pid := range pids {
		names[i] = "pid " + strconv.Itoa(pid)
	}
	return strings.Join(names, ", ")
}

// lock opens the lock called name; nothing holds it yet.
func (c *Cache) lock(name string) (*Lock, error) {
	return lockFile(filepath.Join(c.dir, lockDir, name))
}

func lockFile(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open a lock of the cache: %w", err)
	}
	return &Lock{file: f}, nil
}

// try takes the lock if it is free, or changes how it is held.
func (l *Lock) try(how int) (bool, error) {
	err := unix.Flock(int(l.file.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", l.file.Name(), err)
	}
	return true, nil
}

// wait takes the lock when it is free, unless enough says first that it is no longer needed. It calls waiting once if the lock is not
// free at first. Both may be nil.
func (l *Lock) wait(ctx context.Context, how int, waiting func(), enough func() bool) error {
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if ok, err := l.try(how); ok || err != nil {
			return err
		}
		if enough != nil && enough() {
			return nil
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// holders are the processes that hold a lock on the file, as /proc/locks has them (proc_locks(5)).
func holders(f *os.File) []int {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil
	}
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return nil
	}
	defer locks.Close()
	var pids []int
	for scan := bufio.NewScanner(locks); scan.Scan(); {
		// "1: FLOCK  ADVISORY  WRITE 708 08:01:12345 0 EOF"; one that waits has "->" after the number.
		words := strings.Fields(scan.Text())
		if len(words) < 6 || words[1] != "FLOCK" || words[5] != want {
			continue
		}
		if pid, err := strconv.Atoi(words[4]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
