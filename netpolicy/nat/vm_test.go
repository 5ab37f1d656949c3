package nat_test

import (
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMNAT runs the tests of traffic on the oldest kernel. The machines have neither conntrack nor the programs of Docker, firewalld and
// ufw, nor iptables' extensions; those of 6.12 and 7.3 have no packet sockets. They have no sock_diag: who listens is read from /proc there.
func TestVMNAT(t *testing.T) {
	vm.Package(t, vm.On("6.1").Arch("arm64").System(), "netpolicy/nat", vm.Require("root"), vm.Only("^Test(Masquerade|Forwards|TableCanBeSavedAndLoaded|Check.*|Lists.*)$"))
}

// TestVMNATEverywhere runs what the machines have the programs for on all kernels.
func TestVMNATEverywhere(t *testing.T) {
	vm.Package(t, vm.On("6.1", "6.12", "7.3").System().Nightly(), "netpolicy/nat", vm.Require("root"), vm.Timeout(20*time.Minute),
		vm.Only("^Test(Masquerade|Forwards|PhonesAreNotTranslatedForOneAnother|TableCanBeSavedAndLoaded|TableOfAnotherVersionIsReplaced|Route.*|Replacement.*|Validate|Check.*|Lists.*)$"))
}

// TestVMBesideFirewalls runs the tests with Docker, firewalld and ufw of Debian 12 themselves, each of which its test starts. A test that skips itself
// there, for want of a program or anything else, fails.
func TestVMBesideFirewalls(t *testing.T) {
	besideFirewalls(t, vm.On("6.1").Arch("amd64"), vm.Only("^Test(Docker|Firewalld|Ufw)$/^Docker_switches_forwarding_on$"))
}

// TestVMBesideFirewallsEverywhere runs all tests of the package on all kernels, with all programs and modules that they need.
func TestVMBesideFirewallsEverywhere(t *testing.T) {
	besideFirewalls(t, vm.On("6.1", "6.12", "7.3").Nightly())
}

func besideFirewalls(t *testing.T, targets vm.Targets, opts ...vm.Option) {
	t.Helper()
	const long = 40 * time.Minute
	suite := vm.Suite{Package: "netpolicy/nat", Options: append(opts, vm.Require("root"), vm.Timeout(long))}
	vm.Packages(t, targets.System().With(vm.Firewalls), []vm.Suite{suite}, vm.Timeout(long))
}
