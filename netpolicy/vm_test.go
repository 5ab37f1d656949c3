package netpolicy_test

import (
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMNetworks makes whole networks of phones on other kernels: 6.1 has neither TCX links nor a switch of its own for IPv6 forwarding on one
// link, and has no sock_diag in these machines. They have no packet sockets, which DHCP clients need.
func TestVMNetworks(t *testing.T) {
	daily := vm.On("6.1").Arch("amd64")
	nightly := vm.On("6.1").Arch("arm64").And(vm.On("6.12", "7.3")).Nightly()
	vm.Package(t, daily.And(nightly).System(), "netpolicy", vm.Require("root"), vm.Except("^TestDHCPClient$"))
}
