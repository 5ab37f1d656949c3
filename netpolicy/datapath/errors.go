package datapath

import (
	"fmt"

	"github.com/containerd/errdefs"
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
