package nat_test

import (
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMNAT runs this package's tests on other kernels, whose nf_tables answers differently. The machines have no programs of Docker,
// firewalld and ufw, and no conntrack.
func TestVMNAT(t *testing.T) {
	daily := vm.On("6.1").Arch("amd64")
	nightly := vm.On("6.1").Arch("arm64").And(vm.On("6.12", "7.3")).Nightly()
	vm.Package(t, daily.And(nightly).System(), "netpolicy/nat", vm.Require("root"), vm.Timeout(20*time.Minute),
		vm.Except("^Test(Docker|Firewalld|Ufw|TimesOfPhonesFlows|FloodFillsNoMoreThanItsPart)$"))
}
