package vm

import (
	"fmt"
	"slices"
	"strings"
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

// String returns the name of the target, which is the name of its sub-test: "6.12-arm64", "6.12-amd64-system-nopsi".
func (t Target) String() string {
	words := []string{t.Series, t.Arch}
	if t.System {
		words = append(words, "system")
	}
	for _, v := range t.Variants {
		words = append(words, v.Name())
	}
	return strings.Join(words, "-")
}

// Targets is a list of targets. Its methods return a new list and never change their receiver.
type Targets []Target

// architectures are those that the lab has, in the order in which tests run on them.
func architectures() []string { return []string{"amd64", "arm64"} }

// On returns the targets of each series on both architectures, as kernel machines.
func On(series ...string) Targets {
	var all Targets
	for _, s := range series {
		for _, arch := range architectures() {
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
		if t.Series == "" || !slices.Contains(architectures(), t.Arch) {
			return fmt.Errorf("target %q: want a kernel series and one of the architectures %v", t, architectures())
		}
		if err := t.possible(); err != nil {
			return err
		}
		if seen[t.String()] {
			return fmt.Errorf("target %s is named twice", t)
		}
		seen[t.String()] = true
	}
	return nil
}

// possible says which variant cannot be in force on the target.
func (t Target) possible() error {
	for _, v := range t.Variants {
		switch {
		case v == PreemptFull && t.Arch == "arm64":
			return fmt.Errorf("target %s: Debian's arm64 kernels take no preempt=; 7.3 is fully preemptible there without", t)
		case v == MultiPlanar && t.Series == "6.1":
			return fmt.Errorf("target %s: 6.1 has no vicodec", t)
		}
	}
	return nil
}
