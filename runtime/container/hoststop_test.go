package container_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/container"
)

// TestEndForHost ends a phone as the host does when it stops: the guest shuts down by itself, the mark stays until the next start.
func TestEndForHost(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	h.booted("p1")
	if err := h.engine.EndForHost(t.Context(), "p1", time.Minute); err != nil {
		t.Fatal(err)
	}
	h.logLine("p1", container.Guest, "shutdown: done")
	o := h.observe("p1")
	if !o.Guest.Container || o.Guest.State != container.TaskNone || !o.Guest.HostStopped || o.Guest.BootGeneration != 1 {
		t.Errorf("the guest afterwards: %+v", o.Guest)
	}
	if o.Display.Container {
		t.Errorf("the display afterwards: %+v", o.Display)
	}
	if err := h.engine.EndForHost(t.Context(), "p1", time.Minute); err != nil {
		t.Errorf("a second time: %v", err)
	}
	p.BootGeneration = 2
	h.start(p)
	if o := h.observe("p1"); o.Guest.State != container.TaskRunning || o.Guest.HostStopped {
		t.Errorf("the guest after the next start: %+v", o.Guest)
	}
	// This one has no time to shut down.
	if err := h.engine.EndForHost(t.Context(), "p1", 0); err != nil {
		t.Fatal(err)
	}
	if o := h.observe("p1"); o.Guest.State != container.TaskNone || !o.Guest.HostStopped {
		t.Errorf("the guest that was killed: %+v", o.Guest)
	}
	if err := h.engine.EndForHost(t.Context(), "nobody", time.Minute); err != nil {
		t.Errorf("a phone that does not exist: %v", err)
	}
}

// TestEndForHostWithoutDisplayBinary has another engine end a phone, one that starts nothing and keeps away from what displays start from.
func TestEndForHostWithoutDisplayBinary(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	h.booted("p1")
	unused := filepath.Join(h.config.StateDir, "display", "unused")
	if err := os.Mkdir(unused, 0o755); err != nil {
		t.Fatal(err)
	}
	c := h.config
	c.DisplayBinary = ""
	ending, err := container.New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer ending.Close()
	if err := ending.EndForHost(t.Context(), "p1", time.Minute); err != nil {
		t.Fatal(err)
	}
	if o := h.observe("p1"); o.Guest.State != container.TaskNone || o.Display.Container {
		t.Errorf("left of the phone: %+v", o)
	}
	if err := ending.StartDisplay(t.Context(), p); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("StartDisplay = %v, want a failed precondition", err)
	}
	if _, err := os.Stat(unused); err != nil {
		t.Errorf("a display root was pruned by an engine that starts none: %v", err)
	}
}
