package guestfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/runtime/container"
)

// Info is a file of a guest.
type Info struct {
	// Size is how many bytes it has.
	Size uint64
	// Mode are its permission bits.
	Mode uint32
	// UID and GID are its owner in the guest.
	UID, GID uint32
	// ModTime is when its content last changed.
	ModTime time.Time
}

// Sink takes what Pull reads: Info first, then the bytes. An error of it ends the copy and is Pull's.
type Sink interface {
	Info(Info) error
	Write(p []byte) (int, error)
}

// pullScript writes a line about the file and then its bytes: PATH.
const pullScript = `[ -e "$1" ] || exit 65
if [ ! -f "$1" ]; then echo "$1 is not a regular file" >&2; exit 66; fi
stat -L -c "%s %a %u %g %Y" "$1" || exit 67
exec cat "$1"`

// Pull reads a regular file of a running guest and returns the digest of its bytes. max is the most bytes that the caller takes; 0
// means MaxBytes. Errors: faults of the request (INVALID_FIELD), of the phone (NO_SUCH_PHONE, NOT_RUNNING, GUEST_ENDED), of the file
// (NO_SUCH_FILE, FILE_TOO_LARGE, FILE_CHANGED) and of the guest (GUEST_REFUSED); the sink's own.
func (c *Copier) Pull(ctx context.Context, id, path string, max uint64, to Sink) ([]byte, error) {
	if err := checkPath("path", path); err != nil {
		return nil, err
	}
	if max > MaxBytes {
		return nil, fault.Field("max_bytes", "%d is more than %d", max, uint64(MaxBytes))
	}
	if max == 0 {
		max = MaxBytes
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &described{path: path, max: max, to: to, hash: sha256.New(), stop: cancel}
	code, said, err := c.run(ctx, id, script{text: pullScript, args: []string{path}, opts: container.ExecOptions{Stdout: out}})
	switch {
	case out.err != nil:
		return nil, out.err
	case err != nil:
		return nil, err
	case code == 65:
		return nil, fault.New(errdefs.ErrNotFound, NoSuchFile, "%s has no file %s", id, path)
	case code != 0 || !out.described:
		return nil, refused(id, "read "+path, code, said)
	case out.sent != out.info.Size:
		return nil, fault.New(errdefs.ErrAborted, Changed, "%s in %s had %d bytes and gave %d", path, id, out.info.Size, out.sent)
	}
	return out.hash.Sum(nil), nil
}

// described takes the output of pullScript apart. It is written by one goroutine; its fields are read after that has ended.
type described struct {
	path string
	max  uint64
	to   Sink
	stop context.CancelCauseFunc

	line      []byte
	described bool
	info      Info
	sent      uint64
	hash      hash.Hash
	err       error
}

// maxDescription bounds the line about the file.
const maxDescription = 256

// Write implements io.Writer. After an error the process in the guest is ended, for it might write for ever.
func (d *described) Write(p []byte) (int, error) {
	n, err := d.write(p)
	if err != nil && d.err == nil {
		d.err = err
		d.stop(err)
	}
	return n, d.err
}

func (d *described) write(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	rest := p
	if !d.described {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			end = len(p)
		}
		if d.line = append(d.line, p[:end]...); len(d.line) > maxDescription {
			return 0, fault.New(errdefs.ErrAborted, GuestRefused, "the guest describes %s as %q", d.path, fault.Clip(string(d.line)))
		}
		if end == len(p) {
			return len(p), nil
		}
		rest = p[end+1:]
		if err := d.describe(); err != nil {
			return 0, err
		}
	}
	if d.sent+uint64(len(rest)) > d.info.Size {
		return 0, fault.New(errdefs.ErrAborted, Changed, "%s had %d bytes and grew while it was read", d.path, d.info.Size)
	}
	if len(rest) == 0 {
		return len(p), nil
	}
	if _, err := d.to.Write(rest); err != nil {
		return 0, err
	}
	d.hash.Write(rest)
	d.sent += uint64(len(rest))
	return len(p), nil
}

// describe reads the line about the file.
func (d *described) describe() error {
	var seconds int64
	n, err := fmt.Sscanf(strings.TrimSpace(string(d.line)), "%d %o %d %d %d", &d.info.Size, &d.info.Mode, &d.info.UID, &d.info.GID, &seconds)
	if err != nil || n != 5 {
		return fault.New(errdefs.ErrAborted, GuestRefused, "the guest describes %s as %q", d.path, fault.Clip(string(d.line)))
	}
	d.described, d.info.Mode, d.info.ModTime = true, d.info.Mode&0o7777, time.Unix(seconds, 0)
	if d.info.Size > d.max {
		return fault.New(errdefs.ErrOutOfRange, TooLarge, "%s has %d bytes, more than %d", d.path, d.info.Size, d.max)
	}
	return d.to.Info(d.info)
}
