package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestDisplayKilled kills a display under its viewer: it is back at once, with an event, the viewer goes on in a file that decodes, and
// the guest lives on.
func TestDisplayKilled(t *testing.T) {
	h := newHost(t)
	h.create("p1")
	guest, display := h.show("p1").InitPID, h.displayPID("p1")
	recording := h.remote(t.Context(), "record", "p1", "--frames", "90", "-f", h.path("killed.h264"), "-o", "json")
	var out, words strings.Builder
	recording.Stdout, recording.Stderr = &out, &words
	if err := recording.Start(); err != nil {
		t.Fatal(err)
	}
	h.waitViewers("p1", 1)
	h.waitRecording(h.path("killed.h264"))
	process, err := os.FindProcess(display)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := recording.Wait(); err != nil {
		t.Fatalf("the recording: %v\n%s", err, words.String())
	}
	requireContains(t, words.String(), "the display is lost", "the display is back")
	requireContains(t, h.ctl("events", "--phone", "p1"), "display-exited", "display-started")
	if frames := decode(t, h.path("killed.h264"), 720, 1280); len(frames) < 90 {
		t.Errorf("%d frames, want 90", len(frames))
	}
	if p := h.show("p1"); p.Status != "PHONE_STATUS_RUNNING" || p.InitPID != guest || h.displayPID("p1") == display {
		t.Errorf("after the kill: %+v with display %d, want RUNNING with init %d and another display than %d", p, h.displayPID("p1"), guest, display)
	}
}
