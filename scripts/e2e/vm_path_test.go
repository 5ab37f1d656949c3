package e2e

import (
	"bytes"
	"image"
	"math"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
	"github.com/phonehost/phonehost/scripts/testphone/barcode"
)

// The screen of the phones in machines: small, as each pixel is converted and encoded by an emulated processor.
const vmWidth, vmHeight = 360, 640

// TestVMWholePath takes a phone through its life on a Debian machine with cgroup v2 alone: it is made, powered on, watched and touched
// through the tunnel by this side; the agent is restarted and killed under it; the machine boots anew and the phone with it.
func TestVMWholePath(t *testing.T) {
	targets := vm.On("6.12").System().And(vm.On("6.1", "7.3").System().Nightly())
	vm.Each(t, targets, func(t *testing.T, m *vm.Machine) {
		s := newServer(t, m)
		if got := s.run("stat -f -c %%T /sys/fs/cgroup"); got != "cgroup2fs" {
			t.Fatalf("/sys/fs/cgroup is %s, want cgroup2fs", got)
		}
		s.create("p1", "--display", "360x640@30", "--label", "user=e2e")
		t.Run("recording", func(t *testing.T) { s.in(t).testRecording(t) })
		t.Run("tap", func(t *testing.T) { s.in(t).testTap(t) })
		t.Run("screenshot", func(t *testing.T) { s.in(t).testScreenshot(t) })
		t.Run("restart of the agent", func(t *testing.T) { s.in(t).testAgentRestart(t) })
		t.Run("reboot of the machine", func(t *testing.T) { s.in(t).testReboot(t) })
		s.ctl("rm", "--force", "p1")
		s.nothingLeft("p1")
	}, onServer()...)
}

// record records the phone through the tunnel and returns the decoded pictures, the guest's frames in order.
func (s *server) record(t *testing.T, name, duration string) []barcode.RGB24 {
	t.Helper()
	file := s.path(name)
	r := s.recorded(s.command(t.Context(), "record", "p1", "--duration", duration, "-f", file, "-o", "json"))
	if r.Width != vmWidth || r.Height != vmHeight || r.KeyFrames < 1 {
		t.Errorf("%s: %+v, want %dx%d beginning with a key frame", name, r, vmWidth, vmHeight)
	}
	frames := decode(t, file, vmWidth, vmHeight)
	if len(frames) != r.Frames {
		t.Errorf("%s: %d frames were recorded and %d decoded", name, r.Frames, len(frames))
	}
	increasing(t, name, frames)
	return frames
}

// testRecording asks for moving pictures: how many an emulated processor draws is no question of right or wrong.
func (s *server) testRecording(t *testing.T) {
	for _, name := range []string{"out.h264", "out.mp4"} {
		if frames := s.record(t, name, "8s"); len(frames) < 3 {
			t.Errorf("%s: %d frames in 8 s", name, len(frames))
		}
	}
}

// testTap sends a tap through the tunnel while recording through it, and finds its mark in the decoded pictures.
func (s *server) testTap(t *testing.T) {
	const x, y = 250, 450
	file := s.path("tap.h264")
	rec := s.command(t.Context(), "record", "p1", "--duration", "15s", "-f", file)
	var out bytes.Buffer
	rec.Stdout, rec.Stderr = &out, &out
	if err := rec.Start(); err != nil {
		t.Fatal(err)
	}
	s.waitRecording(file)
	s.ctl("input", "p1", "tap", itoa(x), itoa(y))
	if err := rec.Wait(); err != nil {
		t.Fatalf("record: %v\n%s", err, out.String())
	}
	for _, f := range decode(t, file, vmWidth, vmHeight) {
		for _, m := range barcode.FindMarks(f) {
			if math.Hypot(m.X-x, m.Y-y) < 8 {
				return
			}
		}
	}
	t.Errorf("no picture of %s shows a mark at %d,%d", file, x, y)
}

func (s *server) testScreenshot(t *testing.T) {
	file := s.path("screen.png")
	s.ctl("screenshot", "p1", "-f", file)
	img := readPNG(t, file)
	if img.Bounds().Size() != (image.Point{X: vmWidth, Y: vmHeight}) {
		t.Errorf("the screenshot is %v", img.Bounds())
	}
	if _, err := barcode.Read(img); err != nil {
		t.Errorf("the screenshot's frame number: %v", err)
	}
}

// testAgentRestart restarts the agent's unit, and kills its process, which systemd starts again: guest and display go on.
func (s *server) testAgentRestart(t *testing.T) {
	guest, display := s.taskPID("p1"), s.taskPID("p1.display")
	guestBorn, displayBorn := s.born(guest), s.born(display)
	for _, how := range []string{
		"systemctl restart phonehostd",
		"systemctl kill --signal=KILL phonehostd; until systemctl is-active phonehostd && phonectl ls; do sleep 0.2; done",
	} {
		agent := s.run("systemctl show -p MainPID --value phonehostd")
		s.run("%s", how)
		if now := s.run("systemctl show -p MainPID --value phonehostd"); now == agent {
			t.Errorf("%s: the agent is still process %s", how, agent)
		}
		s.waitStatus("p1", "PHONE_STATUS_RUNNING")
		if s.taskPID("p1") != guest || s.taskPID("p1.display") != display || s.born(guest) != guestBorn || s.born(display) != displayBorn {
			t.Errorf("%s: guest or display was started anew", how)
		}
	}
	if frames := s.record(t, "again.h264", "4s"); len(frames) == 0 {
		t.Error("no frame after the agent's restart")
	}
}

// testReboot boots the machine anew, as an SRE does: the phone that was on comes back with its data, by itself.
func (s *server) testReboot(t *testing.T) {
	s.ctl("exec", "p1", "--", "sh", "-c", "echo kept > /data/kept; sync")
	s.ctl("create", "off1", "--image", "phonehost.dev/testphone:latest", "--memory", "256MiB", "--data", "64MiB")
	boot := s.run("cat /proc/sys/kernel/random/boot_id")
	s.m.Reboot()
	if s.run("cat /proc/sys/kernel/random/boot_id") == boot {
		t.Fatal("the machine did not boot anew")
	}
	s.waitStatus("p1", "PHONE_STATUS_RUNNING")
	if got := s.ctl("exec", "p1", "--", "cat", "/data/kept"); got != "kept\n" {
		t.Errorf("/data/kept holds %q after the machine's reboot", got)
	}
	if p := s.show("off1"); p.Status != "PHONE_STATUS_STOPPED" {
		t.Errorf("a phone that was never on is %s after the machine's reboot", p.Status)
	}
	s.record(t, "rebooted.h264", "4s")
	s.ctl("rm", "off1")
}

// nothingLeft checks that nothing of a deleted phone remains on the machine.
func (s *server) nothingLeft(id string) {
	s.t.Helper()
	for what, command := range map[string]string{
		"containers": "ctr -n phonehost container ls -q", "tasks": "ctr -n phonehost task ls -q", "snapshots": "ctr -n phonehost snapshot ls",
		"loop devices": "losetup -n -l -O BACK-FILE", "mounts": "cat /proc/self/mountinfo",
		"files":   "find /var/lib/phonehost /run/phonehost -path '*/" + id + "*' -o -name " + id,
		"cgroups": "find /sys/fs/cgroup -type d -name " + id,
	} {
		for _, line := range strings.Split(s.run("%s", command), "\n") {
			for _, word := range strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '/' || r == '\t' }) {
				if word == id || strings.HasPrefix(word, id+".") || strings.HasPrefix(word, id+"-") {
					s.t.Errorf("%s still have %q", what, line)
				}
			}
		}
	}
}
