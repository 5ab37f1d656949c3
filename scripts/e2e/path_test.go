package e2e

import (
	"bytes"
	"image"
	"image/png"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testphone/barcode"
)

// TestWholePath creates a phone, powers it on, records it through the tunnel in both containers, joins late, touches it, resets it
// and deletes it.
func TestWholePath(t *testing.T) {
	h := newHost(t)
	h.create("p1", "--display", "720x1280@30", "--label", "user=e2e")
	t.Run("recording", func(t *testing.T) { testRecording(t, h.in(t)) })
	t.Run("late viewer", func(t *testing.T) { testLateViewer(t, h.in(t)) })
	t.Run("tap", func(t *testing.T) { testTap(t, h.in(t)) })
	t.Run("screenshot", func(t *testing.T) { testScreenshot(t, h.in(t)) })
	t.Run("exec", func(t *testing.T) { testExec(t, h.in(t)) })
	t.Run("restart", func(t *testing.T) { testRestart(t, h.in(t)) })
	t.Run("reset", func(t *testing.T) { testReset(t, h.in(t)) })
	t.Run("guest power", func(t *testing.T) { testGuestPower(t, h.in(t)) })
	t.Run("grpcurl", func(t *testing.T) { testGrpcurl(t, h.in(t)) })
	t.Run("metrics", func(t *testing.T) { testMetrics(t, h.in(t)) })
	h.ctl("rm", "--force", "p1")
	h.nothingLeft("p1")
}

func testRecording(t *testing.T, h *host) {
	for _, name := range []string{"out.h264", "out.mp4"} {
		file := h.path(name)
		r := h.recorded(h.remote(t.Context(), "record", "p1", "--duration", "3s", "-f", file, "-o", "json"))
		// How many frames a busy machine draws and encodes is no question of right or wrong; that there are never more is.
		if r.Width != 720 || r.Height != 1280 || r.KeyFrames < 1 || r.Frames < 10 || r.Frames > 3*30+5 || r.BitrateKbps > 4000*1.25 {
			t.Errorf("%s: %+v, want 720x1280 with 10 to 95 frames, the first a key frame, at no more than 4 Mbit/s", name, r)
		}
		stream := ffprobe(t, "-select_streams", "v", "-show_entries", "stream=codec_name,width,height,has_b_frames,color_space,color_range", file)
		requireContains(t, stream, "h264", "720", "1280")
		frames := decode(t, file, 720, 1280)
		if len(frames) != r.Frames {
			t.Errorf("%s: %d frames were recorded and %d decoded", name, r.Frames, len(frames))
		}
		increasing(t, name, frames)
	}
	// Every frame stands on a refresh of the screen, so 30/s is the rate that has room for all of them.
	if rate := ffprobe(t, "-select_streams", "v", "-show_entries", "stream=r_frame_rate", h.path("out.mp4")); rate != "30/1" {
		t.Errorf("the recording's rate is %s, want 30/1", rate)
	}
}

// increasing checks that the decoded pictures are the guest's frames in order.
func increasing(t *testing.T, name string, frames []barcode.RGB24) {
	t.Helper()
	last, same := uint32(0), 0
	for i, f := range frames {
		n, err := barcode.Read(f)
		if err != nil {
			t.Errorf("%s: picture %d: %v", name, i, err)
			return
		}
		if n < last {
			t.Errorf("%s: picture %d shows the guest's frame %d after %d", name, i, n, last)
		}
		if n == last {
			same++
		}
		last = n
	}
	if same > len(frames)/4 {
		t.Errorf("%s: %d of %d pictures show a frame that was shown before", name, same, len(frames))
	}
}

// testLateViewer lets a second viewer join a running stream: it decodes from its first packet, and the first goes on.
func testLateViewer(t *testing.T, h *host) {
	first := h.remote(t.Context(), "record", "p1", "--duration", "6s", "-f", h.path("first.h264"), "-o", "json")
	var out bytes.Buffer
	first.Stdout, first.Stderr = &out, &out
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	h.waitViewers("p1", 1)
	h.recorded(h.command(t.Context(), "record", "p1", "--duration", "2s", "-f", h.path("second.h264"), "-o", "json"))
	if err := first.Wait(); err != nil {
		t.Fatalf("the first viewer: %v\n%s", err, out.String())
	}
	increasing(t, "second viewer", decode(t, h.path("second.h264"), 720, 1280))
	increasing(t, "first viewer", decode(t, h.path("first.h264"), 720, 1280))
}

// testTap sends a tap through the tunnel while recording through it, and finds its mark in the decoded pictures.
func testTap(t *testing.T, h *host) {
	const x, y = 500, 900
	file := h.path("tap.h264")
	rec := h.remote(t.Context(), "record", "p1", "--duration", "4s", "-f", file)
	var out bytes.Buffer
	rec.Stdout, rec.Stderr = &out, &out
	if err := rec.Start(); err != nil {
		t.Fatal(err)
	}
	h.waitRecording(file)
	h.tls("input", "p1", "tap", itoa(x), itoa(y))
	if err := rec.Wait(); err != nil {
		t.Fatalf("record: %v\n%s", err, out.String())
	}
	for _, f := range decode(t, file, 720, 1280) {
		for _, m := range barcode.FindMarks(f) {
			if math.Hypot(m.X-x, m.Y-y) < 8 {
				return
			}
		}
	}
	t.Errorf("no picture of %s shows a mark at %d,%d", file, x, y)
}

