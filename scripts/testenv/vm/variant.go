package vm

// Variant is a way to boot a machine that differs from the usual one. A test that names it finds the machine so.
type Variant struct{ kind variant }

type variant int

const (
	noBPFLSM variant = iota + 1
	preemptFull
	noPSI
	cgroupV1
	noVicodec
	multiPlanar
)

// The variants of the lab.
var (
	// NoBPFLSM is a kernel whose list of security modules lacks bpf: LSM programs load and attach there, and never run.
	NoBPFLSM = Variant{noBPFLSM}
	// PreemptFull is a kernel with preempt=full.
	PreemptFull = Variant{preemptFull}
	// NoPSI is a kernel with psi=0: no /proc/pressure and no *.pressure in cgroups.
	NoPSI = Variant{noPSI}
	// CgroupV1 has the controllers in version 1 hierarchies: systemd's own layout on a system machine, one mount per controller
	// on a kernel machine.
	CgroupV1 = Variant{cgroupV1}
	// NoVicodec is a machine that has no hardware encoder: the module vicodec cannot be loaded.
	NoVicodec = Variant{noVicodec}
	// MultiPlanar loads vicodec with multiplanar=1: the API that the encoders of real boards have.
	MultiPlanar = Variant{multiPlanar}
)

// Name returns the word that stands for the variant in the name of a target.
func (v Variant) Name() string {
	switch v.kind {
	case noBPFLSM:
		return "nobpflsm"
	case preemptFull:
		return "preemptfull"
	case noPSI:
		return "nopsi"
	case cgroupV1:
		return "cgroupv1"
	case noVicodec:
		return "novicodec"
	case multiPlanar:
		return "multiplanar"
	}
	return "unknown"
}

// String returns Name.
func (v Variant) String() string { return v.Name() }
