// Package profile holds what the engine must know about each kind of Android image: data, and a few functions of data.
//
// A profile starts nothing and asks nobody; what a function needs to know it is given. Profiles are read-only after the program
// has started and may be used by any number of goroutines.
package profile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/seccomp"
)

// Profile is one kind of Android image.
type Profile struct {
	// Name is what phones and image labels call it.
	Name string

	// Args are the guest's first process and its arguments.
	Args func(Boot) []string
	// Env is the environment of the first process, and of what Exec runs.
	Env []string
	// Capabilities of the first process, "CAP_CHOWN". They are permitted, effective and bounding; none is inheritable or ambient.
	Capabilities []string
	// Seccomp loosens the guest's filter.
	Seccomp seccomp.GuestOptions
	// ReadonlyRoot makes the image's files unchangeable in the guest.
	ReadonlyRoot bool
	// Tmpfs are the guest's own file systems in memory besides /dev; all that is in them counts against its memory limit.
	Tmpfs []Tmpfs
	// MaskedPaths are hidden in addition to those of every guest.
	MaskedPaths []string
	// WaylandDir is where the directory of the display's Wayland socket, wayland-0, is bound in the guest.
	WaylandDir string
	// Globals are the optional Wayland globals that the display offers this guest ("wl_subcompositor").
	Globals []string
	// MaxPIDs bounds processes and threads.
	MaxPIDs int64
	// Binder says whether the guest gets devices of the kernel's binder driver, as /dev/binder, /dev/hwbinder and /dev/vndbinder.
	Binder Binder

	// BootCompletedArgs are run in the guest to ask whether it has booted, and BootCompleted reads the answer.
	BootCompletedArgs []string
	BootCompleted     func(stdout string) bool
	// ShutdownArgs are run in the guest to make it end.
	ShutdownArgs []string
	// Ending says what the exit of the guest's first process means.
	Ending func(exitCode uint32) Ending
}

// Binder is a guest's need of the kernel's binder driver.
type Binder int

// The needs. A guest never has less than the host can give: where all sets of devices are in use, it is not started.
const (
	// BinderNone: the guest gets no devices.
	BinderNone Binder = iota
	// BinderOptional: the guest gets devices wherever the kernel has binder, and starts without where it has none.
	BinderOptional
	// BinderRequired: the guest is not started on a kernel without binder.
	BinderRequired
)

// Boot is what the arguments of a guest's init depend on.
type Boot struct {
	ID         string
	DPI        uint32
	Properties map[string]string
}

// Tmpfs is a file system in memory: where it lies, the mode of its root, its size in bytes and its number of files.
type Tmpfs struct {
	Path  string
	Mode  uint32
	Bytes uint64
	Files uint64
}

// Ending is what the end of a guest means.
type Ending int

// The endings of a guest.
const (
	// Crashed: nobody asked for it, as far as the exit tells.
	Crashed Ending = iota
	// Rebooted: the guest asked to be started again.
	Rebooted
	// PoweredOff: the guest asked to be off.
	PoweredOff
)

// Names lists the profiles in order.
func Names() []string { return slices.Sorted(maps.Keys(profiles)) }

// Get returns the profile called name; errdefs.ErrInvalidArgument if there is none.
func Get(name string) (*Profile, error) {
	if p, ok := profiles[name]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("profile %q is not known, only %s: %w", name, strings.Join(Names(), ", "), errdefs.ErrInvalidArgument)
}

var profiles = map[string]*Profile{testphone.Name: &testphone}

// pidNamespaceEnding reads the exit of a guest whose init calls reboot(2): in a pid namespace the kernel then ends init by SIGHUP
// for a restart and by SIGINT for a power-off (kernel/pid_namespace.c, reboot_pid_ns).
func pidNamespaceEnding(exitCode uint32) Ending {
	switch exitCode {
	case 128 + 1:
		return Rebooted
	case 128 + 2:
		return PoweredOff
	default:
		return Crashed
	}
}
