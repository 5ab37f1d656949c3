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

	"github.com/phonehost/phonehost/scripts/vm/lab"
	"github.com/phonehost/phonehost/scripts/vm/machine"
)

// theLab gives every Run of this process. It is open until the process ends, and the assets it returned are not removed before.
var theLab labHost

// labHost makes machines of the lab's assets.
type labHost struct {
	once sync.Once
	lab  *lab.Lab
	err  error
}

// open opens the lab, once. What is built is told on the standard error, as it may take minutes.
func (h *labHost) open() (*lab.Lab, error) {
	h.once.Do(func() {
		h.lab, h.err = lab.Open(lab.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	})
	return h.lab, h.err
}

func (h *labHost) compiler(ctx context.Context, target Target, cgo bool) (env []string, name string, err error) {
	env = []string{"GOOS=linux", "GOARCH=" + target.Arch, "GOAMD64=v1", "GOARM64=v8.0", "CGO_ENABLED=0"}
	if !cgo {
		return env, "linux-" + target.Arch, nil
	}
	l, err := h.open()
	if err != nil {
		return nil, "", err
	}
	cc, err := l.CC(ctx, target.Arch)
	if err != nil {
		return nil, "", err
	}
	return append(env, cc...), "linux-" + target.Arch + "-c", nil
}

// config is the machine of a target, whose assets are built where they are missing.
func (h *labHost) config(ctx context.Context, target Target, s settings) (machine.Config, error) {
	l, err := h.open()
	if err != nil {
		return machine.Config{}, err
	}
	c := machine.Config{
		Variant: merge(target.Variants), Disk: s.disk, CPUs: s.cpus, MemoryMiB: s.memory, Cache: l.Cache(),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
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

// saved reports whether machines of these settings are resumed rather than booted.
func (s settings) saved() bool { return !s.fresh && s.disk == "" }

// prepare builds the assets, and the snapshot where one is used.
func (h *labHost) prepare(ctx context.Context, target Target, s settings) error {
	c, err := h.config(ctx, target, s)
	if err == nil && s.saved() {
		_, err = h.snapshot(ctx, target, c)
	}
	if err != nil {
		return fmt.Errorf("prepare machines of %s: %w", target, err)
	}
	return nil
}

// snapshot is a booted machine of the target: it is booted and saved if no process has done so yet.
func (h *labHost) snapshot(ctx context.Context, target Target, c machine.Config) (machine.Snapshot, error) {
	key, err := machine.Fingerprint(ctx, c)
	if err != nil {
		return machine.Snapshot{}, err
	}
	dir, err := c.Cache.Build(ctx, "snapshot-"+target.String(), key, func(ctx context.Context, dir string) error {
		m, err := machine.Start(ctx, c)
		if err != nil {
			return err
		}
		defer m.Close()
		_, err = m.Save(ctx, dir)
		return err
	})
	if err != nil {
		return machine.Snapshot{}, err
	}
	return machine.Load(dir)
}

// start boots or resumes a machine with a payload. It ends with t, and leaves its serial log if t has failed.
func (h *labHost) start(ctx context.Context, t *testing.T, target Target, s settings, payload string) (*machine.Machine, machine.Config, error) {
	c, err := h.config(ctx, target, s)
	if err != nil {
		return nil, c, err
	}
	c.Payload = payload
	if !s.saved() {
		m, err := machine.Start(ctx, c)
		return m, c, err
	}
	snapshot, err := h.snapshot(ctx, target, c)
	if err != nil {
		return nil, c, err
	}
	m, err := machine.Resume(ctx, c, snapshot)
	return m, c, err
}

func (h *labHost) boot(ctx context.Context, t *testing.T, target Target, s settings, payload string) (guest, error) {
	m, _, err := h.start(ctx, t, target, s, payload)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { finish(t, m, nil) })
	return m, nil
}

// drive starts a machine that the test drives.
func (h *labHost) drive(t *testing.T, target Target, s settings) *Machine {
	t.Helper()
	whole, cancel := untilEnd(t)
	t.Cleanup(cancel)
	p := process{provider: h, target: target, settings: s}
	payload, err := p.pack(whole, t)
	if err == nil {
		err = h.prepare(whole, target, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(whole, s.timeout)
	t.Cleanup(cancel)
	now, c, err := h.start(ctx, t, target, s, payload)
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{t: t, ctx: ctx, target: target, config: c, power: &power{now: now}}
	t.Cleanup(func() { finish(t, m.power.now, m.power.kept) })
	return m
}

// finish ends a machine, nil if its power is cut, and keeps the serial logs of a failed test.
func finish(t *testing.T, m *machine.Machine, kept []string) {
	t.Helper()
	if m != nil {
		kept = append(kept, m.SerialLog())
		if err := m.Close(); err != nil {
			t.Errorf("end the machine: %v", err)
		}
	}
	if t.Failed() {
		keepLog(t, logDir(t), strings.Join(kept, "\n"))
	}
}

// logDir is where the serial log of a failed test is kept.
func logDir(t *testing.T) string {
	if artifacts() {
		return t.ArtifactDir()
	}
	return filepath.Join(os.TempDir(), "phonehost-vm-failed", strings.ReplaceAll(t.Name(), "/", "-"))
}

// merge puts variants together into one way to boot.
func merge(variants []Variant) machine.Variant {
	var v machine.Variant
	var names []string
	for _, one := range variants {
		names = append(names, one.Name())
		switch one.kind {
		case noBPFLSM:
			v.LSM = []string{"landlock", "lockdown", "yama", "integrity", "apparmor"}
		case preemptFull:
			v.Cmdline = append(v.Cmdline, "preempt=full")
		case noPSI:
			v.Cmdline = append(v.Cmdline, "psi=0")
		case cgroupV1:
			v.CgroupV1 = true
		case noVicodec:
			v.Without = append(v.Without, "vicodec")
		case multiPlanar:
			v.Modules = map[string]string{"vicodec": "multiplanar=1"}
		}
	}
	v.Name = strings.Join(names, "-")
	return v
}
