package vm

import (
	"fmt"
	"slices"

	"github.com/phonehost/phonehost/scripts/vm/ready"
)

// Target says what a test runs on: one kernel on one architecture, as one kind of machine, in no, one or several variants.
type Target struct {
	// Series is a kernel series of the lab: "6.1", "6.12" or "7.3".
	Series string
	// Arch is "amd64" or "arm64".
	Arch string
	// System asks for Debian with systemd and containerd; false is the small machine in which the control program is init.
	System bool
	// Variants are in force together.
	Variants []Variant
	// Nightly targets run only under `make test-vm-all`.
	Nightly bool
}

// spec is the target's machine.
func (t Target) spec() ready.Spec {
	return ready.Spec{Series: t.Series, Arch: t.Arch, System: t.System, Variants: t.Variants}
}

// String returns the name of the target, which is the name of its sub-test: "6.12-arm64", "6.12-amd64-system-nopsi".
func (t Target) String() string { return t.spec().String() }

// Targets is a list of targets. Its methods return a new list and never change their receiver.
type Targets []Target

// On returns the targets of each series on both architectures, as kernel machines.
func On(series ...string) Targets {
	var all Targets
	for _, s := range series {
		for _, arch := range ready.Architectures() {
			all = append(all, Target{Series: s, Arch: arch})
		}
	}
	return all
}

// Arch keeps the targets of these architectures.
func (ts Targets) Arch(arch ...string) Targets {
	var kept Targets
	for _, t := range ts {
		if slices.Contains(arch, t.Arch) {
			kept = append(kept, t)
		}
	}
	return kept
}

// System makes every target a system machine.
func (ts Targets) System() Targets {
	return ts.change(func(t *Target) { t.System = true })
}

// With puts all of these variants into force, together, on every target. For one machine per variant, join lists with And.
func (ts Targets) With(variants ...Variant) Targets {
	return ts.change(func(t *Target) { t.Variants = append(slices.Clone(t.Variants), variants...) })
}

// Nightly keeps every target for `make test-vm-all`.
func (ts Targets) Nightly() Targets {
	return ts.change(func(t *Target) { t.Nightly = true })
}

// And returns these targets and the others after them.
func (ts Targets) And(others ...Targets) Targets {
	all := slices.Clone(ts)
	for _, o := range others {
		all = append(all, o...)
	}
	return all
}

func (ts Targets) change(fn func(*Target)) Targets {
	changed := slices.Clone(ts)
	for i := range changed {
		fn(&changed[i])
	}
	return changed
}

// check says what is wrong with a list of targets, before any machine is asked for.
func (ts Targets) check() error {
	if len(ts) == 0 {
		return fmt.Errorf("no target is named: want vm.On with at least one kernel series")
	}
	seen := make(map[string]bool)
	for _, t := range ts {
		if err := t.spec().Check(); err != nil {
			return err
		}
		if seen[t.String()] {
			return fmt.Errorf("target %s is named twice", t)
		}
		seen[t.String()] = true
	}
	return nil
}
