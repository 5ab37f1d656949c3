package pinned

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Classed gives an error of the kernel the class that callers ask for. What it does not know it leaves as it is.
func Classed(err error) error {
	var class error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errdefs.ErrNotImplemented):
		return err
	case errors.Is(err, ebpf.ErrNotSupported):
		class = errdefs.ErrNotImplemented
	case errors.Is(err, ebpf.ErrKeyNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT):
		class = errdefs.ErrNotFound
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		class = errdefs.ErrResourceExhausted
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		class = errdefs.ErrPermissionDenied
	default:
		return err
	}
	return fmt.Errorf("%w: %w", err, class)
}
