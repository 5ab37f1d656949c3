package appguard

import (
	"fmt"
	"strings"
	"time"
)

// Mechanism is how launches and installations are refused.
type Mechanism string

// The mechanisms, the best first.
const (
	// MechanismLSM has programs on the kernel's security hooks. It needs "bpf" among the security modules, BTF, and on arm64 Linux 6.4.
	MechanismLSM Mechanism = "lsm"
	// MechanismModify has programs on the functions that call the hooks, which change what these return, and kprobes there that kill. The kernel
	// leaves such a program out when it runs already on the same processor: so it is not used where kernel code can be preempted.
	MechanismModify Mechanism = "modify"
	// MechanismKill has kprobes alone. They refuse nothing: a process that has become an app is dead before it runs again.
	MechanismKill Mechanism = "kill"
	// MechanismNone leaves launches and installations to the guest.
	MechanismNone Mechanism = "none"
)

// Tier is what a host can promise, from "A" to "D".
type Tier string

// The tiers.
const (
	TierA Tier = "A" // all is refused, by MechanismLSM
	TierB Tier = "B" // all is refused, by MechanismModify
	TierC Tier = "C" // apps cannot run, and have no network; they can be installed
	TierD Tier = "D" // apps have no network; they can be installed and run
)

var tiers = map[Mechanism]Tier{MechanismLSM: TierA, MechanismModify: TierB, MechanismKill: TierC, MechanismNone: TierD}

// Shown is what the canary has met.
type Shown struct {
	// Launch, Install and Network tell that what had to be refused was: a launch also by SIGKILL alone.
	Launch, Install, Network bool
}

// Status is what is enforced on this host.
type Status struct {
	// Mechanism is in use, and Tier what it can promise.
	Mechanism Mechanism
	Tier      Tier
	// Shown is what the last canary has met, at Checked.
	Shown   Shown
	Checked time.Time
	// Why says, for each better mechanism, why it is not used.
	Why []string
}

// promised is what a mechanism has to show.
func promised(m Mechanism) Shown {
	return Shown{Launch: m != MechanismNone, Install: m == MechanismLSM || m == MechanismModify, Network: true}
}

// keeps tells whether what was shown is at least what was promised.
func (s Shown) keeps(want Shown) bool {
	return (s.Launch || !want.Launch) && (s.Install || !want.Install) && (s.Network || !want.Network)
}

// missing names what was promised and not shown.
func (s Shown) missing(want Shown) string {
	var all []string
	for _, each := range []struct {
		what        string
		shown, want bool
	}{{"a denied launch", s.Launch, want.Launch}, {"a denied installation", s.Install, want.Install}, {"a denied app's network", s.Network, want.Network}} {
		if each.want && !each.shown {
			all = append(all, each.what)
		}
	}
	return strings.Join(all, ", ")
}

// String is for logs: "tier A (lsm)".
func (s Status) String() string { return fmt.Sprintf("tier %s (%s)", s.Tier, s.Mechanism) }
