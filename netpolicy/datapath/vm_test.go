package datapath_test

import (
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMDatapath runs this package's tests on other kernels: 6.1 has no TCX. It takes minutes; by day netpolicy's TestVMNetworks has the
// programs on 6.1.
func TestVMDatapath(t *testing.T) {
	vm.Package(t, vm.On("6.1", "6.12", "7.3").Nightly(), "netpolicy/datapath", vm.Files("netpolicy/datapath/bpf/layout.h"), vm.Require("root"), vm.Timeout(20*time.Minute))
}
