package vm

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/gobuild"
	"github.com/phonehost/phonehost/scripts/testenv/vm/internal/pattern"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/payload"
)

// Suite is the tests of one package, for Packages.
type Suite struct {
	// Package is a directory of the repository, "runtime/cgroup".
	Package string
	// Skipped are the tests that skip themselves in the machine. One that does not, and one that does and is not named, is a failure.
	Skipped []LeftOut
	// Without are the tests that are not run, as they would fail.
	Without []LeftOut
	// Short is the reason why the package's tests run with -test.short; "" runs them whole.
	Short string
	// Options are those of this package's test process: Files, Env, Require, Timeout, Only. What else the machine needs is named to Packages.
	Options []Option
}

// LeftOut says why tests do not run in a machine.
type LeftOut struct {
	// Why is the reason, for people.
	Why string
	// Tests are their full names, "TestX" or "TestX/sub-test".
	Tests []string
}

// ownMachines is a pattern for the tests that start machines: none does so inside of one.
const ownMachines = "^TestVM"

// Packages runs the tests of several packages, one after another, on one machine per target. They become sub-tests of a sub-test with the
// package's name, below that with the target's: TestVMX/6.12-arm64-system/runtime/cgroup/TestTree. opts are for the machine and for
// every package; Timeout is for all of them together. Packages share the machine: what one leaves behind, the next one finds.
func Packages(t *testing.T, targets Targets, suites []Suite, opts ...Option) {
	t.Helper()
	if _, ok := Guest(); ok {
		t.Skip("machines are not started inside of machines")
	}
	packagesOn(t, &theLab, targets, suites, opts)
}

func packagesOn(t *testing.T, from provider, targets Targets, suites []Suite, opts []Option) {
	t.Helper()
	each(t, targets, func(t *testing.T, target Target) {
		b := batch{machine: process{provider: from, target: target, settings: settle(opts)}}
		for _, s := range chosen(t.Name(), suites, flagValue("test.run"), flagValue("test.skip")) {
			all := slices.Concat(opts, []Option{Timeout(defaultTimeout)}, s.Options)
			b.parts = append(b.parts, &part{process: process{provider: from, target: target, settings: settle(all), pkg: path.Clean(s.Package), suite: &s}})
		}
		b.run(t)
	})
}

// chosen are the suites that -test.run and -test.skip let run below the test called name, whole or in part. What a pattern says below a
// package's name may be one of its tests or a package below it: it is the latter where there is such a one.
func chosen(name string, suites []Suite, run, skip string) []Suite {
	type choice struct {
		Suite
		whole bool
	}
	var some []choice
	for _, s := range suites {
		full := path.Join(name, s.Package)
		rest, all, err := pattern.Below(run, full)
		if err != nil || !all && rest == nil {
			continue
		}
		if _, none, err := pattern.Below(skip, full); err != nil || skip != "" && none {
			continue
		}
		some = append(some, choice{s, all})
	}
	var meant []Suite
	for _, c := range some {
		below := slices.ContainsFunc(some, func(o choice) bool { return strings.HasPrefix(o.Package, c.Package+"/") })
		if c.whole || !below {
			meant = append(meant, c.Suite)
		}
	}
	return meant
}

// batch is one machine and the test processes that run on it.
type batch struct {
	machine process // of no package
	parts   []*part
}

// part is the test process of one package.
type part struct {
	process
	payload string // a tar file that is unpacked over the machine's payload
}

// run builds everything, so that no machine waits for a compiler, and runs the packages.
func (b *batch) run(t *testing.T) {
	t.Helper()
	whole, cancel := untilEnd(t)
	defer cancel()
	started := time.Now()
	common, err := b.machine.pack(whole, t)
	for _, p := range b.parts {
		if err == nil {
			p.payload, err = p.packTests(whole, t)
		}
	}
	if err == nil {
		err = b.machine.provider.prepare(whole, b.machine.target, b.machine.settings)
	}
	if err != nil {
		t.Fatal(err)
	}
	g, ctx, cancel := b.machine.boot(whole, t, common, started)
	defer cancel()
	for _, p := range b.parts {
		t.Run(p.pkg, func(t *testing.T) { p.runOn(ctx, t, g) })
		if _, err := g.Exec(ctx, control.Command{Args: []string{"true"}}); err != nil {
			t.Fatalf("after %s the machine does nothing more: %v", p.pkg, err)
		}
	}
}

// packTests builds what the package needs beside the machine's payload, and returns the path of the tar file.
func (p *part) packTests(ctx context.Context, t *testing.T) (string, error) {
	binary, err := p.compile(ctx, p.pkg, true)
	if err != nil {
		return "", err
	}
	repo, err := gobuild.Repository()
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp(t.TempDir(), "package-*.tar")
	if err != nil {
		return "", fmt.Errorf("pack %s: %w", p.pkg, err)
	}
	file.Close()
	w, err := payload.Create(file.Name())
	if err != nil {
		return "", err
	}
	if err = p.addTests(w, repo, binary); err == nil {
		err = addFiles(w, repo, p.settings.files)
	}
	if closed := w.Close(); err == nil {
		err = closed
	}
	return file.Name(), err
}

// runOn runs the package's tests on a machine that runs already.
func (p *part) runOn(ctx context.Context, t *testing.T, g guest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, p.settings.timeout)
	defer cancel()
	if err := unpackOn(ctx, g, p.payload); err != nil {
		t.Fatalf("bring the tests of %s into the machine: %v", p.pkg, err)
	}
	p.exec(ctx, t, g)
}

// unpackOn unpacks a tar file of this side over the payload of a machine.
func unpackOn(ctx context.Context, g guest, name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	var said strings.Builder
	code, err := g.Exec(ctx, control.Command{Args: []string{"tar", "-x", "-C", payloadDir}, Stdin: file, Stdout: &said, Stderr: &said})
	if err == nil && code != 0 {
		err = fmt.Errorf("tar exited with code %d: %s", code, said.String())
	}
	return err
}

// exactly returns patterns that match the tests that are left out, and no others.
func exactly(left []LeftOut) []string {
	var all []string
	for _, l := range left {
		for _, name := range l.Tests {
			all = append(all, pattern.Exactly(name, nil))
		}
	}
	return all
}

// checkSkipped compares the tests that skipped themselves with those that were expected to; all says that every test ran.
func (s Suite) checkSkipped(t *testing.T, skipped []string, all bool) {
	t.Helper()
	expected := make(map[string]bool)
	for _, l := range s.Skipped {
		for _, name := range l.Tests {
			expected[name] = true
			if all && !slices.Contains(skipped, name) {
				t.Errorf("%s did not skip itself, as was expected of it (%s): it is gone, or it runs there now", name, l.Why)
			}
		}
	}
	for _, name := range skipped {
		if !expected[name] {
			t.Errorf("%s skipped itself, which was not expected of it: name it with the reason, or give it what it misses", name)
		}
	}
}
