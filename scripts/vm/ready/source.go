// Package ready gives machines of the lab that are ready to be used, within a second or two: one of each kind is booted once and kept
// in the lab's cache, saved, and all others are resumed from it. It also builds this repository's programs for them.
//
// Tests (scripts/testenv/vm) and people (vm shell) get their machines here, and so share what is saved.
package ready

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/phonehost/phonehost/scripts/vm/lab"
	"github.com/phonehost/phonehost/scripts/vm/machine"
)

// Source is where machines come from. It may be used by several goroutines.
type Source struct {
	lab *lab.Lab
	log *slog.Logger

	mu    sync.Mutex
	quick map[string]bool // architectures on which a boot needs no snapshot, since KVM works
}

// New makes a Source of the machines of a lab, which stays the caller's. log takes what is built, booted and saved, which may take
// minutes; nil discards it.
func New(l *lab.Lab, log *slog.Logger) *Source {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Source{lab: l, log: log, quick: make(map[string]bool)}
}

// Config returns what a machine boots, built if the cache has it not. The caller may set what Spec does not tell: size, disk, payload,
// and a logger of its own. A series that the lab does not have is ErrNotFound.
func (s *Source) Config(ctx context.Context, spec Spec) (machine.Config, error) {
	c := machine.Config{Variant: together(spec.Variants), Cache: s.lab.Cache(), Logger: s.log}
	var err error
	if c.Kernel, err = s.lab.Kernel(ctx, spec.Arch, spec.Series); err != nil {
		return c, err
	}
	if c.Initrd, err = s.lab.Initrd(ctx, c.Kernel); err != nil {
		return c, err
	}
	if c.Kernel, err = s.lab.KernelWith(ctx, c.Kernel, spec.addition()); err != nil {
		return c, err
	}
	if spec.System {
		c.Root, err = s.lab.RootWith(ctx, spec.Arch, spec.addition())
	}
	return c, err
}

// errQuick ends the making of a snapshot where none is of use.
var errQuick = errors.New("machines of this architecture boot with KVM")

// Snapshot returns the saved machine of a configuration, which is booted and saved if it is not in the cache; nil where a machine is
// to be booted: with a disk of its own, or since KVM works.
func (s *Source) Snapshot(ctx context.Context, spec Spec, c machine.Config) (*machine.Snapshot, error) {
	s.mu.Lock()
	quick := s.quick[spec.Arch]
	s.mu.Unlock()
	if c.Disk != "" || quick {
		return nil, nil
	}
	key, err := machine.Fingerprint(ctx, c)
	if err != nil {
		return nil, err
	}
	dir, err := c.Cache.Build(ctx, "snapshot-"+spec.String(), key, func(ctx context.Context, dir string) error {
		return s.save(ctx, c, dir)
	})
	if errors.Is(err, errQuick) {
		s.mu.Lock()
		s.quick[spec.Arch] = true
		s.mu.Unlock()
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	saved, err := machine.Load(dir)
	return &saved, err
}

// save boots a machine and saves it.
func (s *Source) save(ctx context.Context, c machine.Config, dir string) (err error) {
	c.Payload, c.Logger = "", s.log
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

// Start starts a machine of the configuration that Config made for spec: it resumes the saved one, or boots if fresh asks for that or
// there is none. The caller closes the machine.
func (s *Source) Start(ctx context.Context, spec Spec, c machine.Config, fresh bool) (*machine.Machine, error) {
	var saved *machine.Snapshot
	var err error
	if !fresh {
		if saved, err = s.Snapshot(ctx, spec, c); err != nil {
			return nil, err
		}
	}
	var m *machine.Machine
	if saved != nil {
		m, err = machine.Resume(ctx, c, *saved)
	} else {
		m, err = machine.Start(ctx, c)
	}
	if err != nil {
		return nil, fmt.Errorf("start the machine %s: %w", spec, err)
	}
	return m, nil
}
