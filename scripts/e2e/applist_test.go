package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// enforcement is what the host's kernel refuses, as `phonectl applist ls -o json` has it.
type enforcement struct {
	Tier                     string
	Install, Launch, Network bool
}

func (d *door) enforcement() enforcement {
	d.t.Helper()
	var answer struct{ Enforcement enforcement }
	if err := json.Unmarshal([]byte(d.ctl("applist", "ls", "-o", "json")), &answer); err != nil {
		d.t.Fatal(err)
	}
	return answer.Enforcement
}

// tries has the app of a phone connect, and returns what came of it: the kernel may have ended the app.
func (d *door) tries(id string) string {
	d.t.Helper()
	out, _ := d.command(d.t.Context(), "run", id, "--", "am", "broadcast", "-n", "com.example.net/.Net", "--es", "url", "tcp://"+server4+":80", "--ei", "timeout", "5000").CombinedOutput()
	return string(out)
}

// release is what a guest does that does not obey: when it was told that the app is denied, its package manager lets it run again, as often as it is
// told. It returns what came of the app's try.
func (d *door) release(id string) (out string) {
	d.t.Helper()
	const unreceived = "result=0\n" // what suspended apps do
	d.waitFor("the guest's package manager being told", func() bool { return strings.Contains(d.tries(id), unreceived) })
	d.waitFor("the app that is let run", func() bool {
		d.ctl("exec", id, "--", "pm", "unsuspend", "--user", "0", "com.example.net")
		out = d.tries(id)
		return !strings.Contains(out, unreceived)
	})
	return out
}

// testDenied has the app run in a guest that does not obey, and wants it refused what this kernel refuses.
func (d *door) testDenied(id string, kernel enforcement) {
	d.t.Helper()
	if out := d.release(id); strings.Contains(out, "connected to") {
		d.t.Errorf("a denied app reaches the server: %s", out)
	}
	if runs := strings.Contains(d.ctl("exec", id, "--", "ps"), "com.example.net"); runs == kernel.Launch {
		d.t.Errorf("the kernel refuses %+v; the denied app runs: %t", kernel, runs)
	}
}

// denied adds up the refusals of one kind that phonectl tells of the app.
func (d *door) denied(id, kind string) (count int) {
	d.t.Helper()
	for line := range strings.Lines(d.ctl("applist", "denials", id)) {
		fields := strings.Fields(line)
		if n := len(fields); n > 4 && slices.Contains(fields, kind) && slices.Contains(fields, "com.example.net") {
			some, err := strconv.Atoi(fields[n-1])
			if err != nil {
				d.t.Fatalf("a denial without a count: %q", line)
			}
			count += some
		}
	}
	return count
}

// TestAppList denies an app that is installed and runs: its network, as every kernel can, in a guest that has it run all the same, also while there
// is no agent. What more this host's kernel refuses it must say, and where that is not all, a strict list must be refused.
func TestAppList(t *testing.T) {
	h, _ := newNetHost(t)
	kernel := h.enforcement()
	if !kernel.Network || kernel.Tier == "" {
		t.Fatalf("this kernel refuses %+v, want the network at least:\n%s", kernel, h.tail())
	}
	kind := "network"
	if kernel.Launch {
		kind = "launch"
	}
	h.create("p1")
	h.installNet("p1")
	if !h.connects("p1", server4+":80", "20000") {
		t.Fatal("the app does not reach the server before any list")
	}
	h.ctl("applist", "put", "games", "--deny", "com.example.net", "com.example.ads.*")
	h.ctl("applist", "check", "p1", "com.example.net")
	h.ctl("applist", "assign", "games", "p1")
	h.testDenied("p1", kernel)
	h.waitFor("the denials", func() bool { return h.denied("p1", kind) > 0 })
	requireContains(t, h.ctl("show", "p1"), "games", "1 app denied")

	told := h.denied("p1", kind)
	h.killAgent()
	if out := h.triesAlone("p1", "alone"); strings.Contains(out, "connected to") {
		t.Errorf("a denied app reaches the server while there is no agent: %s", out)
	}
	h.startAgent()
	h.waitFor("the denials of the time without an agent", func() bool { return h.denied("p1", kind) > told })
	if now := h.enforcement(); now != kernel {
		t.Errorf("after the agent's death the kernel refuses %+v, before %+v", now, kernel)
	}
	h.testDenied("p1", kernel)
	var refused *exec.ExitError
	verdict, err := h.command(t.Context(), "applist", "check", "p1", "com.example.net").Output()
	if requireContains(t, string(verdict), "games", "denied"); !errors.As(err, &refused) || refused.ExitCode() != 1 {
		t.Errorf("applist check of a denied app ended with %v", err)
	}
	h.testStrict("p1", kernel)

	h.ctl("applist", "unassign", "p1")
	h.ctl("applist", "check", "p1", "com.example.net")
	h.waitFor("the app being allowed by the guest too", func() bool { return strings.Contains(h.tries("p1"), "connected to") })

	// A list that allows others denies it, and leaves what came with the image.
	h.ctl("applist", "put", "work", "--allow", "com.example.other")
	h.ctl("applist", "assign", "work", "p1")
	h.testDenied("p1", kernel)
	requireContains(t, h.ctl("applist", "check", "p1", "com.android.systemui"), "preinstalled")
	requireContains(t, h.ctl("exec", "p1", "--", "ps"), "com.android.systemui")
	h.ctl("applist", "add", "work", "com.example.net")
	h.waitFor("the app being allowed by the guest too", func() bool { return strings.Contains(h.tries("p1"), "connected to") })
}

