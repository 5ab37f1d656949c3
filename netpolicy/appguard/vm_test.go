package appguard_test

import (
	"strings"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/appguard"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

func TestVMSmoke(t *testing.T) {
	vm.Run(t, vm.On("6.1", "6.12", "7.3").And(vm.On("6.12").With(vm.NoBPFLSM), vm.On("6.12").Arch("amd64").With(vm.PreemptFull)), func(t *testing.T) {
		g := open(t)
		s := g.Status()
		t.Log(s, s.Shown, strings.Join(s.Why, "\n"))
		p := makePhone(t, "p1")
		p.set(t, g, appguard.Phone{Apps: map[uint32]appguard.Bits{10001: 0, 10002: appguard.DenyRun, 10003: appguard.DenyNetwork}})
		t.Log(p.guest(t, "setresuid 10001 10001 10001"), p.guest(t, "setresuid -1 10002 -1", "setuid 0"), counts(drain(t, g, 0)))
	}, vm.Require("all"))
}
