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
	for name, command := range map[string]string{
		"no message":  "echo nothing > /data/property/persistent_properties",
		"a way out":   "rm /data/property/persistent_properties; ln -s /etc/passwd /data/property/persistent_properties",
		"a directory": "rm /data/property/persistent_properties; mkdir /data/property/persistent_properties",
	} {
		h.shell("p1", command)
		h.off("p1")
		if reason, err := h.engine.BootReason(t.Context(), p); !errdefs.IsInvalidArgument(err) || reason.Value != "" {
			t.Errorf("%s: BootReason = %+v, %v, want an invalid argument", name, reason, err)
		}
		p.BootGeneration++
		h.start(p)
		h.booted("p1")
	}
	h.shell("p1", "rm -r /data/property")
	h.off("p1")
	if reason, err := h.engine.BootReason(t.Context(), p); err != nil || reason.Value != "" {
		t.Errorf("BootReason of data that says nothing = %+v, %v", reason, err)
	}
	if loops := h.loops(); len(loops) != 0 {
		t.Errorf("loop devices left: %v", loops)
	}
	if err := os.WriteFile(h.dataImage("p1", 1), []byte(strings.Repeat("noise", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.engine.BootReason(t.Context(), p); err == nil || errdefs.IsNotFound(err) {
		t.Errorf("BootReason of noise = %v", err)
	}
	if loops := h.loops(); len(loops) != 0 {
		t.Errorf("loop devices left: %v", loops)
	}
}