// TestAppListFirstBoot boots a phone for the first time on a list that allows nothing, and kills the agent meanwhile: launcher and system UI, which are
// the image's, run and go on running, and what is installed then is denied. The image was read once, by the agent that died.
func TestAppListFirstBoot(t *testing.T) {
	h, _ := newNetHost(t)
	kernel := h.enforcement()
	h.ctl("applist", "put", "work", "--allow")
	h.ctl("create", "p1", "--image", "phonehost.dev/testphone:latest", "--memory", "256MiB", "--data", "128MiB", "--app-list", "work",
		"--property", "debug.testphone.boot=3s")
	h.ctl("on", "p1", "--no-wait")
	h.waitFor("the guest's first process", func() bool { return h.show("p1").InitPID != 0 })
	p := h.show("p1")
	guest, early := p.InitPID, p.Status == "PHONE_STATUS_STARTING"
	h.killAgent()
	h.startAgent()
	h.waitStatus("p1", "PHONE_STATUS_RUNNING")
	if now := h.show("p1").InitPID; now != guest || !early {
		t.Errorf("the agent was killed while the phone booted: %t; the guest's init was %d and is %d", early, guest, now)
	}
	h.waitFor("the image's apps", func() bool {
		ps := h.ctl("exec", "p1", "--", "ps")
		return strings.Contains(ps, "com.android.systemui") && strings.Contains(ps, "com.android.launcher3")
	})
	for _, pkg := range []string{"com.android.systemui", "com.android.launcher3", "com.android.settings"} {
		requireContains(t, h.ctl("applist", "check", "p1", pkg), "preinstalled")
	}
	log, err := os.ReadFile(h.path("agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), "packages of an image read"); n != 1 {
		t.Errorf("the image was read %d times", n)
	}

	if kernel.Install {
		h.refused(1, "app", "install", netAPK(t, h.path("net.apk")), "p1")
		return
	}
	h.installNet("p1")
	h.testDenied("p1", kernel)
	ps := h.ctl("exec", "p1", "--", "ps")
	requireContains(t, ps, "com.android.systemui", "com.android.launcher3")
	if shown := h.ctl("show", "p1"); strings.Contains(shown, "not known") {
		t.Errorf("the image was read, and the phone says otherwise:\n%s", shown)
	}
}

// triesAlone has the app connect while there is no agent.
func (h *host) triesAlone(id, name string) string {
	h.t.Helper()
	args := []string{"--address", h.containerd.Address, "--namespace", "phonehost", "task", "exec", "--exec-id", name, id, "am", "broadcast", "-n", "com.example.net/.Net", "--es", "url", "tcp://" + server4 + ":80", "--ei", "timeout", "5000"}
	out, err := exec.CommandContext(h.t.Context(), "ctr", args...).CombinedOutput()
	// A launch that is refused is a broadcast that fails; that it was made at all the denials tell.
	if failed := new(exec.ExitError); err != nil && !errors.As(err, &failed) {
		h.t.Fatalf("ctr %v: %v", args, err)
	}
	return string(out)
}

// testStrict wants strict lists where the kernel refuses all, and else that they are refused and the host says why.
func (d *door) testStrict(id string, kernel enforcement) {
	d.t.Helper()
	whole := kernel.Install && kernel.Launch && kernel.Network
	findings, err := d.command(d.t.Context(), "doctor").Output()
	if failed := new(exec.ExitError); err != nil && !errors.As(err, &failed) {
		d.t.Fatalf("doctor: %v", err)
	}
	doctor := string(findings)
	if whole {
		d.ctl("applist", "put", "strict", "--deny", "com.example.other", "--strict")
		d.ctl("applist", "assign", "strict", id, "--move")
		d.ctl("applist", "assign", "games", id, "--move")
		requireContains(d.t, doctor, "apps that a list denies cannot be installed")
		return
	}
	requireContains(d.t, doctor, "lists of apps are not enforced in full", "tier "+kernel.Tier, "bpf in its lsm= option")
	requireContains(d.t, d.ctl("host"), "app-lists-not-enforced")
	requireContains(d.t, d.refused(1, "applist", "put", "strict", "--deny", "com.example.other", "--strict"), "is strict", "tier "+kernel.Tier, "does not refuse")
}
