package e2e

import (
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMAppList has strict lists decide over phones of a machine whose kernel refuses all.
func TestVMAppList(t *testing.T) {
	targets := vm.On("6.12").Arch("arm64").System().And(vm.On("6.12").Arch("amd64").System().Nightly(), vm.On("7.3").System().Nightly())
	vm.Each(t, targets, func(t *testing.T, m *vm.Machine) {
		s := newServer(t, m)
		kernel := s.enforcement()
		if want := (enforcement{Tier: "A", Install: true, Launch: true, Network: true}); kernel != want {
			t.Fatalf("this kernel refuses %+v, want %+v", kernel, want)
		}
		apk := netAPK(t, s.path("net.apk"))
		s.testDenyList(apk, kernel)
		s.testAllowList(apk)
	}, onServer()...)
}

// killAgent kills the agent and waits for the one that systemd starts in its place.
func (s *server) killAgent() {
	s.t.Helper()
	s.run("systemctl kill --signal=KILL phonehostd; until systemctl is-active phonehostd && phonectl ls; do sleep 0.2; done")
}

// testDenyList denies an app: its launch, in a guest that does not obey, before and after the agent's death, and its installation.
func (s *server) testDenyList(apk string, kernel enforcement) {
	s.t.Helper()
	s.create("p1", "--display", "320x480@30")
	s.ctl("app", "install", apk, "p1")
	s.ctl("applist", "put", "games", "--deny", "--strict", "com.example.net")
	s.ctl("applist", "assign", "games", "p1")
	s.testDenied("p1", kernel)
	s.waitFor("the refused launch", func() bool { return s.denied("p1", "launch") > 0 })
	s.killAgent()
	s.waitStatus("p1", "PHONE_STATUS_RUNNING")
	if now := s.enforcement(); now != kernel {
		s.t.Errorf("after the agent's death the kernel refuses %+v", now)
	}
	s.testDenied("p1", kernel)
	s.testStrict("p1", kernel)

	s.ctl("app", "uninstall", "com.example.net", "p1")
	s.refused(1, "app", "install", apk, "p1")
	if out := s.ctl("exec", "p1", "--", "pm", "list", "packages"); strings.Contains(out, "com.example.net") {
		s.t.Errorf("the app was installed all the same:\n%s", out)
	}
	s.waitFor("the refused installation", func() bool { return s.denied("p1", "install") > 0 })
	s.ctl("applist", "unassign", "p1")
	s.ctl("app", "install", apk, "p1")
	s.ctl("rm", "--force", "p1")
	s.nothingLeft("p1")
}

// testAllowList has a phone boot for the first time on a list that allows nothing, while the agent is killed, and then allows an app and denies it
// again while it runs.
func (s *server) testAllowList(apk string) {
	s.t.Helper()
	s.ctl("applist", "put", "work", "--allow", "--strict")
	s.ctl("create", "p2", "--image", "phonehost.dev/testphone:latest", "--memory", "256MiB", "--data", "128MiB", "--display", "320x480@30", "--app-list", "work")
	s.ctl("on", "p2", "--no-wait")
	s.waitStatus("p2", "PHONE_STATUS_STARTING")
	s.killAgent()
	s.waitStatus("p2", "PHONE_STATUS_RUNNING")
	runs := func(name string) bool { return strings.Contains(s.ctl("exec", "p2", "--", "ps"), name) }
	if !runs("com.android.systemui") {
		s.t.Error("an empty list that allows keeps the system's apps from running")
	}
	s.refused(1, "app", "install", apk, "p2")
	s.waitFor("the refused installation", func() bool { return s.denied("p2", "install") > 0 })

	s.ctl("applist", "add", "work", "com.example.net")
	s.ctl("app", "install", apk, "p2")
	s.waitFor("the app that runs", func() bool { s.tries("p2"); return runs("com.example.net") })
	s.ctl("applist", "remove", "work", "com.example.net")
	if runs("com.example.net") {
		s.t.Error("an app runs on after it was denied")
	}
	s.refused(1, "app", "install", apk, "p2") // an update
	s.ctl("restart", "p2")
	if runs("com.example.net") || !runs("com.android.systemui") {
		s.t.Errorf("after a restart there run:\n%s", s.ctl("exec", "p2", "--", "ps"))
	}
	s.ctl("applist", "rm", "work", "--force")
	s.waitFor("the app that is denied no more", func() bool { s.tries("p2"); return runs("com.example.net") })
	s.ctl("rm", "--force", "p2")
	s.nothingLeft("p2")
}
