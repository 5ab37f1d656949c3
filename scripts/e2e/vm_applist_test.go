package e2e

import (
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMAppList denies an app on a machine whose kernel refuses all: its launch, in a guest that does not obey, before and after the agent's death,
// and its installation; by a strict list.
func TestVMAppList(t *testing.T) {
	vm.Each(t, vm.On("6.12").System(), func(t *testing.T, m *vm.Machine) {
		s := newServer(t, m)
		kernel := s.enforcement()
		if want := (enforcement{Tier: "A", Install: true, Launch: true, Network: true}); kernel != want {
			t.Fatalf("this kernel refuses %+v, want %+v", kernel, want)
		}
		s.create("p1", "--display", "320x480@30")
		apk := netAPK(t, s.path("net.apk"))
		s.ctl("app", "install", apk, "p1")
		s.ctl("applist", "put", "games", "--deny", "--strict", "com.example.net")
		s.ctl("applist", "assign", "games", "p1")
		s.testDenied("p1", kernel)
		s.waitFor("the refused launch", func() bool { return s.denied("p1", "launch") > 0 })
		s.run("systemctl kill --signal=KILL phonehostd; until systemctl is-active phonehostd && phonectl ls; do sleep 0.2; done")
		s.waitStatus("p1", "PHONE_STATUS_RUNNING")
		if now := s.enforcement(); now != kernel {
			t.Errorf("after the agent's death the kernel refuses %+v", now)
		}
		s.testDenied("p1", kernel)
		s.testStrict("p1", kernel)

		s.ctl("app", "uninstall", "com.example.net", "p1")
		s.refused(1, "app", "install", apk, "p1")
		if out := s.ctl("exec", "p1", "--", "pm", "list", "packages"); strings.Contains(out, "com.example.net") {
			t.Errorf("the app was installed all the same:\n%s", out)
		}
		s.waitFor("the refused installation", func() bool { return s.denied("p1", "install") > 0 })
		s.ctl("applist", "unassign", "p1")
		s.ctl("app", "install", apk, "p1")
		s.ctl("rm", "--force", "p1")
		s.nothingLeft("p1")
	}, onServer()...)
}
