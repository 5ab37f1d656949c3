package vm

import "github.com/phonehost/phonehost/scripts/vm/ready"

// Variant is a way to boot a machine that differs from the usual one. A test that names it finds the machine so.
type Variant = ready.Variant

// The variants of the lab; package ready says what each of them is.
var (
	NoBPFLSM    = ready.NoBPFLSM
	PreemptFull = ready.PreemptFull
	NoPSI       = ready.NoPSI
	CgroupV1    = ready.CgroupV1
	NoVicodec   = ready.NoVicodec
	MultiPlanar = ready.MultiPlanar
	Firewalls   = ready.Firewalls
	Counted     = ready.Counted
)
