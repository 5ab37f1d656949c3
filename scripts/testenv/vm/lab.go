package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv/internal/gobuild"
	"github.com/phonehost/phonehost/scripts/vm/lab"
	"github.com/phonehost/phonehost/scripts/vm/machine"
)

// theLab is where the machines of this test process come from. What it opens is given back when the process ends.
var theLab labProvider

type labProvider struct {
	open  sync.Once
	lab   *lab.Lab
	err   error
	log   *slog.Logger
	mu    sync.Mutex
	quick map[string]bool // architectures on which a boot needs no snapshot, since KVM works
}

// opened returns the lab. What it builds is told on standard error, as it may take minutes.
func (p *labProvider) opened() (*lab.Lab, error) {
	p.open.Do(func() {
		p.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
		p.quick = make(map[string]bool)
		repo, err := gobuild.Repository()
		if err == nil {
			p.lab, err = lab.Open(lab.Config{Repository: repo, Logger: p.log})
		}
		p.err = err
	})
	return p.lab, p.err
}

// compiler implements provider.
func (p *labProvider) compiler(ctx context.Context, target Target, cgo bool) ([]string, string, error) {
	if !cgo {
		return []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + target.Arch}, target.Arch, nil
	}
	l, err := p.opened()
	if err != nil {
		return nil, "", err
	}
	env, err := l.CC(ctx, target.Arch)
	return env, target.Arch + "-c", err
}

// assets returns what machines of target boot.
func (p *labProvider) assets(ctx context.Context, target Target, s settings) (machine.Config, error) {
	l, err := p.opened()
	if err != nil {
		return machine.Config{}, err
	}
	c := machine.Config{Variant: together(target.Variants), CPUs: s.cpus, MemoryMiB: s.memory, Disk: s.disk, Cache: l.Cache(), Logger: p.log}
	if c.Kernel, err = l.Kernel(ctx, target.Arch, target.Series); err != nil {
		return c, err
	}
	if c.Initrd, err = l.Initrd(ctx, c.Kernel); err != nil {
		return c, err
	}
	if target.System {
		c.Root, err = l.Root(ctx, target.Arch)
	}
	return c, err
}

// errQuick ends the making of a snapshot where none is of use.
var errQuick = errors.New("machines of this architecture boot with KVM")

// snapshot returns the saved machine of a configuration, which is booted and saved if it is not in the cache; nil where a machine
// is to be booted.
func (p *labProvider) snapshot(ctx context.Context, target Target, c machine.Config) (*machine.Snapshot, error) {
	p.mu.Lock()
	quick := p.quick[target.Arch]
	p.mu.Unlock()
	if c.Disk != "" || quick {
		return nil, nil
	}
	key, err := machine.Fingerprint(ctx, c)
	if err != nil {
		return nil, err
	}
	dir, err := c.Cache.Build(ctx, "snapshot-"+target.String(), key, func(ctx context.Context, dir string) error {
		return save(ctx, c, dir)
	})
	if errors.Is(err, errQuick) {
		p.mu.Lock()
		p.quick[target.Arch] = true
		p.mu.Unlock()
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := machine.Load(dir)
	return &s, err
}

// save boots a machine and saves it.
func save(ctx context.Context, c machine.Config, dir string) (err error) {
	c.Payload = ""
	m, err := machine.Start(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if m.Accelerator() != machine.TCG {
		return errQuick
	}
	_, err = m.Save(ctx, dir)
	return err
}

// prepare implements provider.
func (p *labProvider) prepare(ctx context.Context, target Target, s settings) error {
	c, err := p.assets(ctx, target, s)
	if err == nil && !s.fresh {
		_, err = p.snapshot(ctx, target, c)
	}
	if err != nil {
		return fmt.Errorf("prepare the machine %s: %w", target, err)
	}
	return nil
}

// boot implements provider.
func (p *labProvider) boot(ctx context.Context, t *testing.T, target Target, s settings, payload string) (guest, error) {
	c, err := p.assets(ctx, target, s)
	if err != nil {
		return nil, err
	}
	c.Payload = payload
	power, err := p.start(ctx, t, target, s, c)
	if err != nil {
		return nil, err
	}
	return power.now, nil
}

// start starts or resumes a machine, which ends with t.
func (p *labProvider) start(ctx context.Context, t *testing.T, target Target, s settings, c machine.Config) (*power, error) {
	var saved *machine.Snapshot
	if !s.fresh {
		var err error
		if saved, err = p.snapshot(ctx, target, c); err != nil {
			return nil, err
		}
	}
	// The machine ends before t.Output does.
	c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	var m *machine.Machine
	var err error
	if saved != nil {
		m, err = machine.Resume(ctx, c, *saved)
	} else {
		m, err = machine.Start(ctx, c)
	}
	if err != nil {
		return nil, fmt.Errorf("start the machine %s: %w", target, err)
	}
	power := &power{now: m}
	t.Cleanup(func() { power.end(t) })
	return power, nil
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
	c, err := p.assets(whole, target, s)
	if err != nil {
		t.Fatal(err)
	}
	c.Payload = payload
	power, err := p.start(whole, t, target, s, c)
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
