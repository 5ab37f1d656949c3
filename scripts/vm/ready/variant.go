package ready

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/machine"
)

// Variant is a way to boot a machine that differs from the usual one. Whoever names it finds the machine so.
type Variant struct{ kind variant }

type variant int

const (
	noBPFLSM variant = iota + 1
	preemptFull
	noPSI
	cgroupV1
	noVicodec
	multiPlanar
	firewalls
	counted
)

// The variants of the lab.
var (
	// NoBPFLSM is a kernel whose list of security modules lacks bpf: LSM programs load and attach there, and never run.
	NoBPFLSM = Variant{noBPFLSM}
	// PreemptFull is a kernel with preempt=full, on amd64: Debian's arm64 kernels are fixed, 7.3 to full preemption, those before it to
	// voluntary.
	PreemptFull = Variant{preemptFull}
	// NoPSI is a kernel with psi=0: no /proc/pressure and no *.pressure in cgroups.
	NoPSI = Variant{noPSI}
	// CgroupV1 has the controllers in version 1 hierarchies: systemd's own layout on a system machine, one mount per controller
	// on a kernel machine. From 6.12 on Debian's kernels have no version 1 of memory and cpuset: where these matter, take 6.1.
	CgroupV1 = Variant{cgroupV1}
	// NoVicodec is a machine that has no hardware encoder: the module vicodec cannot be loaded.
	NoVicodec = Variant{noVicodec}
	// MultiPlanar loads vicodec with multiplanar=1: the API that the encoders of real boards have.
	MultiPlanar = Variant{multiPlanar}
	// Firewalls is a system machine that has Docker, firewalld and ufw of Debian 12, with the kernel's modules that they want. None of them runs.
	Firewalls = Variant{firewalls}
	// Counted is a machine with one processor, whose clock counts the instructions that were executed, one a nanosecond.
	Counted = Variant{counted}
)

// Variants are all variants, in the order in which they are listed for people.
func Variants() []Variant {
	return []Variant{NoBPFLSM, PreemptFull, NoPSI, CgroupV1, NoVicodec, MultiPlanar, Firewalls, Counted}
}

// ParseVariant returns the variant of that name; another name is ErrInvalidArgument.
func ParseVariant(name string) (Variant, error) {
	var names []string
	for _, v := range Variants() {
		if v.Name() == name {
			return v, nil
		}
		names = append(names, v.Name())
	}
	return Variant{}, fmt.Errorf("variant %q: there are %s: %w", name, strings.Join(names, ", "), errdefs.ErrInvalidArgument)
}

// boot is how a machine of the variant is booted.
func (v Variant) boot() machine.Variant {
	switch v.kind {
	case noBPFLSM:
		return machine.Variant{Name: "nobpflsm", LSM: []string{"landlock", "yama", "apparmor"}}
	case preemptFull:
		return machine.Variant{Name: "preemptfull", Cmdline: []string{"preempt=full"}}
	case noPSI:
		return machine.Variant{Name: "nopsi", Cmdline: []string{"psi=0"}}
	case cgroupV1:
		return machine.Variant{Name: "cgroupv1", CgroupV1: true}
	case noVicodec:
		return machine.Variant{Name: "novicodec", Without: []string{"vicodec"}}
	case multiPlanar:
		return machine.Variant{Name: "multiplanar", Modules: map[string]string{"vicodec": "multiplanar=1"}}
	case firewalls:
		return machine.Variant{Name: firewallsAddition}
	case counted:
		return machine.Variant{Name: "counted", Counted: true}
	}
	return machine.Variant{Name: "unknown"}
}

// firewallsAddition is the addition of lab.toml that Firewalls is made of.
const firewallsAddition = "firewalls"

// addition is the addition of lab.toml that the machine's root and modules have; "" is none.
func (v Variant) addition() string {
	if v.kind == firewalls {
		return firewallsAddition
	}
	return ""
}

// Name returns the word that stands for the variant in the name of a target.
func (v Variant) Name() string { return v.boot().Name }

// String returns Name.
func (v Variant) String() string { return v.Name() }

// together puts variants into one.
func together(variants []Variant) machine.Variant {
	var all machine.Variant
	var names []string
	for _, variant := range variants {
		v := variant.boot()
		names = append(names, v.Name)
		all.Cmdline = append(all.Cmdline, v.Cmdline...)
		all.Without = append(all.Without, v.Without...)
		all.CgroupV1 = all.CgroupV1 || v.CgroupV1
		all.Counted = all.Counted || v.Counted
		if v.LSM != nil {
			all.LSM = slices.Clone(v.LSM)
		}
		if v.Modules != nil {
			if all.Modules == nil {
				all.Modules = make(map[string]string)
			}
			maps.Copy(all.Modules, v.Modules)
		}
	}
	all.Name = strings.Join(names, "-")
	return all
}
