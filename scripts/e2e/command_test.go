package e2e

import (
	"bytes"
	"crypto/rand"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCommandsAndFiles runs lines in phones and copies files to and from them, through the socket and the tunnel; phones that are off,
// a guest that ends and an agent that is killed in the middle are told as what they are.
func TestCommandsAndFiles(t *testing.T) {
	h := newHost(t)
	h.create("c1")
	h.create("c2")
	h.ctl("create", "off", "--image", "phonehost.dev/testphone:latest", "--memory", "256MiB", "--data", "128MiB")
	t.Run("run", func(t *testing.T) { testRun(t, h.in(t)) })
	t.Run("started", func(t *testing.T) { testStarted(t, h.in(t)) })
	t.Run("files", func(t *testing.T) { testFiles(t, h.in(t)) })
	t.Run("agent killed", func(t *testing.T) { testInterrupted(t, h.in(t)) })
	t.Run("guest ended", func(t *testing.T) { testGuestEnded(t, h.in(t)) })
}

func testRun(t *testing.T, h *host) {
	if got := h.ctl("run", "c1", "c2", "--", "echo", "it's $HOME", "two  words"); got != "c1: it's $HOME two  words\nc2: it's $HOME two  words\n" {
		t.Errorf("run printed %q", got)
	}
	if got := h.tls("run", "c1", "-c", "echo $ANDROID_DATA; hostname"); got != "/data\nc1\n" {
		t.Errorf("run through the tunnel printed %q", got)
	}
	requireContains(t, h.refused(1, "run", "c1", "--", "sh", "-c", "echo seen; exit 3"), "c1: exit code 3")
	requireContains(t, h.refused(1, "run", "c1", "off", "none", "--", "true"), "off: phone off is STOPPED", "phonectl on off", "none: ", "not done in 2 of 3 phones")
	requireContains(t, h.refused(1, "run", "c1", "--limit", "500ms", "--", "sleep", "1000"), "was killed after 500ms", "--limit")
	if out := h.ctl("run", "c1", "--", "ps"); strings.Contains(out, "sleep 1000") {
		t.Errorf("a command outlived its time:\n%s", out)
	}
	requireContains(t, h.refused(1, "run", "c1", "--limit", "2m", "--", "true"), "timeout: 2m0s must be")
	requireContains(t, h.refused(1, "run", "c1", "-c", strings.Repeat("x", 1025)), "command: 1025 bytes must be 1..1024")
	requireContains(t, h.refused(2, "run", "c1"), "needs a command")
	requireContains(t, h.ctl("run", "c1", "--", "seq", "10000"), "1\n2\n3\n", "KiB more]")
}

func testStarted(t *testing.T, h *host) {
	h.ctl("run", "c1", "c2", "--start", "--", "sh", "-c", "echo done in $(hostname)")
	op := strings.TrimSpace(h.ctl("run", "c1", "--no-wait", "--request-id", "one", "-c", "echo to out; echo to err >&2; exit 4"))
	if again := strings.TrimSpace(h.ctl("run", "c1", "--no-wait", "--request-id", "one", "-c", "echo to out; echo to err >&2; exit 4")); again != op {
		t.Errorf("the retry made %s, want %s", again, op)
	}
	requireContains(t, h.refused(1, "ops", "wait", op), "ended with code 4")
	requireContains(t, h.ctl("ops", "show", op), "command", "EXIT_CODE", "exit code 4", "  to out", "  to err")
	requireContains(t, h.refused(1, "run", "off", "--start", "--", "true"), "is STOPPED")
}

func testFiles(t *testing.T, h *host) {
	data := make([]byte, 3<<20+7)
	rand.Read(data)
	from, to := h.path("from"), h.path("to")
	if err := os.WriteFile(from, data, 0o640); err != nil {
		t.Fatal(err)
	}
	h.must(h.remote(t.Context(), "push", from, "c1", "/data/local/tmp/it's a file", "--uid", "1000", "--gid", "1001"))
	if got := h.ctl("exec", "c1", "--", "stat", "-c", "%s %a %u %g", "/data/local/tmp/it's a file"); got != "3145735 640 1000 1001\n" {
		t.Errorf("the phone's file is %q", got)
	}
	h.must(h.remote(t.Context(), "pull", "c1", "/data/local/tmp/it's a file", to))
	back, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d bytes came back, %v", len(back), err)
	}
	requireContains(t, h.refused(1, "pull", "c1", "/proc/version", "-"), "grew while it was read") // its size is said to be 0
	requireContains(t, h.refused(1, "push", from, "c1", "/nowhere/file"), "write /nowhere/file in c1")
	requireContains(t, h.refused(1, "pull", "c1", "/nowhere", "-"), "has no file /nowhere")
	requireContains(t, h.refused(1, "pull", "c1", "/data", "-"), "not a regular file")
	requireContains(t, h.refused(1, "pull", "c1", "/data/local/tmp/it's a file", "--max", "1MiB", "-"), "more than 1048576")
	requireContains(t, h.refused(1, "push", from, "off", "/data/x"), "is STOPPED")
	requireContains(t, h.refused(1, "push", from, "c1", "relative"), "must be an absolute path")
	if got := strings.Fields(h.ctl("exec", "c1", "--", "ls", "/data/local/tmp")); len(got) != 3 {
		t.Errorf("left in the phone: %q", got)
	}
}

