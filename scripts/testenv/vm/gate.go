package vm

import (
	"fmt"
	"os"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

// The environment that the package reads.
const (
	// gateEnv is "subset" for all targets but the nightly ones, "all" for all; without it no machine is started.
	gateEnv = "PHONEHOST_TEST_VM"
	// guestEnv is the name of the target inside a machine.
	guestEnv = "PHONEHOST_TEST_VM_GUEST"
)

// Guest returns the name of the target on which the test runs, and whether it runs inside a machine at all.
func Guest() (target string, ok bool) { return os.LookupEnv(guestEnv) }

// gate lets a test pass that may start machines, and says whether nightly targets are among them.
func gate(t testing.TB) (nightly bool) {
	t.Helper()
	switch mode := os.Getenv(gateEnv); mode {
	case "":
		t.Skip("machines are started only by make test-vm, or where " + gateEnv + " is subset or all")
	case "subset":
	case "all":
		nightly = true
	default:
		t.Fatalf("%s is %q: want subset or all", gateEnv, mode)
	}
	return nightly
}

// gateTarget skips a sub-test whose target does not run now.
func gateTarget(t testing.TB, target Target, nightly bool) {
	t.Helper()
	if target.Nightly && !nightly {
		t.Skip("this target runs only under make test-vm-all, or where " + gateEnv + " is all")
	}
}

// needs lets a test pass whose host has the programs that machines of target need.
func needs(t testing.TB, target Target) {
	t.Helper()
	emulator := map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[target.Arch]
	for _, name := range []string{emulator, "qemu-img", "mke2fs", "dpkg-deb"} {
		if _, err := host.Look(name); err != nil {
			testenv.Missing(t, "vm", fmt.Sprintf("machines of %s: %v (scripts/deps vm installs what is needed)", target, err))
		}
	}
}
