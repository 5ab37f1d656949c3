package appguard_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/appguard"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// tierTargets are machines, by the tier that their kernels have: arm64 has trampolines from Linux 6.4 on; 7.3 can be preempted.
var tierTargets = map[appguard.Tier]vm.Targets{
	appguard.TierA: vm.On("6.12").Arch("arm64").And(vm.On("6.12").Arch("amd64").With(vm.PreemptFull), vm.On("6.12").Arch("amd64").Nightly(), vm.On("6.1").Arch("amd64").Nightly(),
		vm.On("7.3").Nightly()),
	appguard.TierB: vm.On("6.12").Arch("amd64").With(vm.NoBPFLSM).And(vm.On("6.12").Arch("arm64").With(vm.NoBPFLSM).Nightly()),
	appguard.TierC: vm.On("6.1").Arch("arm64").And(vm.On("7.3").With(vm.NoBPFLSM).Nightly()),
}

// onTier runs a test on the machines of a tier.
func onTier(t *testing.T, tier appguard.Tier, test func(t *testing.T, g *appguard.Guard)) {
	vm.Run(t, tierTargets[tier], func(t *testing.T) {
		g := open(t)
		s := g.Status()
		if s.Tier != tier {
			t.Fatalf("it is %s, want %s: %q", s, tier, s.Why)
		}
		t.Logf("%s: %+v, not better: %q", s, s.Shown, s.Why)
		test(t, g)
	}, vm.Require("all"))
}

// TestVMTierA: launches and installations are refused by the kernel's security hooks, and those who try to launch are killed.
func TestVMTierA(t *testing.T) {
	onTier(t, appguard.TierA, func(t *testing.T, g *appguard.Guard) {
		t.Run("launch", func(t *testing.T) { testLaunches(t, g) })
		t.Run("pool", func(t *testing.T) { testPool(t, g) })
		t.Run("parallel", func(t *testing.T) { testParallelLaunches(t, g, parallelLaunches/2, killed) })
		t.Run("parallel refusal", func(t *testing.T) { testParallelRefusals(t, g, parallelLaunches/2) })
		t.Run("refusal", func(t *testing.T) { testRefusal(t, g, "EPERM") })
		t.Run("install", func(t *testing.T) { testInstalls(t, g) })
		t.Run("limits", func(t *testing.T) { testInstallLimits(t, g) })
		t.Run("speed", func(t *testing.T) { testInstallsAtSpeed(t, g) })
		t.Run("verifier", func(t *testing.T) { testVerifier(t, g) })
		t.Run("try", func(t *testing.T) { testTry(t, g) })
		t.Run("scale", func(t *testing.T) { testScale(t, g) })
		g.Close()
		t.Run("killed", func(t *testing.T) { testKilled(t, appguard.TierA, 6) })
	})
}

// TestVMTierB: the same without BPF among the security modules.
func TestVMTierB(t *testing.T) {
	onTier(t, appguard.TierB, func(t *testing.T, g *appguard.Guard) {
		t.Run("launch", func(t *testing.T) { testLaunches(t, g) })
		t.Run("pool", func(t *testing.T) { testPool(t, g) })
		t.Run("parallel", func(t *testing.T) { testParallelLaunches(t, g, parallelLaunches/2, killed) })
		t.Run("parallel refusal", func(t *testing.T) { testParallelRefusals(t, g, parallelLaunches/2) })
		t.Run("refusal", func(t *testing.T) { testRefusal(t, g, "EPERM") })
		t.Run("install", func(t *testing.T) { testInstalls(t, g) })
		t.Run("limits", func(t *testing.T) { testInstallLimits(t, g) })
		t.Run("try", func(t *testing.T) { testTry(t, g) })
		g.Close()
		t.Run("killed", func(t *testing.T) { testKilled(t, appguard.TierB, 6) })
	})
}

// TestVMTierC: launches are killed, installations are not refused, and the status says so.
func TestVMTierC(t *testing.T) {
	onTier(t, appguard.TierC, func(t *testing.T, g *appguard.Guard) {
		t.Run("launch", func(t *testing.T) { testLaunches(t, g) })
		t.Run("pool", func(t *testing.T) { testPool(t, g) })
		if why := strings.Join(g.Status().Why, "; "); strings.Contains(why, "can be preempted") {
			if !strings.Contains(why, "kill: a denied launch can slip through") {
				t.Errorf("the status does not say that launches can slip through: %s", why)
			}
		} else {
			t.Run("parallel", func(t *testing.T) { testParallelLaunches(t, g, parallelLaunches, killed) })
		}
		t.Run("install", func(t *testing.T) {
			if g.Status().Shown.Install {
				t.Error("the status says that installations are refused")
			}
			p := makePhone(t, "p1")
			p.set(t, g, appguard.Phone{Names: denyNames})
			from, to := stage(t, scratch(t), 1, "app/~~r/com.bad.app-1")
			if met := p.guest(t, fmt.Sprintf("rename %s %s", from, to)); !slices.Equal(met, []string{"done"}) {
				t.Errorf("an installation meets %v", met)
			}
		})
		t.Run("try", func(t *testing.T) { testTry(t, g) })
		g.Close()
		t.Run("killed", func(t *testing.T) { testKilled(t, appguard.TierC, 6) })
	})
}

// testVerifier fails for programs that need more of the verifier than 5 % of what it has.
func testVerifier(t *testing.T, g *appguard.Guard) {
	verified, errs := g.VerifiedInstructions()
	for name, err := range errs {
		t.Errorf("%s: %v", name, err)
	}
	for name, n := range verified {
		t.Logf("%s: %d instructions verified", name, n)
		if n > 50000 {
			t.Errorf("%s: the verifier looked at %d instructions", name, n)
		}
	}
}

// TestVMAppguard runs this package's other tests on other kernels.
func TestVMAppguard(t *testing.T) {
	vm.Package(t, vm.On("6.1", "6.12", "7.3").Nightly(), "netpolicy/appguard", vm.Require("root"), vm.Timeout(15*time.Minute))
}

// TestVMBypass: on a fully preemptible kernel no launch slips through, of ten thousand denied ones that zygotes try beside as many that are allowed, and
// of a million that a storm tries while everything is replaced.
func TestVMBypass(t *testing.T) {
	vm.Run(t, vm.On("6.12").Arch("amd64").With(vm.PreemptFull).Nightly(), func(t *testing.T) {
		g := open(t)
		t.Run("parallel", func(t *testing.T) { testParallelLaunches(t, g, 20_000, killed) })
		g.Close()
		testBypass(t, 100, 20, 1e6)
	}, vm.Require("all"), vm.Timeout(40*time.Minute))
}
