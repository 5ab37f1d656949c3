// Package data keeps archives of data volumes that are to be imported, from their arrival until a phone's controller has made a volume of
// them, and gives what the reader of archives refuses the words of the API.
//
// An archive is received and verified whole before any phone hears of it: a call that does not become an operation leaves nothing. From
// then on the file belongs to the phone whose record names it; its controller removes it, and Collect removes what no record names.
//
// The package keeps no state but the spool's directory and starts no goroutines. All methods may be called by many goroutines at once.
package data

import (
	"errors"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
)

// Reasons of refusals and failures; docs/api.md has them.
const (
	// BadArchive means that what was sent is no archive of a data volume, or has a format that this release does not read.
	BadArchive = "BAD_ARCHIVE"
	// Damaged means that an archive, or a file system, is damaged.
	Damaged = "DATA_DAMAGED"
	// TooLarge means that a volume is too small for what an archive holds.
	TooLarge = "DATA_TOO_LARGE"
	// NoData means that a phone has no data volume: it was not started since it was created.
	NoData = "NO_DATA"
	// CallerStalled means that whoever asked for an export has long taken nothing of it.
	CallerStalled = "CALLER_STALLED"
	// DigestMismatch means that other bytes came than were announced.
	DigestMismatch = "DIGEST_MISMATCH"
)

// Fault gives an error of package archive its reason. Errors that have one, and those of files, calls and contexts, stay as they are.
func Fault(err error) error {
	if err == nil || fault.Reason(err) != "" {
		return err
	}
	for _, kind := range []struct {
		class  error
		reason string
	}{
		{errdefs.ErrDataLoss, Damaged}, {errdefs.ErrOutOfRange, TooLarge}, {errdefs.ErrInvalidArgument, BadArchive}, {errdefs.ErrNotImplemented, BadArchive},
	} {
		if errors.Is(err, kind.class) {
			return fault.New(kind.class, kind.reason, "%s", fault.Readable(fault.Words(err)))
		}
	}
	return err
}
