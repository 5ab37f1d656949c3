package pinned

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// OnBPF makes sure that pins can be made in a directory, which need not be there yet. errdefs.ErrFailedPrecondition: it is on no BPF file system;
// errdefs.ErrInvalidArgument: it can be on none.
func OnBPF(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("pins in %q: the path must begin at the root: %w", dir, errdefs.ErrInvalidArgument)
	}
	if strings.Contains(dir, ".") {
		return fmt.Errorf("pins in %q: a BPF file system has no names with dots: %w", dir, errdefs.ErrInvalidArgument)
	}
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if uint32(st.Type) != unix.BPF_FS_MAGIC {
			return fmt.Errorf("%s is on no BPF file system (mount -t bpf bpf /sys/fs/bpf): %w", dir, errdefs.ErrFailedPrecondition)
		}
		return nil
	}
}

// Own makes this process the owner of a directory of pins until the file is closed. errdefs.ErrUnavailable: another one is.
func Own(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s belongs to another process: %w", dir, errdefs.ErrUnavailable)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// Unpin removes a pin; that it is not there is no error.
func Unpin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
