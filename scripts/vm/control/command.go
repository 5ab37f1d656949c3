package control

import (
	"io"
	"syscall"
)

// Command is a program to run in the guest.
type Command struct {
	// Args are the program and its arguments. A program without a slash is looked for in the guest's PATH.
	Args []string
	// Env is added to the guest's environment as KEY=VALUE; a later value of a key wins.
	Env []string
	// Dir is the working directory; "" is /root for root, where it exists, and / for others.
	Dir string
	// User runs the program as NAME, UID or UID:GID, with the supplementary groups of NAME; "" is root.
	User string
	// Terminal, if not nil, gives the program a terminal of this size as its controlling one; its output is Stdout.
	Terminal *Size
	// Stdin is read until its end or the program's; nil is empty. A Read under way when the program ends is not waited for.
	Stdin io.Reader
	// Stdout and Stderr take what the program writes; nil discards it. They are called by one goroutine
	// at a time; if they are the same writer, it gets all in the order in which it was written. An error of theirs ends the program.
	Stdout, Stderr io.Writer
	// Resize brings new sizes of the terminal; nil is never.
	Resize <-chan Size
	// Signals brings signals for the program's process group; nil is never.
	Signals <-chan syscall.Signal
}

// Size is the size of a terminal in characters.
type Size struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// Guest is what a guest says of itself when a session begins.
type Guest struct {
	// BootID is the kernel's random name of this boot; a resumed snapshot keeps it.
	BootID string `json:"boot_id"`
	// Release is the kernel's, as uname -r prints it.
	Release string `json:"release"`
	// Kind is "kernel" or "system".
	Kind string `json:"kind"`
	// Problems are what went wrong while the guest booted and did not keep it from serving, such as a module that is missing.
	Problems []string `json:"problems,omitempty"`
}

// Actions of Client.Power.
const (
	PowerOff = "poweroff"
	Reboot   = "reboot"
)
