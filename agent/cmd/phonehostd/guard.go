package main

import (
	"path/filepath"
	"strings"

	"github.com/phonehost/phonehost/runtime/cgroup"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/guard"
)

// guardDir is where the guard of phones below a cgroup is pinned.
func guardDir(cgroupRoot string) string { return bpfDir("guard", cgroupRoot) }

// bpfDir is where something is pinned that belongs to the phones below a cgroup. A BPF file system takes no dots in names.
func bpfDir(what, cgroupRoot string) string {
	name := strings.NewReplacer("/", "-", ".", "-").Replace(strings.Trim(cgroupRoot, "/"))
	return filepath.Join("/sys/fs/bpf", "phonehost-"+what+"-"+name)
}

// openGuard gives the engine the guard, where the kernel can have it and this host has the cgroups that it knows guests by. That it cannot
// is no error here: phones that do not need it run, and the doctor tells.
func (a *agent) openGuard(engine *container.Config) {
	var g *guard.Guard
	err := cgroup.CheckGuestIDs()
	if err == nil {
		g, err = guard.Open(guard.Config{Dir: guardDir(engine.CgroupRoot), Level: cgroup.GuestLevel(engine.CgroupRoot)})
	}
	if err != nil {
		a.unguarded = err
		a.logger.Info("guests that may mount are not kept from the host", "error", err, "allowed", engine.AllowUnguarded)
		return
	}
	a.defers(g.Close)
	engine.Guard = g
}
