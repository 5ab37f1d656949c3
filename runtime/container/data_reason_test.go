package container_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/container"
)

// TestBootReason reads why a guest shut down right after its end, and starts it again at once.
func TestBootReason(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	if _, err := h.engine.BootReason(t.Context(), p); !errdefs.IsNotFound(err) {
		t.Errorf("BootReason of a phone without data = %v, want not found", err)
	}
	events := h.engine.Events(t.Context())
	h.start(p)
	h.booted("p1")
	if _, err := h.engine.BootReason(t.Context(), p); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("BootReason of a phone that runs = %v, want a failed precondition", err)
	}
	for _, why := range []string{"shutdown,userrequested", "reboot,userrequested", "shutdown"} {
		before := time.Now()
		if _, err := h.engine.Exec(t.Context(), "p1", container.ExecOptions{Args: []string{"setprop", "sys.powerctl", why}}); err != nil {
			t.Logf("ask for %s: %v", why, err) // the guest may end before the answer
		}
		guestExit(t, events)
		reason, err := h.engine.BootReason(t.Context(), p) // with the container still there, as the agent asks
		if err != nil || reason.Value != why || reason.StoredAt.Before(before.Add(-time.Second)) || reason.StoredAt.After(time.Now()) {
			t.Errorf("after %s BootReason = %+v, %v", why, reason, err)
		}
		p.BootGeneration++
		h.start(p)
		h.booted("p1")
	}
	h.off("p1")
	for name, tt := range map[string]struct {
		command string
		refused bool
	}{
		"nothing":     {"rm -rf /data/property", false},
		"no message":  {"echo nothing > /data/property/persistent_properties", true},
		"a way out":   {"rm -f /data/property/persistent_properties; ln -s /etc/passwd /data/property/persistent_properties", true},
		"a directory": {"rm -f /data/property/persistent_properties; mkdir /data/property/persistent_properties", true},
	} {
		p.BootGeneration++
		p.DataGeneration++ // no init is made to live with what is wrong
		h.start(p)
		h.booted("p1")
		h.shell("p1", "mkdir -p /data/property; "+tt.command)
		h.off("p1")
		reason, err := h.engine.BootReason(t.Context(), p)
		if reason.Value != "" || errdefs.IsInvalidArgument(err) != tt.refused || !tt.refused && err != nil {
			t.Errorf("%s: BootReason = %+v, %v", name, reason, err)
		}
	}
	h.noLoops("after BootReason")
	if err := os.WriteFile(h.dataImage("p1", int(p.DataGeneration)), []byte(strings.Repeat("noise", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.engine.BootReason(t.Context(), p); err == nil || errdefs.IsNotFound(err) {
		t.Errorf("BootReason of noise = %v", err)
	}
	h.noLoops("after BootReason of noise")
}
