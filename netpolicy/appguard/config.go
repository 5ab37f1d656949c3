package appguard

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Config says where things are and how many phones there may be.
type Config struct {
	// Dir is the directory of the pins, on a BPF file system: "/sys/fs/bpf/phonehost/apps". Open makes it.
	Dir string
	// CgroupRoot is the directory of the cgroup v2 that all phones are below: "/sys/fs/cgroup/phonehost". Open makes it, and the canary's in it.
	CgroupRoot string
	// Level is how deep the phones' cgroups, <CgroupRoot>/<phone>/guest, lie below the root of cgroup v2: 3 for /phonehost/p1/guest.
	Level int
	// MaxPhones bounds the slots of phones, 1..16384 (default 1024). Maps that are there with room for more stay.
	MaxPhones uint32
	// Canary is the command that has RunCanary called. Its process must be root's.
	Canary []string
	// NoKill has refused launches fail and nothing else, to measure whether the refusal alone holds. MechanismKill is not obeyed then.
	NoKill bool
	// Mechanisms are those that may be used, the best first; default: all.
	Mechanisms []Mechanism
	// Logger is told what neither is an error nor an answer; default: nothing is logged.
	Logger *slog.Logger
}

// maxPhones keeps the indexes of tries, two for each phone, within a struct phone's 16 bits.
const maxPhones = 1 << 14

// complete fills what was left out and tells what cannot be.
func (c *Config) complete() error {
	if c.MaxPhones == 0 {
		c.MaxPhones = 1024
	}
	if c.Mechanisms == nil {
		c.Mechanisms = []Mechanism{MechanismLSM, MechanismModify, MechanismKill}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.MaxPhones > maxPhones:
		return fmt.Errorf("%d phones: at most %d have room: %w", c.MaxPhones, maxPhones, errdefs.ErrInvalidArgument)
	case c.Level < 2:
		return fmt.Errorf("cgroups at level %d: the phones' are at 2 or more: %w", c.Level, errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(c.CgroupRoot):
		return fmt.Errorf("the phones' cgroups in %q: the path must begin at the root: %w", c.CgroupRoot, errdefs.ErrInvalidArgument)
	case len(c.Canary) == 0:
		return fmt.Errorf("no canary: only one that was refused shows that anything is: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}
