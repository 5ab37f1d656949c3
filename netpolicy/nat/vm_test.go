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
