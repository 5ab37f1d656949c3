package suite

import (
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMBesideFirewalls runs netpolicy/nat's tests with Docker, firewalld and ufw of Debian 12 themselves, each of which its test starts. A test that
// skips itself there, for want of a program or anything else, fails.
//
// It is not in that package, whose tests live in a network of their own: what these machines are made of may have to be fetched.
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
