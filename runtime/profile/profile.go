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
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/seccomp"
)

// Profile is one kind of Android image.
type Profile struct {
	// Name is what phones and image labels call it.
	Name string

	// The first process.

	// Args are the guest's first process and its arguments.
	Args func(Boot) []string
	// CheckProperties refuses properties that this kind of image cannot be given: errdefs.ErrInvalidArgument, naming the property and
	// what would be right.
	CheckProperties func(map[string]string) error
	// Env is the environment of the first process, and of what Exec runs.
	Env []string
	// Capabilities of the first process, "CAP_CHOWN". They are permitted, effective and bounding; none is inheritable or ambient.
	Capabilities []string
	// Seccomp fits the guest's filter.
	Seccomp seccomp.GuestOptions
	// Console gives the first process a pseudo-terminal, /dev/console, for its output, and makes /dev/kmsg a link to it: what init
	// writes to the kernel's log comes into the guest's.
	Console bool
	// MaxPIDs bounds processes and threads.
	MaxPIDs int64

	// What it finds.

	// ReadonlyRoot makes the image's files unchangeable in the guest.
	ReadonlyRoot bool
	// ProcOptions are options of the mount of /proc ("hidepid=2").
	ProcOptions []string
	// Sysctls leaves /proc/sys/net writable, whose values are those of the guest's own network namespace. Everything else of /proc/sys
	// is read-only for every guest.
	Sysctls bool
	// DevBytes and DevFiles are the size of /dev, which is in memory, and its number of files; 0 means 4 MiB and 4096.
	DevBytes, DevFiles uint64
	// Tmpfs are the guest's own file systems in memory besides /dev; all that is in them counts against its memory limit. They are
	// mounted in this order, before the files and the Wayland directory.
	Tmpfs []Tmpfs
	// Files are made by the engine before each start and bound read-only.
	Files []File
	// MaskedPaths are hidden, and ReadonlyPaths unchangeable, in addition to those of every guest.
	MaskedPaths, ReadonlyPaths []string
	// Devices are device nodes beside those of every guest, and rules for nodes that the guest makes.
	Devices []Device
	// WaylandDir is where the directory of the display's Wayland socket, wayland-0, is bound in the guest. Empty: this kind of image
	// draws to no Wayland display; its phone's display stays blank.
	WaylandDir string
	// Globals are the optional Wayland globals that the display offers this guest ("wl_subcompositor").
	Globals []string
	// Binder says whether the guest gets devices of the kernel's binder driver, as /dev/binder, /dev/hwbinder and /dev/vndbinder.
	Binder Binder
	// BinderDir is where its own binderfs is mounted. An init that mounts another binderfs at its usual place, /dev/binderfs, is kept
	// from doing so where the guest's is elsewhere: what is there is a file.
	BinderDir string

	// How it lives.

	// BootCompletedArgs are run in the guest to ask whether it has booted, and BootCompleted reads the answer.
	BootCompletedArgs []string
	BootCompleted     func(stdout string) bool
	// Shutdown is how it is asked to end.
	Shutdown Shutdown
	// Ending says what the exit of the guest's first process means.
	Ending func(exitCode uint32, e Evidence) Ending
	// NeedsBootReason says for which exit codes Ending asks for Evidence.BootReason, which costs a mount of the data volume; nil: for none.
	NeedsBootReason func(exitCode uint32) bool

	// How it is worked with.

	// Shell runs a command that comes after it as "-c COMMAND", and is interactive without one.
	Shell []string
	// PackageManager and ActivityManager are Android's pm and am.
	PackageManager, ActivityManager []string
	// PackageList is the path of the list of packages, in the guest.
	PackageList string
}

// Line returns the arguments that have the profile's shell run a line, with what the line finds as $0, $1 and so on.
func (p *Profile) Line(line string, words ...string) []string {
	return append(append(slices.Clone(p.Shell), "-c", line), words...)
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

// Boot is what the arguments and files of a guest depend on.
type Boot struct {
	ID string
	// Width and Height of the screen in pixels, DPI in dots per inch, FPS in frames per second.
	Width, Height, DPI, FPS uint32
	// DNS are the addresses of name servers, the first asked first; none: the image's own.
	DNS []string
	// RenderNode is the path, in the guest, of the GPU's render node; empty without one.
	RenderNode string
	// Properties are what the phone's owner sets.
	Properties map[string]string
}

// Tmpfs is a file system in memory: where it lies, the mode and owner of its root, its size in bytes and its number of files.
type Tmpfs struct {
	Path     string
	Mode     uint32
	UID, GID uint32
	Bytes    uint64
	Files    uint64
}

// File is a file of the guest that the engine writes: where it is bound, and what it says.
type File struct {
	Path    string
	Content func(Boot) []byte
}

// Device is a character device. With a Path the guest has its node there, with Mode and owned by root. Access is what it may do with
// nodes of this number, "r", "w" and "m" (make).
type Device struct {
	Path         string
	Major, Minor int64
	Mode         uint32
	Access       string
}

// Shutdown is how a guest is asked to end. One of the two is set.
type Shutdown struct {
	// Args are run in the guest.
	Args []string
	// Signal is sent to its first process, from outside its pid namespace.
	Signal unix.Signal
}

// Names lists the profiles in order.
func Names() []string { return slices.Sorted(maps.Keys(profiles)) }

// Get returns the profile called name; errdefs.ErrInvalidArgument if there is none.
func Get(name string) (*Profile, error) {
	if p, ok := profiles[name]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("profile %q is not known, only %s: %w", name, strings.Join(Names(), ", "), errdefs.ErrInvalidArgument)
}

var profiles = byName(testphone(), redroid(), redroidSysBoot(), waydroid())

func byName(list ...*Profile) map[string]*Profile {
	m := make(map[string]*Profile, len(list))
	for _, p := range list {
		m[p.Name] = p
	}
	return m
}
