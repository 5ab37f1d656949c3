package vm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/vm/internal/replay"
	"github.com/phonehost/phonehost/scripts/vm/control"
)

// Places in the machine. The payload is unpacked at payloadDir.
const (
	payloadDir  = "/run/payload"
	testBinary  = "package.test"
	programDir  = "bin"
	sourceDir   = "src"
	artifactDir = "artifacts"
)

// provider is where machines come from: the lab, or in tests of this package a directory of this machine.
type provider interface {
	// build builds a main package for machines of target, or with test the test binary of a package, and returns its path.
	build(ctx context.Context, target Target, pkg string, test bool) (string, error)
	// prepare builds what machines of target are made of, which may take minutes the first time.
	prepare(ctx context.Context, target Target, s settings) error
	// boot starts a machine for t, which ends with t.
	boot(ctx context.Context, t *testing.T, target Target, s settings, payload string) (guest, error)
}

// guest is a machine that runs.
type guest interface {
	Exec(ctx context.Context, c control.Command) (exit int, err error)
}

// process is a test process in a machine, of one target.
type process struct {
	provider provider
	target   Target
	settings settings
	pkg      string // directory of its package
	root     string // the test that this side's sub-test stands for; "" is the whole process
	suite    *Suite // of a process that Packages runs: what does not run there; else nil
}

// run builds, boots, runs and replays.
func (p *process) run(t *testing.T) {
	t.Helper()
	whole, cancel := untilEnd(t)
	defer cancel()
	started := time.Now()
	payload, err := p.pack(whole, t)
	if err == nil {
		err = p.provider.prepare(whole, p.target, p.settings)
	}
	if err != nil {
		t.Fatal(err)
	}
	g, ctx, cancel := p.boot(whole, t, payload, started)
	defer cancel()
	p.exec(ctx, t, g)
}

// boot starts the machine and returns it with the context of what it is given to do. started is when the building began.
func (p *process) boot(ctx context.Context, t *testing.T, payload string, started time.Time) (guest, context.Context, context.CancelFunc) {
	t.Helper()
	built := time.Now()
	g, err := p.provider.boot(ctx, t, p.target, p.settings, payload)
	if err != nil {
		t.Fatal(err)
	}
	if testing.Verbose() {
		fmt.Fprintf(t.Output(), "%s: built in %.1f s, machine there after %.1f s\n", p.target, built.Sub(started).Seconds(), time.Since(built).Seconds())
	}
	ctx, cancel := context.WithTimeout(ctx, p.settings.timeout)
	return g, ctx, cancel
}

// exec runs the test process and replays what it prints.
func (p *process) exec(ctx context.Context, t *testing.T, g guest) {
	t.Helper()
	args, all, err := p.args(ctx, t.Name())
	if err != nil {
		t.Fatal(err)
	}
	var skipped []string
	config := replay.Config{T: t, Root: p.root, Skipped: func(name string) { skipped = append(skipped, name) }}
	if artifacts() {
		config.Artifacts = func(t *testing.T, path string) { fetchArtifacts(ctx, t, g, path) }
	}
	r := replay.New(config)
	code, err := g.Exec(ctx, control.Command{
		Args:   append([]string{path.Join(payloadDir, testBinary)}, args...),
		Env:    p.env(),
		Dir:    path.Join(payloadDir, sourceDir, p.pkg),
		Stdout: r,
		Stderr: r,
	})
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(err, context.DeadlineExceeded) || errors.Is(cause, context.DeadlineExceeded) {
			err = fmt.Errorf("%s did not end its tests in time: %w", p.target, err)
		} else {
			err = fmt.Errorf("%s was lost while it ran tests: %w", p.target, err)
		}
	}
	r.Finish(replay.Exit{Code: code, Err: err})
	if p.suite != nil && err == nil {
		p.suite.checkSkipped(t, skipped, all)
	}
}

// env is the environment of the test process.
func (p *process) env() []string {
	return append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"TMPDIR=/tmp",
		guestEnv + "=" + p.target.String(),
		testenv.BinariesEnv + "=" + path.Join(payloadDir, programDir),
		"PHONEHOST_TEST_REQUIRE=" + p.settings.require,
	}, p.settings.env...)
}

// args are the flags of the test process; all says that the command line selects nothing among its tests. The process gives up before
// this side does, so that it still tells where it hangs.
func (p *process) args(ctx context.Context, name string) (args []string, all bool, err error) {
	args = []string{"-test.v=test2json", "-test.paniconexit0", "-test.count=1"}
	selected, err := selection(name, p.root, flagValue("test.run"), flagValue("test.skip"))
	if err != nil {
		return nil, false, err
	}
	if p.root == "" {
		all = selected[0] == runFlag && selected[1] == skipFlag
		selected = p.narrow(selected)
	}
	args = append(args, selected...)
	short := p.suite != nil && p.suite.Short != ""
	for _, name := range []string{"test.short", "test.failfast", "test.fullpath"} {
		if flagValue(name) == "true" || name == "test.short" && short {
			args = append(args, "-"+name)
		}
	}
	if artifacts() {
		args = append(args, "-test.artifacts", "-test.outputdir="+path.Join(payloadDir, artifactDir))
	}
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		args = append(args, fmt.Sprintf("-test.timeout=%s", (left-min(left/4, 15*time.Second)).Round(time.Millisecond)))
	}
	return args, all, nil
}

// The flags of a whole process, without patterns.
const runFlag, skipFlag = "-test.run=", "-test.skip="

// narrow adds to the selection of a whole process: Only, where the command line did not select already, and all that leaves tests out.
func (p *process) narrow(selected []string) []string {
	run := selected[0]
	if run == runFlag {
		run += p.settings.only
	}
	patterns := []string{strings.TrimPrefix(selected[1], skipFlag), p.settings.except, ownMachines}
	if p.suite != nil {
		patterns = append(patterns, exactly(p.suite.Without)...)
	}
	patterns = slices.DeleteFunc(patterns, func(s string) bool { return s == "" })
	return []string{run, skipFlag + strings.Join(patterns, "|")}
}

// flagValue is the value of a flag of this test process, "" if there is no such flag.
func flagValue(name string) string {
	if f := flag.Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// artifacts reports whether the artifacts of tests are to be kept.
func artifacts() bool { return flagValue("test.artifacts") == "true" }
