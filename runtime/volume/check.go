package volume

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Outcome is what a check found.
type Outcome int

// The outcomes of a check.
const (
	// Clean: nothing was amiss.
	Clean Outcome = iota
	// Replayed: the file system was not unmounted, as after a power cut of the host. Its journal was replayed, and all is in order.
	Replayed
	// Mended: the kernel or the check found errors, and the whole file system was gone through; it is in order now. Files may
	// have been lost.
	Mended
	// BeyondRepair: the file system could not be brought in order.
	BeyondRepair
)

// String returns "clean", "replayed", "mended" or "beyond repair".
func (o Outcome) String() string {
	return [...]string{"clean", "replayed", "mended", "beyond repair"}[o]
}

// Report is the result of a check.
type Report struct {
	Outcome Outcome
	// Reason says why the file system was looked into; empty when it was not.
	Reason string
	// Summary is what e2fsck said that is worth reading, 8 KiB at most; empty when it was not run.
	Summary string
}

// Check brings the file system of the volume at path in order after an unclean end. One whose superblock says that all is well costs one
// read. Otherwise e2fsck -p replays the journal, and goes through everything if errors were recorded; it makes only repairs that lose
// nothing. If it says that a person must decide, e2fsck -f -y decides: in a copy of the image, which takes its place when it is in order
// and on the disk. So an image that is beyond repair is left for a person or a better tool to look at, as e2fsck -p left it.
//
// Nothing is ever changed while a loop device has the volume. The time is bounded by ctx; a check that is cut short, by that or by a
// crash, is done again by the next.
//
// Errors: ErrInUse if a loop device has the volume; errdefs.ErrDataLoss with the outcome BeyondRepair.
func Check(ctx context.Context, path string) (Report, error) {
	reason, err := suspicion(path)
	if err != nil || reason == "" {
		return Report{}, err
	}
	image, err := lockFree(ctx, path, unix.LOCK_EX, 0)
	if err != nil {
		return Report{}, fmt.Errorf("check: %w", err)
	}
	defer image.Close()
	return check(ctx, image, reason)
}

// suspicion says why a volume wants a check, or returns "".
func suspicion(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("volume: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("volume: %w", err)
	}
	s, err := readSuperblock(f)
	if err != nil {
		return "", fmt.Errorf("volume %s: %w", path, err)
	}
	return s.suspect(uint64(info.Size()), time.Now()), nil
}

// Exit codes of e2fsck(8): up to 3 the file system is in order.
const (
	codeCorrected   = 1
	codeInOrder     = 3
	codeUncorrected = 4
)

// check checks a locked image.
func check(ctx context.Context, image *os.File, reason string) (Report, error) {
	code, output, err := run(ctx, image, "e2fsck", "-p", image.Name())
	report := Report{Reason: reason, Summary: summary(output)}
	switch {
	case err != nil:
	case code <= codeInOrder:
		report.Outcome = outcome(code, output)
		err = image.Sync()
	case code&codeUncorrected != 0 || !workable(image):
		return mend(ctx, image, report)
	default: // the program or its host, not the file system
		err = fmt.Errorf("e2fsck exited with %d: %s", code, report.Summary)
	}
	if err != nil {
		err = fmt.Errorf("check volume %s: %w", image.Name(), err)
	}
	return report, err
}

// outcome reads from what e2fsck -p did what there was to be done.
func outcome(code int, output string) Outcome {
	switch {
	case code&codeCorrected != 0, strings.Contains(output, "with errors, check forced"):
		return Mended
	case strings.Contains(output, "recovering journal"):
		return Replayed
	default:
		return Clean
	}
}

// mend has a copy of a locked image mended, and puts it in the image's place.
func mend(ctx context.Context, image *os.File, report Report) (Report, error) {
	report.Outcome = Mended
	code := 0
	err := replace(ctx, image.Name(), func(mended *os.File) error {
		if _, err := copyImage(ctx, image, mended); err != nil {
			return fmt.Errorf("copy it: %w", err)
		}
		var output string
		var err error
		code, output, err = run(ctx, mended, "e2fsck", "-f", "-y", mended.Name())
		report.Summary = summary(report.Summary + "\n" + output)
		if err == nil && code > codeInOrder {
			err = fmt.Errorf("e2fsck exited with %d: %s", code, report.Summary)
		}
		return err
	})
	if err == nil {
		return report, nil
	}
	// Other codes are of the program and its host (a full disk, no memory), unless there is nothing that it could work on.
	if code&codeUncorrected != 0 || code > codeInOrder && !workable(image) {
		report.Outcome = BeyondRepair
		err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	return report, fmt.Errorf("mend volume %s: %w", image.Name(), err)
}

// workable reports whether an image has a superblock that fits it.
func workable(image *os.File) bool {
	info, err := image.Stat()
	if err != nil {
		return true // not the image's fault
	}
	s, err := readSuperblock(image)
	return err != nil || s.valid && s.bytes() <= uint64(info.Size())
}

// summary leaves out of e2fsck's output what is about the program and not about the file system.
func summary(output string) string {
	var kept []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		switch {
		case line == "", strings.HasPrefix(line, "e2fsck 1."), strings.HasPrefix(line, "Pass "):
		default:
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}
