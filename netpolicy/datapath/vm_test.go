package datapath_test

import (
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMDatapath runs this package's tests on other kernels: 6.1 has no TCX.
func TestVMDatapath(t *testing.T) {
	daily := vm.On("6.1").Arch("arm64").And(vm.On("7.3").Arch("amd64"))
	nightly := vm.On("6.1").Arch("amd64").And(vm.On("6.12"), vm.On("7.3").Arch("arm64")).Nightly()
	vm.Package(t, daily.And(nightly), "netpolicy/datapath", vm.Files("netpolicy/datapath/bpf/layout.h"), vm.Require("root"), vm.Timeout(20*time.Minute))
}
