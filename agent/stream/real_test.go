package stream_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/stream"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// Size of the real display.
const width, height = 480, 640

// real is a phone with the real phone-display and real Wayland clients as its guests.
type real struct {
	t        *testing.T
	dir      string
	displays *display.Registry
	hub      *stream.Hub
	display  *exec.Cmd
}

// CheckOn makes real the hub's Phones: its one phone is on.
func (*real) CheckOn(string) error { return nil }

func newReal(t *testing.T) *real {
	t.Helper()
	r := &real{t: t, dir: t.TempDir()}
	for _, name := range []string{"wayland", "display"} {
		if err := os.MkdirAll(filepath.Join(r.dir, "p1", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if r.displays, err = display.NewRegistry(display.Config{Dir: r.dir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.displays.Shutdown)
	if r.hub, err = stream.NewHub(stream.Config{Displays: r.displays, Phones: r, AttachTimeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.hub.Shutdown)
	r.start()
	return r
}

// start starts phone-display and waits until it is connected.
func (r *real) start() {
	r.t.Helper()
	r.display = r.run(testenv.Binary(r.t, "encoder/cmd/phone-display"), "--wayland-dir", filepath.Join(r.dir, "p1", "wayland"),
		"--control-dir", filepath.Join(r.dir, "p1", "display"), "--width", fmt.Sprint(width), "--height", fmt.Sprint(height), "--fps", "30")
	if err := r.displays.WaitReady(r.t.Context(), "p1"); err != nil {
		r.t.Fatal(err)
	}
}

// run starts a program, which is killed with the test.
func (r *real) run(name string, args ...string) *exec.Cmd {
	r.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+filepath.Join(r.dir, "p1", "wayland"), "WAYLAND_DISPLAY=wayland-0")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			kill(cmd)
		}
		if r.t.Failed() && output.Len() > 0 {
			r.t.Logf("%s printed:\n%s", filepath.Base(name), &output)
		}
	})
	return cmd
}

// kill ends a program as a crash would.
func kill(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

func (r *real) attach() *stream.Viewer {
	r.t.Helper()
	v, err := r.hub.Attach(r.t.Context(), stream.AttachOptions{Phone: "p1", Identity: "client/a", BitrateKbps: 4000})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { v.Close(nil) })
	return v
}

// next returns the next message, and acknowledges it when it is a packet.
func (r *real) next(v *stream.Viewer) stream.Message {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	m, err := v.Next(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	if m.Packet != nil {
		if err := v.Ack(m.Packet.Seq); err != nil {
			r.t.Fatal(err)
		}
	}
	return m
}

// packets returns the next packets, of which the first must be a key frame, as a byte stream.
func (r *real) packets(v *stream.Viewer, n int) []byte {
	r.t.Helper()
	var all []byte
	for i := range n {
		m := r.next(v)
		p := m.Packet
		if p == nil {
			r.t.Fatalf("message %d is no packet: %+v", i, m)
		}
		if i == 0 && !p.Video.GetKey() {
			r.t.Error("the first packet is no key frame")
		}
		// The first picture of a display that came back may be of a screen on which nothing was drawn yet, which has no commit.
		if c, s, e := p.Video.GetCommitTimeNs(), p.Video.GetEncodeStartTimeNs(), p.Video.GetEncodeEndTimeNs(); c == 0 && i > 0 || s < c || e < s || p.SendTime.UnixNano() < e {
			r.t.Errorf("times of packet %d are out of order: commit %d, encode %d..%d, send %d", i, c, s, e, p.SendTime.UnixNano())
		}
		all = append(all, p.Video.GetData()...)
	}
	return all
}

// decode returns how many frames ffmpeg makes of a byte stream; it must have nothing to complain of.
func (r *real) decode(video []byte) int {
	r.t.Helper()
	cmd := exec.Command(testenv.Tool(r.t, "ffmpeg"), "-hide_banner", "-loglevel", "warning", "-xerror", "-threads", "1",
		"-f", "h264", "-i", "pipe:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "pipe:1")
	cmd.Stdin = bytes.NewReader(video)
	var frames, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &frames, &complaints
	if err := cmd.Run(); err != nil || complaints.Len() > 0 {
		r.t.Errorf("ffmpeg: %v: %s", err, &complaints)
	}
	if frames.Len()%(width*height) != 0 {
		r.t.Errorf("%d bytes are not whole frames of %dx%d", frames.Len(), width, height)
	}
	return frames.Len() / (width * height)
}

func TestRealStream(t *testing.T) {
	client := testenv.Tool(t, "weston-simple-shm")
	r := newReal(t)
	guest := r.run(client)

	first := r.attach()
	if info := first.Info(); info.Width != width || info.Height != height || info.MaxFPS != 30 || info.Encoder == "" {
		t.Errorf("info %+v", info)
	}
	if got := r.decode(r.packets(first, 20)); got != 20 {
		t.Errorf("%d of 20 packets decode", got)
	}
	// A viewer that comes late decodes from its first packet, and the first goes on.
	late := r.attach()
	both := make(chan []byte)
	go func() { both <- r.packets(late, 10) }()
	for range 10 {
		r.next(first)
	}
	if got := r.decode(<-both); got != 10 {
		t.Errorf("%d of 10 packets decode for the late viewer", got)
	}
	late.Close(nil)

	// The display crashes and comes back; the viewer is told, and goes on with a key frame.
	kill(r.display)
	kill(guest)
	for m := r.next(first); m.Lost == nil; m = r.next(first) {
		if m.Packet == nil {
			t.Fatalf("told %+v, want the loss", m)
		}
	}
	r.start()
	r.run(client)
	if m := r.next(first); m.Back == nil || m.Back.Width != width {
		t.Fatalf("told %+v, want the return", m)
	}
	if got := r.decode(r.packets(first, 5)); got != 5 {
		t.Errorf("%d of 5 packets decode after the return", got)
	}
}

// region returns the pixels of a screenshot around a place.
func (r *real) region(at image.Point) string {
	r.t.Helper()
	raw, err := r.hub.Screenshot(r.t.Context(), "p1")
	if err != nil {
		r.t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		r.t.Fatal(err)
	}
	if size := picture.Bounds().Size(); size != image.Pt(width, height) {
		r.t.Errorf("screenshot of %v", size)
	}
	var b strings.Builder
	for y := at.Y - 3; y <= at.Y+3; y++ {
		for x := at.X - 3; x <= at.X+3; x++ {
			red, green, blue, _ := picture.At(x, y).RGBA()
			fmt.Fprintf(&b, "%02x%02x%02x ", red>>8, green>>8, blue>>8)
		}
	}
	return b.String()
}

func TestRealTouch(t *testing.T) {
	client := testenv.Tool(t, "weston-simple-touch")
	r := newReal(t)
	r.run(client)
	v := r.attach()
	r.next(v) // the window is there
	in, err := r.hub.OpenInput(t.Context(), stream.InputOptions{Phone: "p1", Viewer: v.Info().Viewer, Identity: "client/a"})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	at := image.Pt(100, 150)
	before := r.region(at)
	for _, action := range []displayv1.TouchAction{displayv1.TouchAction_TOUCH_ACTION_DOWN, displayv1.TouchAction_TOUCH_ACTION_UP} {
		err := in.Send(t.Context(), &displayv1.InputEvent{Event: &displayv1.InputEvent_Touch{
			Touch: &displayv1.Touch{Action: action, X: float64(at.X), Y: float64(at.Y)},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	// The client paints a mark where it is touched, which makes a new frame.
	for r.region(at) == before {
		if m := r.next(v); m.Packet == nil {
			t.Fatalf("told %+v, want a packet", m)
		}
	}
}

func TestRealDisplayWithoutGuest(t *testing.T) {
	r := newReal(t)
	if s := r.displays.State("p1"); !s.Connected || s.HasContent || s.Width != width || s.Version == "" {
		t.Errorf("state %+v", s)
	}
	if _, err := r.hub.Screenshot(t.Context(), "p1"); fault.Reason(err) != stream.NoScreen {
		t.Errorf("screenshot of nothing: %v", err)
	}
	in, err := r.hub.OpenInput(t.Context(), stream.InputOptions{Phone: "p1"})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	err = in.Send(t.Context(), &displayv1.InputEvent{Event: &displayv1.InputEvent_Touch{
		Touch: &displayv1.Touch{Action: displayv1.TouchAction_TOUCH_ACTION_DOWN, X: 1, Y: 1},
	}})
	if fault.Reason(err) != stream.NoScreen || !errdefs.IsFailedPrecondition(err) {
		t.Errorf("touch without a guest: %v", err)
	}
}
