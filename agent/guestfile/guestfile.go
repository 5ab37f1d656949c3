// Package guestfile copies files into and out of running guests.
//
// The guest's own programs open the files, as root, with the paths as they see them: a link, a pipe, a file system that hangs or a
// directory that changes under the copy concerns the guest and the one process that runs there, which ends with the call. Nothing of a
// guest's file system is opened from the host. The package keeps no state; its functions may be called by many goroutines at once.
package guestfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/runtime/container"
)

const (
	// MaxBytes is the most bytes of a file.
	MaxBytes = 8 << 30
	// MaxPath is the most bytes of a path.
	MaxPath = 4096
	// DefaultMode is the mode of a file that names none.
	DefaultMode = 0o644
)

// Reasons of failures; docs/api.md has them.
const (
	// GuestRefused means that the guest's programs did not do what was asked; the text is what they said.
	GuestRefused = "GUEST_REFUSED"
	// DigestMismatch means that other bytes came than were announced.
	DigestMismatch = "DIGEST_MISMATCH"
	// NoSuchFile means that the guest has no such file.
	NoSuchFile = "NO_SUCH_FILE"
	// TooLarge means that the file is larger than the caller takes.
	TooLarge = "FILE_TOO_LARGE"
	// Changed means that the file changed its size while it was read.
	Changed = "FILE_CHANGED"
)

// Guests runs processes in guests (container.Engine).
type Guests interface {
	Exec(ctx context.Context, id string, opts container.ExecOptions) (exitCode uint32, err error)
}

// Copier copies files.
type Copier struct {
	// Guests and Phones are the world.
	Guests Guests
	Phones job.Phones
}

// checkPath refuses what is no absolute path of a file. field names it in the request.
func checkPath(field, name string) error {
	switch {
	case len(name) > MaxPath:
		return fault.Field(field, "%d bytes are more than %d", len(name), MaxPath)
	case !path.IsAbs(name) || strings.ContainsRune(name, 0):
		return fault.Field(field, "%q must be an absolute path in the guest", fault.Clip(name))
	case strings.HasSuffix(name, "/"):
		return fault.Field(field, "%q must name a file and not a directory", fault.Clip(name))
	}
	return nil
}

// script is a program for the guest's shell, and what became of it.
type script struct {
	text string
	args []string
	opts container.ExecOptions // its streams
}

// maxSaid is how much of what the guest's programs say is kept.
const maxSaid = 512

// run runs a script in a phone. The exit code is the script's own.
func (c *Copier) run(ctx context.Context, id string, s script) (code uint32, said string, err error) {
	before, err := job.Running(c.Phones, id)
	if err != nil {
		return 0, "", err
	}
	kind, err := before.Profile()
	if err != nil {
		return 0, "", err
	}
	var errs tail
	s.opts.Args = kind.Line(s.text, append([]string{"sh"}, s.args...)...)
	s.opts.Stderr = &errs
	code, err = c.Guests.Exec(ctx, id, s.opts)
	if ctx.Err() != nil {
		return code, errs.String(), context.Cause(ctx)
	}
	if (err != nil || code > 128) && job.EndedWith(ctx, c.Phones, before) {
		err = errors.Join(job.Ended(id), err)
	}
	return code, errs.String(), err
}

// refused is the error for a script that did not do its work.
func refused(id, what string, code uint32, said string) error {
	if said == "" {
		said = fmt.Sprintf("exit code %d", code)
	}
	return fault.New(errdefs.ErrAborted, GuestRefused, "%s in %s: %s", what, id, fault.Readable(said))
}

// tail keeps the end of what is written to it.
type tail struct{ buf bytes.Buffer }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if over := t.buf.Len() - maxSaid; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

// String returns the end, without the last line's end.
func (t *tail) String() string { return strings.TrimSpace(t.buf.String()) }
