// Package app installs, lists, starts, stops and removes apps in running phones, through the guests' own package manager and activity
// manager: `pm` and `am`, which every Android has.
//
// What is to be installed is received, read and checked before any guest hears of it (Spool): a call that does not become an operation
// leaves nothing. From then on the files belong to the operation, whose payload names their directory; they are removed when its last
// part has ended, and Collect removes what no operation names. Into a guest they go through the standard input of `pm`, so that nothing
// of them stays there but what it installs.
//
// The package keeps no state but the spool's directory and starts no goroutines. All methods may be called by many goroutines at once.
package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/runtime/container"
)

// Reasons of failures; docs/api.md has them.
const (
	// Refused means that the guest's package manager or activity manager refused; the text begins with its own code.
	Refused = "APP_REFUSED"
	// BadAPK means that the files are no APKs, or do not belong together.
	BadAPK = "BAD_APK"
	// DigestMismatch means that other bytes came than were announced.
	DigestMismatch = "DIGEST_MISMATCH"
)

// Guests runs processes in guests (container.Engine).
type Guests interface {
	Exec(ctx context.Context, id string, opts container.ExecOptions) (exitCode uint32, err error)
	EndExec(ctx context.Context, id, execID string) error
}

// Manager manages apps.
type Manager struct {
	// Guests and Phones are the world.
	Guests Guests
	Phones job.Phones
	// Spool keeps what is being installed.
	Spool *Spool
}

// packagePattern is Android's rule for the names of packages (PackageParser.validateName): at least two parts, each of which begins
// with a letter.
var packagePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+$`)

// maxPackage is the most characters of a package's name that installs.
const maxPackage = 223

// CheckPackage refuses what cannot be the name of a package.
func CheckPackage(name string) error {
	if len(name) > maxPackage || !packagePattern.MatchString(name) {
		return fault.Field("package", "%q must be a package such as com.example.app, of at most %d characters", fault.Clip(name), maxPackage)
	}
	return nil
}

// maxAnswer bounds what is read of a manager's answer; the longest is a list of all apps.
const maxAnswer = 4 << 20

// answer keeps what a manager says, up to maxAnswer.
type answer struct{ bytes.Buffer }

// Write implements io.Writer.
func (a *answer) Write(p []byte) (int, error) {
	a.Buffer.Write(p[:min(len(p), maxAnswer-a.Len())])
	return len(p), nil
}

// place is where a manager is run: a phone, and the name that the process has in containerd, by which another agent finds what this
// one's death has left of it. A place without a name is for what may be left to itself.
type place struct{ phone, name string }

// at is the place of a job's part. Its processes run one after another under one name.
func at(w job.Work) place { return place{w.PhoneID, w.OperationID} }

// clear ends what an agent that died has left of a part that is done again: its process waits for input that no longer comes.
func (m *Manager) clear(ctx context.Context, w job.Work) error {
	err := m.Guests.EndExec(ctx, w.PhoneID, w.OperationID)
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}

// manager is one of the guest's managers, which its profile knows.
type manager int

const (
	packages   manager = iota // pm
	activities                // am
)

// argsOf are what runs one of a phone's managers.
func argsOf(snap phone.Snapshot, which manager, args []string) ([]string, error) {
	kind, err := snap.Profile()
	if err != nil {
		return nil, err
	}
	program := kind.PackageManager
	if which == activities {
		program = kind.ActivityManager
	}
	return append(slices.Clone(program), args...), nil
}

// run runs one of the guest's managers and returns what it says. An error is of the phone, of containerd, or of ctx; whether the
// manager did what it was asked for is in the text.
func (m *Manager) run(ctx context.Context, where place, stdin io.Reader, which manager, args ...string) (string, uint32, error) {
	id := where.phone
	before, err := job.Running(m.Phones, id)
	if err != nil {
		return "", 0, err
	}
	if args, err = argsOf(before, which, args); err != nil {
		return "", 0, err
	}
	var out answer
	code, err := m.Guests.Exec(ctx, id, container.ExecOptions{ID: where.name, Args: args, Stdin: stdin, Stdout: &out, Stderr: &out})
	if ctx.Err() != nil {
		return "", 0, context.Cause(ctx)
	}
	if (err != nil || code > 128) && job.EndedWith(ctx, m.Phones, before) {
		return "", 0, errors.Join(job.Ended(id), err)
	}
	if err != nil {
		return "", 0, fmt.Errorf("run %s in %s: %w", args[0], id, err)
	}
	return strings.TrimSpace(out.String()), code, nil
}

// refused is the fault for a manager that did not do what it was asked for. Its text begins with the manager's code where it names one:
// "Failure [CODE: words]".
func refused(id, what, said string, code uint32) error {
	if _, rest, ok := strings.Cut(said, "Failure ["); ok {
		said = strings.TrimSuffix(strings.TrimSpace(rest), "]")
	}
	if said == "" {
		said = fmt.Sprintf("exit code %d and no word", code)
	}
	return fault.New(errdefs.ErrAborted, Refused, "%s (%s in %s)", fault.Readable(said), what, id)
}
