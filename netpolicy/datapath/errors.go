package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// UnsupportedError says what the kernel lacks. Its class is errdefs.ErrNotImplemented.
type UnsupportedError struct {
	// Feature is what is missing, and Since the first kernel that has it, with the options that it is built with: "Linux 6.1 with
	// CONFIG_NET_CLS_BPF".
	Feature, Since string
	// Err is what the kernel said.
	Err error
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("the kernel has no %s, which %s has: %v", e.Feature, e.Since, e.Err)
}

// Unwrap gives the class and the cause.
func (e *UnsupportedError) Unwrap() []error { return []error{errdefs.ErrNotImplemented, e.Err} }

// classed gives an error of the kernel the class that callers ask for. What it does not know it leaves as it is.
func classed(err error) error {
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
