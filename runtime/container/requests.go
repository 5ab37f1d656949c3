package container

import (
	"io"
	"time"
)

// EventKind says what an Event reports.
type EventKind int

// The kinds of events.
const (
	// Exited: the first process of a phone's container ended with ExitCode.
	Exited EventKind = iota
	// OOM: the kernel killed a process of the container because the container's memory limit was reached.
	OOM
	// Lost: containerd stopped answering. Nothing is known until Back.
	Lost
	// Back: events flow again. Those of the time between are gone, so everything must be observed anew.
	Back
)

// String returns "exited", "oom", "lost" or "back".
func (k EventKind) String() string {
	return [...]string{"exited", "oom", "lost", "back"}[k]
}

// Event is something that happened to a phone's container, or to the connection to containerd.
type Event struct {
	Kind EventKind
	// PhoneID and Role are set for Exited and OOM.
	PhoneID string
	Role    Role
	// ExitCode is set for Exited; an exit by signal n is 128 + n.
	ExitCode uint32
	// Time is when containerd saw it, or for Lost and Back when the engine did.
	Time time.Time
}

// Size is the size of a terminal in characters.
type Size struct {
	Width, Height uint16
}

// ExecOptions describe a process to run inside a guest.
type ExecOptions struct {
	// ID is the process's name in containerd, by which EndExec finds it; empty means a random one. At most 76 bytes of [a-zA-Z0-9-].
	ID string
	// Args is the program, found by the guest's PATH unless it is a path, and its arguments. At least one.
	Args []string
	// Env holds "NAME=value" entries that go after the guest's own environment.
	Env []string
	// Cwd is the working directory; empty means "/".
	Cwd string
	// UID is the user and group to run as.
	UID uint32
	// Terminal gives the process a terminal of Width x Height characters (80 x 24 if zero). Its output then arrives on Stdout only.
	Terminal      bool
	Width, Height uint16
	// Stdin is copied to the process until it ends; nil means no input. A reader that blocks after the process ended is left
	// behind: close it. Stdout and Stderr receive the output, by their Write alone; nil discards it. Where both are the same writer,
	// and can be compared with ==, one Write runs at a time.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize delivers new sizes of the terminal; nil means it keeps its size.
	Resize <-chan Size
}