// testInterrupted kills the agent under a command and under a copy.
func testInterrupted(t *testing.T, h *host) {
	op := strings.TrimSpace(h.ctl("run", "c1", "--no-wait", "--", "sh", "-c", "sleep 2000 & sleep 2000"))
	sleeping := func() int { return strings.Count(h.ctl("exec", "c1", "--", "ps"), "  sleep 2000") }
	h.waitFor("the command to run", func() bool { return sleeping() == 2 })
	big := h.path("big")
	if err := os.WriteFile(big, make([]byte, 200<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	push := h.command(t.Context(), "push", big, "c2", "/tmp/big") // more than fits, so that it is never done before
	if err := push.Start(); err != nil {
		t.Fatal(err)
	}
	before := h.show("c1").InitPID
	h.killAgent()
	push.Wait()
	h.startAgent()
	requireContains(t, h.refused(1, "ops", "wait", op), "INTERRUPTED")
	if n := sleeping(); n != 0 {
		t.Errorf("%d processes of the interrupted command are left", n)
	}
	if after := h.show("c1").InitPID; after != before {
		t.Errorf("the guest's init was %d and is %d", before, after)
	}
	h.waitFor("the guest to clear up", func() bool { return !strings.Contains(h.ctl("exec", "c2", "--", "ls", "/tmp"), "phonehost") })
}

// testGuestEnded powers a phone off under a command of an operation and one that is waited for.
func testGuestEnded(t *testing.T, h *host) {
	op := strings.TrimSpace(h.ctl("run", "c2", "--no-wait", "--", "sleep", "3000"))
	waited := h.command(t.Context(), "run", "c2", "--limit", "1m", "--", "sleep", "3000")
	var said bytes.Buffer
	waited.Stderr = &said
	if err := waited.Start(); err != nil {
		t.Fatal(err)
	}
	h.waitFor("both to run", func() bool { return strings.Count(h.ctl("exec", "c2", "--", "ps"), "  sleep 3000") == 2 })
	h.ctl("off", "--force", "c2")
	if err := waited.Wait(); err == nil {
		t.Error("a command that the guest's end ended succeeded")
	}
	requireContains(t, said.String(), "the guest of c2 ended meanwhile")
	requireContains(t, h.refused(1, "ops", "wait", op), "GUEST_ENDED")
	if diff := cmp.Diff("PHONE_STATUS_POWERED_OFF", h.show("c2").Status); diff != "" {
		t.Error(diff)
	}
}
