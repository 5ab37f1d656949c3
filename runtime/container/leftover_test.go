package container_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// TestGuestStartsWhereAFormerOneLeftItsCgroup gives the phone the cgroups of a container that died and could not be cleared away, with
// rules that allow no device: they are none of the next guest's.
func TestGuestStartsWhereAFormerOneLeftItsCgroup(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.prepare(p)
	refused := false
	for _, phone := range cgroupDirs(h.config.CgroupRoot + "/p1") {
		for _, name := range []string{"guest/ctr", "display"} {
			dir := filepath.Join(phone, name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			refused = refuseDevices(t, dir) || refused
			if err := os.Mkdir(filepath.Join(dir, "below"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !refused {
		t.Fatal("no hierarchy takes rules about devices")
	}
	h.start(p)
	h.booted("p1")
}

// refuseDevices keeps the processes of a cgroup from every device, as a hierarchy of version 1 or 2 can; false if it can not.
func refuseDevices(t *testing.T, dir string) bool {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "devices.deny")); err == nil {
		if err := os.WriteFile(filepath.Join(dir, "devices.deny"), []byte("a"), 0); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err != nil {
		return false
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupDevice, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	to, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	// The cgroup holds the program until it is removed.
	err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(to.Fd()), Program: program, Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		t.Fatal(err)
	}
	return true
}
