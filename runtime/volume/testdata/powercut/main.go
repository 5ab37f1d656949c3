// Command powercut works on volumes without end, and checks afterwards that every volume is complete:
//
//	powercut work DIR     makes, grows, clones and removes volumes, and prints a line when each of these is done
//	powercut check DIR    reads these lines, and looks at what there is after the power was cut
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/phonehost/phonehost/runtime/volume"
)

// The sizes of volumes, before and after they grow.
const (
	small = 32 << 20
	large = 160 << 20
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: powercut work|check DIR")
		os.Exit(2)
	}
	do := map[string]func(context.Context, string) error{"work": work, "check": check}[os.Args[1]]
	if err := do(context.Background(), os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// text is what is in the file of a round, 3 MiB.
func text(round string) []byte {
	sum := sha256.Sum256([]byte(round))
	return bytes.Repeat(sum[:], 3<<20/len(sum))
}

func work(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for n := 1; ; n++ {
		round, before := fmt.Sprint(n), fmt.Sprint(n-1)
		made, clone := filepath.Join(dir, "made-"+round), filepath.Join(dir, "clone-"+round)
		for _, step := range []struct {
			name string
			do   func() error
		}{
			{"made-" + round, func() error {
				return volume.CreateWith(ctx, made, small, func(_ context.Context, root *os.Root) error {
					return root.WriteFile(round, text(round), 0o600)
				})
			}},
			{"grown-" + round, func() error { return volume.Grow(ctx, made, large) }},
			{"clone-" + round, func() error { _, err := volume.Clone(ctx, made, clone); return err }},
			{"removed-" + before, func() error {
				return errors.Join(volume.Remove(ctx, filepath.Join(dir, "made-"+before)), volume.Remove(ctx, filepath.Join(dir, "clone-"+before)))
			}},
		} {
			if err := step.do(); err != nil {
				return fmt.Errorf("%s: %w", step.name, err)
			}
			fmt.Println(step.name)
		}
	}
}

func check(ctx context.Context, dir string) error {
	done := make(map[string]bool)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		done[lines.Text()] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	there := make(map[string]bool)
	var errs []error
	for _, entry := range entries {
		if name := entry.Name(); !strings.HasSuffix(name, ".new") {
			there[name] = true
			errs = append(errs, whole(ctx, dir, name, done))
		}
	}
	for name := range done {
		kind, round, _ := strings.Cut(name, "-")
		switch {
		case kind == "removed" && (there["made-"+round] || there["clone-"+round]):
			errs = append(errs, fmt.Errorf("round %s was removed, and is there", round))
		case kind != "removed" && kind != "grown" && !there[name] && !there["made-"+next(round)]:
			errs = append(errs, fmt.Errorf("%s was made, and is not there", name))
		}
	}
	fmt.Printf("%d volumes, %d steps\n", len(there), len(done))
	return errors.Join(errs...)
}

func next(round string) string {
	var n int
	fmt.Sscan(round, &n)
	return fmt.Sprint(n + 1)
}

// whole checks a volume that is there.
func whole(ctx context.Context, dir, name string, done map[string]bool) error {
	path := filepath.Join(dir, name)
	kind, round, _ := strings.Cut(name, "-")
	report, err := volume.Check(ctx, path)
	if err != nil {
		return err
	}
	if report.Outcome == volume.Mended {
		return fmt.Errorf("%s had to be mended: %s: %s", name, report.Reason, report.Summary)
	}
	m, err := volume.Open(ctx, path, true)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	got, err := fs.ReadFile(m.Root().FS(), round)
	if err := errors.Join(err, m.Close()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !bytes.Equal(got, text(round)) {
		return fmt.Errorf("%s does not hold what it was made with", name)
	}
	size, err := volume.FileSystemBytes(path)
	if err != nil {
		return err
	}
	if size < large && (kind == "clone" || done["grown-"+round]) || size < small {
		return fmt.Errorf("%s has a file system of %d bytes", name, size)
	}
	// What was cut off is done by the next call.
	if err := volume.Grow(ctx, path, large); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if report, err := volume.Check(ctx, path); err != nil || report.Outcome != volume.Clean {
		return fmt.Errorf("%s after it has grown: %v, %w", name, report, err)
	}
	return nil
}
