package vm

import (
	"context"
	"fmt"
	"path"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/gobuild"
	"github.com/phonehost/phonehost/scripts/testenv/vm/internal/pattern"
)

// Run runs body inside a machine of each target, as the sub-test with the target's name.
//
// The test function that calls it is called in the machine too, up to Run and from there on. t.Name() of body is the same on both
// sides, and so is what -test.run, -test.skip and -test.short select. body finds the working directory of its package with
// testdata, and what the options put there. Run returns when all targets are through.
func Run(t *testing.T, targets Targets, body func(t *testing.T), opts ...Option) {
	t.Helper()
	if name, ok := Guest(); ok {
		inside(t, targets, name, body)
		return
	}
	runOn(t, &theLab, targets, opts)
}

// inside is Run in the machine.
func inside(t *testing.T, targets Targets, name string, body func(t *testing.T)) {
	t.Helper()
	for _, target := range targets {
		if target.String() == name {
			t.Run(name, body)
		}
	}
}

// runOn is Run on the host.
func runOn(t *testing.T, from provider, targets Targets, opts []Option) {
	t.Helper()
	pkg, err := callingPackage()
	if err != nil {
		t.Fatal(err)
	}
	each(t, targets, func(t *testing.T, target Target) {
		p := process{provider: from, target: target, settings: settle(opts), pkg: pkg, root: t.Name()}
		p.run(t)
	})
}

// Package runs the tests of a package of this repository ("runtime/cgroup") inside a machine of each target; they become sub-tests
// of the sub-test with the target's name.
func Package(t *testing.T, targets Targets, pkg string, opts ...Option) {
	t.Helper()
	if _, ok := Guest(); ok {
		t.Skip("machines are not started inside of machines")
	}
	packageOn(t, &theLab, targets, pkg, opts)
}

func packageOn(t *testing.T, from provider, targets Targets, pkg string, opts []Option) {
	t.Helper()
	each(t, targets, func(t *testing.T, target Target) {
		p := process{provider: from, target: target, settings: settle(opts), pkg: path.Clean(pkg)}
		p.run(t)
	})
}

// atOnce is how many targets of one Run are worked on at once; more machines than that do not run on a host.
const atOnce = 2

// each calls fn in a sub-test per target, side by side, and returns when all have ended.
func each(t *testing.T, targets Targets, fn func(t *testing.T, target Target)) {
	t.Helper()
	if err := targets.check(); err != nil {
		t.Fatal(err)
	}
	nightly := gate(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, atOnce)
	for _, target := range targets {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			t.Run(target.String(), func(t *testing.T) {
				gateTarget(t, target, nightly)
				needs(t, target)
				fn(t, target)
			})
		})
	}
}

// callingPackage is the directory, in the repository, of the package whose test binary this process is.
func callingPackage() (string, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", fmt.Errorf("find the package of this test: the binary has no build information")
	}
	pkg, test := strings.CutSuffix(info.Path, ".test")
	pkg, ours := strings.CutPrefix(pkg, gobuild.Module+"/")
	if !test || !ours {
		return "", fmt.Errorf("find the package of this test: %q is no test binary of %s", info.Path, gobuild.Module)
	}
	return pkg, nil
}

// untilEnd returns the context of one target: it ends early enough before the test process's own end that the failure can be told.
func untilEnd(t *testing.T) (context.Context, context.CancelFunc) {
	deadline, ok := t.Deadline()
	if !ok {
		return context.WithCancel(t.Context())
	}
	return context.WithDeadline(t.Context(), deadline.Add(-min(10*time.Second, time.Until(deadline)/10)))
}

// selection returns the flags by which the process in the machine runs the tests that were asked for here: of the test called name
// those below it, or, where all of a process is replayed below it, the whole process.
func selection(name, root, run, skip string) ([]string, error) {
	rest, all, err := pattern.Below(run, name)
	if err != nil {
		return nil, err
	}
	if all {
		rest = nil
	}
	left, _, err := pattern.Below(skip, name)
	if err != nil || skip == "" {
		left = nil
	}
	if root != "" {
		args := []string{"-test.run=" + pattern.Exactly(root, rest)}
		if len(left) > 0 {
			args = append(args, "-test.skip="+pattern.Exactly(root, left))
		}
		return args, err
	}
	return []string{runFlag + strings.Join(rest, "|"), skipFlag + strings.Join(left, "|")}, err
}
