package container_test

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMBinder has phones use real binder devices: a binderfs for each, or triples of the pool of a kernel that has no binderfs.
func TestVMBinder(t *testing.T) {
	vm.Run(t, vm.On("6.12").System().And(vm.On("6.1").System().Nightly()), func(t *testing.T) {
		vm.Modprobe(t, "binder_linux", "devices=binder,hwbinder,vndbinder,binder1,hwbinder1,vndbinder1")
		h := newHost(t)
		support, err := binder.Probe()
		if err != nil {
			t.Fatal(err)
		}
		for slot, id := range []string{"p0", "p1"} {
			h.start(h.phone(id, uint32(slot)))
			h.answers(id)
		}
		// One phone's services are not the other's.
		p0 := h.phone("p0", 0)
		if code, out := h.exec("p0", "sh", "-c", "service add mine >/dev/null & until service check mine | grep -q ': found'; do :; done; service ping mine"); code != 0 {
			t.Errorf("a service of p0: %d %q", code, out)
		}
		if _, out := h.exec("p1", "service", "check", "mine"); out != "Service mine: not found\n" {
			t.Errorf("p0's service asked for in p1: %q", out)
		}
		h.nothingMounted()
		if third := h.phone("p2", 2); len(support.Triples) == 2 {
			h.prepare(third)
			if err := h.engine.StartDisplay(t.Context(), third); err != nil {
				t.Fatal(err)
			}
			if err := h.engine.StartGuest(t.Context(), third); !errdefs.IsResourceExhausted(err) {
				t.Errorf("a third phone on two sets of devices: %v", err)
			}
		}
		// A guest that boots again begins anew, on the same triple or on another instance.
		label := h.binderLabel("p0")
		h.kill("p0")
		p0.BootGeneration++
		if err := h.engine.StartGuest(t.Context(), p0); err != nil {
			t.Fatal(err)
		}
		h.answers("p0")
		if again := h.binderLabel("p0"); again != label {
			t.Errorf("after the next boot p0 has %s, want %s", again, label)
		}
		if _, out := h.exec("p0", "service", "list"); !strings.HasPrefix(out, "Found 1 services:\n0\tmanager: [android.os.IServiceManager]\n") {
			t.Errorf("services after the next boot: %q", out)
		}
		h.nothingMounted()
	}, vm.Testphone(), vm.Programs("encoder/cmd/phone-display", "runtime/cmd/phone-log"), vm.Require("all"))
}

// TestVMLimits changes the limits of a guest, and looks at what its end leaves behind, on pure cgroup v2.
func TestVMLimits(t *testing.T) {
	vm.Run(t, vm.On("6.12").Arch("arm64").System().And(vm.On("6.12").Arch("amd64").System().Nightly()), func(t *testing.T) {
		h := newHost(t)
		h.setLimits(t)
		h.endAndLook(t, "p2")
	}, vm.Testphone(), vm.Programs("encoder/cmd/phone-display", "runtime/cmd/phone-log"), vm.Require("all"))
}

// TestVMDataGrows has the data of a running guest grow where the kernel lets the agent do that.
func TestVMDataGrows(t *testing.T) {
	vm.Run(t, vm.On("6.12").Arch("arm64").System().And(vm.On("6.12").Arch("amd64").System().Nightly(), vm.On("6.1", "7.3").System().Nightly()), func(t *testing.T) {
		if !mayResize(t) {
			t.Fatal("root has no CAP_SYS_RESOURCE here")
		}
		dataGrows(t)
	}, vm.Testphone(), vm.Programs("encoder/cmd/phone-display", "runtime/cmd/phone-log"), vm.Require("all"))
}

// answers waits for the phone's service manager and calls it from another process of the guest.
func (h *host) answers(id string) {
	h.t.Helper()
	h.logLine(id, container.Guest, "device=/dev/binder")
	if code, out := h.exec(id, "service", "ping"); code != 0 || !strings.Contains(out, "answered") {
		h.t.Errorf("ping in %s: %d %q", id, code, out)
	}
}

// kill ends a guest and waits until it has.
func (h *host) kill(id string) {
	h.t.Helper()
	events := h.engine.Events(h.t.Context())
	if err := h.engine.Kill(h.t.Context(), id, container.Guest); err != nil {
		h.t.Fatal(err)
	}
	for e := range events {
		if e.Kind == container.Exited && e.PhoneID == id && e.Role == container.Guest || e.Kind == container.Back && h.observe(id).Guest.State == container.TaskStopped {
			return
		}
	}
}

// nothingMounted makes sure that no binderfs is in the host's mount namespace.
func (h *host) nothingMounted() {
	h.t.Helper()
	text, err := os.ReadFile("/proc/1/mountinfo")
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, " - binder ") {
			h.t.Errorf("mounted on the host: %s", line)
		}
	}
}
