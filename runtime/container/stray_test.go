package container_test

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phonehost/phonehost/runtime/container"
)

// TestWhatADeadAgentLeftInAGuestEnds leaves processes that wait for input which no longer comes: one that clears up after itself, one that
// goes on, and one that has a name. The first two end; the third is left to whoever gave it its name.
func TestWhatADeadAgentLeftInAGuestEnds(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	h.booted("p1")
	leave := func(o container.ExecOptions, script string) {
		t.Helper()
		never, keep := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		begun, ended := make(chan struct{}), make(chan struct{})
		o.Args, o.Stdin, o.Stdout = []string{"sh", "-c", "echo begun; " + script}, never, &firstWrite{signal: sync.OnceFunc(func() { close(begun) })}
		old := h.engine
		go func() {
			defer close(ended)
			_, _ = old.Exec(ctx, "p1", o) // it ends with its engine's connection
		}()
		<-begun
		t.Cleanup(func() {
			cancel()
			keep.Close()
			<-ended
		})
	}
	// left are those of the three that there are.
	left := func() string {
		t.Helper()
		return strings.Join(strings.Fields(h.shell("p1", "for x in one two three; do if grep -q \"left[-]$x\" /proc/[0-9]*/cmdline 2>/dev/null; then echo $x; fi; done")), " ")
	}
	leave(container.ExecOptions{}, "trap 'echo cleared > /data/mark' EXIT; cat; exit 1 # left-one")
	leave(container.ExecOptions{}, "cat; sleep 1000 # left-two")
	leave(container.ExecOptions{ID: "op-1"}, "cat # left-three")
	if got := left(); got != "one two three" {
		t.Fatalf("there are %q", got)
	}
	h.reopen()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		mark, got := strings.TrimSpace(h.shell("p1", "cat /data/mark 2>/dev/null || true")), left()
		if mark == "cleared" && got == "three" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the first has left %q, and there are %q", mark, got)
		}
	}
	if err := h.engine.EndExec(t.Context(), "p1", "op-1"); err != nil {
		t.Errorf("the process with a name: %v", err)
	}
}