func testScreenshot(t *testing.T, h *host) {
	file := h.path("screen.png")
	h.tls("screenshot", "p1", "-f", file)
	img := readPNG(t, file)
	if img.Bounds().Size() != (image.Point{X: 720, Y: 1280}) {
		t.Errorf("the screenshot is %v", img.Bounds())
	}
	if _, err := barcode.Read(img); err != nil {
		t.Errorf("the screenshot's frame number: %v", err)
	}
}

func readPNG(t *testing.T, file string) image.Image {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func testExec(t *testing.T, h *host) {
	if got := strings.TrimSpace(h.ctl("exec", "p1", "--", "getprop", "sys.boot_completed")); got != "1" {
		t.Errorf("sys.boot_completed is %q", got)
	}
	cmd := h.command(t.Context(), "exec", "p1", "--", "sh", "-c", "cat; exit 7")
	cmd.Stdin = strings.NewReader("through stdin")
	out, err := cmd.Output()
	if string(out) != "through stdin" || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exec printed %q with exit code %d (%v), want the input back and 7", out, cmd.ProcessState.ExitCode(), err)
	}
	// The guest sees what it should and nothing else.
	for file, want := range map[string]string{"/proc/1/status": "CapBnd"} {
		requireContains(t, h.ctl("exec", "p1", "--", "cat", file), want)
	}
	h.refused(1, "exec", "p1", "--", "sh", "-c", "echo b > /proc/sysrq-trigger")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), "/phones/p1/data") {
		t.Error("the phone's data volume is mounted on the host")
	}
}

func testRestart(t *testing.T, h *host) {
	before, display := h.show("p1"), h.displayPID("p1")
	h.ctl("exec", "p1", "--", "sh", "-c", "echo kept > /data/kept")
	h.ctl("restart", "p1")
	after := h.show("p1")
	if after.Status != "PHONE_STATUS_RUNNING" || after.InitPID == before.InitPID || h.displayPID("p1") != display {
		t.Errorf("restart went from %+v to %+v, display %d to %d: want a new init and the same display", before, after, display, h.displayPID("p1"))
	}
	if got := strings.TrimSpace(h.ctl("exec", "p1", "--", "cat", "/data/kept")); got != "kept" {
		t.Errorf("/data/kept holds %q after the restart", got)
	}
}

func testReset(t *testing.T, h *host) {
	h.ctl("reset", "p1")
	if p := h.show("p1"); p.Status != "PHONE_STATUS_RUNNING" || p.DataGen == "1" {
		t.Errorf("after the reset the phone is %+v", p)
	}
	h.refused(1, "exec", "p1", "--", "cat", "/data/kept")
	images, err := os.ReadDir(h.path("state", "phones", "p1"))
	if err != nil || len(images) != 1 {
		t.Errorf("data images after the reset: %v %v, want one", images, err)
	}
}

// testGuestPower lets the guest reboot itself, and power itself off.
func testGuestPower(t *testing.T, h *host) {
	display := h.displayPID("p1")
	before := h.show("p1").InitPID
	h.command(t.Context(), "exec", "p1", "--", "reboot").Run() // its own exit code does not matter: init takes it down
	h.waitInit("p1", before)
	h.waitStatus("p1", "PHONE_STATUS_RUNNING")
	if h.displayPID("p1") != display {
		t.Error("the guest's reboot took the display down")
	}
	h.command(t.Context(), "exec", "p1", "--", "reboot", "-p").Run()
	h.waitStatus("p1", "PHONE_STATUS_POWERED_OFF")
	requireContains(t, h.refused(1, "screenshot", "p1", "-f", h.path("x.png")), "phonectl on p1")
	h.ctl("on", "p1")
}

// testGrpcurl speaks to the Unix socket as a stranger with reflection would.
func testGrpcurl(t *testing.T, h *host) {
	grpcurl := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"tool", "-modfile=scripts/tools/go.mod", "grpcurl", "-plaintext", "-unix"}, args...)...)
		cmd.Dir = "../.."
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("grpcurl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	requireContains(t, grpcurl(h.socket(), "list"), "phonehost.v1.HostService", "phonehost.v1.PhoneService", "phonehost.v1.StreamService",
		"phonehost.v1.OperationService", "phonehost.v1.ImageService", "phonehost.v1.EventService", "grpc.health.v1.Health")
	requireContains(t, grpcurl(h.socket(), "grpc.health.v1.Health/Check"), "SERVING")
	h.ctl("off", "p1")
	grpcurl("-d", `{"phone_ids":["p1"]}`, h.socket(), "phonehost.v1.PhoneService/PowerOn")
	h.waitStatus("p1", "PHONE_STATUS_RUNNING")
}

func testMetrics(t *testing.T, h *host) {
	out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "curl"), "-sS", "--unix-socket", h.path("run", "metrics.sock"), "http://localhost/metrics").Output()
	if err != nil {
		t.Fatal(err)
	}
	requireContains(t, string(out), "phonehost_phones", "go_goroutines")
	requireContains(t, h.ctl("doctor", "-o", "json"), "findings")
	requireContains(t, h.ctl("events", "-o", "json"), "EVENT_KIND_GUEST_BOOTED", "EVENT_KIND_VIEWER_ATTACHED")
}
