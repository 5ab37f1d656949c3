package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// startTime is when a process started, in clock ticks since boot: with its pid it names the process for good.
func startTime(t *testing.T, pid int) string {
	t.Helper()
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatalf("process %d: %v", pid, err)
	}
	fields := strings.Fields(string(stat)[strings.LastIndexByte(string(stat), ')')+2:])
	return fields[19]
}

// displayPID returns the process id of the phone's display.
func (h *host) displayPID(id string) int {
	h.t.Helper()
	out, err := exec.CommandContext(h.t.Context(), "ctr", "--address", h.containerd.Address, "--namespace", "phonehost", "task", "ls").Output()
	if err != nil {
		h.t.Fatalf("ctr task ls: %v", err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id+".display" {
			pid, err := strconv.Atoi(f[1])
			if err != nil {
				h.t.Fatal(err)
			}
			return pid
		}
	}
	h.t.Fatalf("no task of %s's display in:\n%s", id, out)
	return 0
}

// TestAgentKilled kills the agent while a phone runs and streams: guest and display live on, the next agent takes them over without
// touching them, and a viewer can attach again.
func TestAgentKilled(t *testing.T) {
	h := newHost(t)
	h.create("p1")
	guest, display := h.show("p1").InitPID, h.displayPID("p1")
	guestStart, displayStart := startTime(t, guest), startTime(t, display)

	recording := h.remote(t.Context(), "record", "p1", "--duration", "60s", "-f", h.path("cut.h264"))
	stderr, err := recording.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := recording.Start(); err != nil {
		t.Fatal(err)
	}
	h.waitViewers("p1", 1)
	h.waitRecording(h.path("cut.h264"))
	h.killAgent()
	text := make([]byte, 4096)
	n, _ := stderr.Read(text)
	if err := recording.Wait(); err == nil {
		t.Error("the recording did not notice that the agent is gone")
	} else if n == 0 {
		t.Error("the recording ended without a word")
	}

	h.startAgent()
	p := h.show("p1")
	if p.Status != "PHONE_STATUS_RUNNING" || p.InitPID != guest || h.displayPID("p1") != display {
		t.Errorf("after the agent's restart the phone is %+v with display %d, want RUNNING with init %d and display %d", p, h.displayPID("p1"), guest, display)
	}
	if startTime(t, guest) != guestStart || startTime(t, display) != displayStart {
		t.Error("guest or display was started anew")
	}
	h.tls("record", "p1", "--duration", "1s", "-f", h.path("again.h264"))
	if frames := decode(t, h.path("again.h264"), 720, 1280); len(frames) < 10 {
		t.Errorf("%d frames in a second after the restart", len(frames))
	}
}

// TestContainerdKilled kills containerd: the phone goes on, its status is UNKNOWN, and comes back by itself.
func TestContainerdKilled(t *testing.T) {
	h := newHost(t)
	h.create("p1")
	guest := h.show("p1").InitPID
	guestStart := startTime(t, guest)

	h.containerd.Kill()
	h.waitStatus("p1", "PHONE_STATUS_UNKNOWN")
	if startTime(t, guest) != guestStart {
		t.Error("the guest did not outlive containerd")
	}
	if text := h.refused(1, "on", "p1"); !strings.Contains(text, "containerd") {
		t.Errorf("power on without containerd says %q, want it to name containerd", text)
	}
	h.tls("record", "p1", "--duration", "1s", "-f", h.path("without.h264"))

	h.containerd.Restart()
	h.waitStatus("p1", "PHONE_STATUS_RUNNING")
	if p := h.show("p1"); p.InitPID != guest {
		t.Errorf("init is %d after containerd's restart, want %d", p.InitPID, guest)
	}
	h.ctl("off", "p1")
	h.ctl("rm", "p1")
}

// TestAgentKilledAnywhere kills the agent again and again in the middle of operations; in the end all is as asked.
func TestAgentKilledAnywhere(t *testing.T) {
	h := newHost(t)
	h.ctl("create", "p1", "--image", "phonehost.dev/testphone:latest", "--memory", "256MiB", "--data", "128MiB")
	for i, delay := range []time.Duration{10, 60, 120, 200, 350} {
		h.ctl("on", "--no-wait", "p1")
		timer := time.NewTimer(delay * time.Millisecond)
		<-timer.C
		h.killAgent()
		h.startAgent()
		h.waitStatus("p1", "PHONE_STATUS_RUNNING")
		if i%2 == 0 {
			h.ctl("off", "--force", "--no-wait", "p1")
		} else {
			h.ctl("off", "--no-wait", "p1")
		}
		timer.Reset(delay * time.Millisecond)
		<-timer.C
		h.killAgent()
		h.startAgent()
		h.waitStatus("p1", "PHONE_STATUS_POWERED_OFF")
	}
	h.ctl("rm", "p1")
	h.nothingLeft("p1")
}

// nothingLeft checks that nothing of a deleted phone remains on the host.
func (h *host) nothingLeft(id string) {
	h.t.Helper()
	for _, what := range [][]string{{"container", "ls", "-q"}, {"task", "ls", "-q"}, {"snapshot", "ls"}} {
		out, err := exec.CommandContext(h.t.Context(), "ctr", append([]string{"--address", h.containerd.Address, "--namespace", "phonehost"}, what...)...).Output()
		if err != nil {
			h.t.Fatalf("ctr %v: %v", what, err)
		}
		for _, line := range strings.Split(string(out), "\n") {
			if f := strings.Fields(line); len(f) > 0 && (f[0] == id || strings.HasPrefix(f[0], id+".") || strings.HasPrefix(f[0], id+"-")) {
				h.t.Errorf("ctr %v still lists %q", what, line)
			}
		}
	}
	for _, dir := range []string{h.path("state", "phones", id), h.path("run", "phones", id), h.path("run", "netns", id)} {
		if _, err := os.Lstat(dir); !os.IsNotExist(err) {
			h.t.Errorf("%s is still there (%v)", dir, err)
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*" + h.cgroupRoot() + "/" + id)
	if err != nil || len(groups) > 0 {
		h.t.Errorf("cgroups are still there: %v %v", groups, err)
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, file := range loops {
		if backing, _ := os.ReadFile(file); strings.Contains(string(backing), h.path("state", "phones", id)) {
			h.t.Errorf("%s still holds %s", file, backing)
		}
	}
}
