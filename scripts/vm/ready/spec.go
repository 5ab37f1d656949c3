package ready

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Spec says what a machine is: one kernel on one architecture, as one kind of machine, in no, one or several variants.
type Spec struct {
	// Series is a kernel series of the lab: "6.1", "6.12" or "7.3".
	Series string
	// Arch is "amd64" or "arm64".
	Arch string
	// System asks for Debian with systemd and containerd; false is the small machine in which the control program is init.
	System bool
	// Variants are in force together.
	Variants []Variant
}

// Architectures are those that machines have.
func Architectures() []string { return []string{"amd64", "arm64"} }

// String returns the name of the machine, which tests and snapshots are called by: "6.12-arm64", "6.12-amd64-system-nopsi".
func (s Spec) String() string {
	words := []string{s.Series, s.Arch}
	if s.System {
		words = append(words, "system")
	}
	for _, v := range s.Variants {
		words = append(words, v.Name())
	}
	return strings.Join(words, "-")
}

// Check says, as ErrInvalidArgument, why there is no such machine: its architecture is none of the lab's, or its kernel cannot have
// one of the variants. Which series there are, the lab knows.
func (s Spec) Check() error {
	if s.Series == "" || !slices.Contains(Architectures(), s.Arch) {
		return fmt.Errorf("machine %q: want a kernel series and one of the architectures %s: %w", s, strings.Join(Architectures(), ", "), errdefs.ErrInvalidArgument)
	}
	for _, v := range s.Variants {
		switch {
		case v == PreemptFull && s.Arch == "arm64":
			return fmt.Errorf("machine %s: Debian's arm64 kernels take no preempt=; 7.3 is fully preemptible there without: %w", s, errdefs.ErrInvalidArgument)
		case v == MultiPlanar && s.Series == "6.1":
			return fmt.Errorf("machine %s: 6.1 has no vicodec: %w", s, errdefs.ErrInvalidArgument)
		case v.addition() != "" && !s.System:
			return fmt.Errorf("machine %s: the programs are Debian's, which only a system machine has: %w", s, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// addition is the addition of lab.toml that the machine has; "" is none.
func (s Spec) addition() string {
	for _, v := range s.Variants {
		if a := v.addition(); a != "" {
			return a
		}
	}
	return ""
}
