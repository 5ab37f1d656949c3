package image

import (
	"os/exec"
	"strings"
	"testing"
)

func TestServiceThatDoesNotEndIsKilled(t *testing.T) {
	p := newPhone(t, "ro.build.shutdown_timeout=2")
	p.boot()
	p.await("init.svc_debug_pid.composer", func(v string) bool { return v != "" }) // it may just be started again
	p.sh("kill -STOP $(getprop init.svc_debug_pid.composer)")
	p.ask("shutdown")
	p.line("shutdown: ending services, at most 2s")
	p.line("service composer: did not end, killed")
	if got := p.exits(); got != 130 {
		t.Errorf("exit code %d", got)
	}
}

func TestServicesAreSupervised(t *testing.T) {
	p := newPhone(t)
	p.boot()
	first := p.sh("getprop init.svc_debug_pid.composer")
	p.sh("kill -KILL " + first)
	// It may be away for no time at all: the period between two starts can be over already.
	p.await("init.svc_debug_pid.composer", func(v string) bool { return v != "" && v != first })
	p.sh("stop composer")
	p.await("init.svc.composer", func(v string) bool { return v == "stopped" })
	// Also when what was stopped is not gone yet, it comes back.
	second := p.sh("getprop init.svc_debug_pid.composer; start composer")
	p.await("init.svc.composer", func(v string) bool { return v == "running" })
	p.await("init.svc_debug_pid.composer", func(v string) bool { return v != "" && v != second })
	for range 5 {
		p.sh("stop composer; start composer")
		p.await("init.svc.composer", func(v string) bool { return v == "running" })
	}
	if out, err := exec.Command(p.runc, "--root", p.root, "exec", p.id(), "start", "nothing").CombinedOutput(); err == nil {
		t.Errorf("start nothing: %s", out)
	}
	p.ask("shutdown")
	p.exits()
}

// TestOrphansAreReaped leaves a child of a shell that is no more.
func TestOrphansAreReaped(t *testing.T) {
	p := newPhone(t)
	p.boot()
	p.sh(`sh -c 'sleep 1000 >/dev/null 2>&1 </dev/null & while ! ps | grep -q "[s]leep 1000"; do true; done; kill -KILL $$'; true`)
	orphan := strings.Fields(p.sh("ps | grep '[s]leep 1000'"))
	if len(orphan) < 3 || orphan[2] != "1" {
		t.Fatalf("the orphan is %v", orphan)
	}
	p.sh("kill -KILL " + orphan[1])
	for p.sh("test -d /proc/"+orphan[1]+" && echo there; true") == "there" {
	}
	p.ask("shutdown")
	p.exits()
}
