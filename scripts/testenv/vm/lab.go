package vm

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/phonehost/phonehost/scripts/gobuild"
	"github.com/phonehost/phonehost/scripts/vm/lab"
	"github.com/phonehost/phonehost/scripts/vm/machine"
	"github.com/phonehost/phonehost/scripts/vm/ready"
)

// theLab is where the machines of this test process come from. What it opens is given back when the process ends.
var theLab labProvider

type labProvider struct {
	open   sync.Once
	source *ready.Source
	err    error
}

// opened returns the lab's machines. What the lab builds is told on standard error, as it may take minutes.
func (p *labProvider) opened() (*ready.Source, error) {
	p.open.Do(func() {
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
		repo, err := gobuild.Repository()
		var l *lab.Lab
		if err == nil {
			l, err = lab.Open(lab.Config{Repository: repo, Logger: log})
		}
		p.source, p.err = ready.New(l, log), err
	})
	return p.source, p.err
}

// build implements provider.
func (p *labProvider) build(ctx context.Context, target Target, pkg string, test bool) (string, error) {
	source, err := p.opened()
	if err != nil {
		return "", err
	}
	return source.Build(ctx, target.spec(), pkg, test)
}

// assets returns where machines come from, and what those of target boot.
func (p *labProvider) assets(ctx context.Context, target Target, s settings) (*ready.Source, machine.Config, error) {
	source, err := p.opened()
	if err != nil {
		return nil, machine.Config{}, err
	}
	c, err := source.Config(ctx, target.spec())
	c.CPUs, c.MemoryMiB, c.Disk = s.cpus, s.memory, s.disk
	return source, c, err
}

// prepare implements provider.
func (p *labProvider) prepare(ctx context.Context, target Target, s settings) error {
	source, c, err := p.assets(ctx, target, s)
	if err == nil && !s.fresh {
		_, err = source.Snapshot(ctx, target.spec(), c)
	}
	if err != nil {
		return fmt.Errorf("prepare the machine %s: %w", target, err)
	}
	return nil
}

// boot implements provider.
func (p *labProvider) boot(ctx context.Context, t *testing.T, target Target, s settings, payload string) (guest, error) {
	_, power, err := p.start(ctx, t, target, s, payload)
	if err != nil {
		return nil, err
	}
	return power.now, nil
}

// start starts or resumes a machine, which ends with t.
func (p *labProvider) start(ctx context.Context, t *testing.T, target Target, s settings, payload string) (machine.Config, *power, error) {
	source, c, err := p.assets(ctx, target, s)
	if err != nil {
		return c, nil, err
	}
	// The machine ends before t.Output does.
	c.Payload, c.Logger = payload, slog.New(slog.NewTextHandler(t.Output(), nil))
	m, err := source.Start(ctx, target.spec(), c, s.fresh)
	if err != nil {
		return c, nil, err
	}
	power := &power{now: m}
	t.Cleanup(func() { power.end(t) })
	return c, power, nil
}

// end ends the machine of a test that is over.
func (p *power) end(t *testing.T) {
	t.Helper()
	logs := p.kept
	if p.now != nil {
		logs = append(logs, p.now.SerialLog())
	}
	if t.Failed() {
		keepLog(t, strings.Join(logs, "\n--- power cut ---\n"))
	}
	if p.now != nil {
		if err := p.now.Close(); err != nil {
			t.Error(err)
		}
	}
}

// drive starts a machine that a test drives.
func (p *labProvider) drive(t *testing.T, target Target, s settings) *Machine {
	t.Helper()
	whole, cancel := untilEnd(t)
	t.Cleanup(cancel)
	packer := process{provider: p, target: target, settings: s}
	payload, err := packer.pack(whole, t)
	if err == nil {
		err = p.prepare(whole, target, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, power, err := p.start(whole, t, target, s, payload)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(whole, s.timeout)
	t.Cleanup(cancel)
	return &Machine{t: t, ctx: ctx, target: target, config: c, power: power}
}

// serialTail is how much of a serial log is shown.
const serialTail = 4 << 10

// tail returns the end of a text, from the beginning of a line on.
func tail(text string) string {
	if len(text) <= serialTail {
		return text
	}
	text = text[len(text)-serialTail:]
	if _, rest, ok := strings.Cut(text, "\n"); ok {
		return rest
	}
	return text
}

// keepLog writes the serial log of a failed test's machine to where it stays, and shows its end: among the artifacts of the test, or
// where these are not kept in a directory of the user's, from which the next failure of this test removes it.
func keepLog(t *testing.T, log string) {
	t.Helper()
	dir, err := "", error(nil)
	if artifacts() {
		dir = t.ArtifactDir()
	} else if dir, err = gobuild.Dir(); err == nil {
		dir = filepath.Join(dir, "failed", filepath.FromSlash(t.Name()))
		err = os.MkdirAll(dir, 0o755)
	}
	path := filepath.Join(dir, "serial.log")
	if err == nil {
		err = os.WriteFile(path, []byte(log), 0o644)
	}
	if err != nil {
		t.Errorf("keep the machine's serial log: %v", err)
	}
	t.Logf("the machine's serial log is kept in %s; its end:\n%s", path, tail(log))
}
