package e2e

import (
	"image"
	"image/color"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv"

	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// page is what the browser shows: areas of known colour, a gradient and text.
const page = `<!doctype html><meta charset="utf-8"><title>phone</title>
<body style="margin:0;background:#2060c0;color:white;font:48px sans-serif">
<div style="height:300px;background:linear-gradient(90deg,#f00,#ff0,#0f0)"></div>
<p style="margin:40px">A page on the phone's screen.</p>
<div style="width:300px;height:200px;margin:40px;background:#e0a030"></div>`

// TestRealClients puts Debian's Wayland clients in the guest's place: each appears in a screenshot and in the decoded stream, and the
// two agree.
func TestRealClients(t *testing.T) {
	for _, tt := range []struct {
		name    string
		globals string
		args    func(t *testing.T) []string
		input   []*displayv1.InputEvent // sent once the window is there
		shows   func(image.Image) bool
	}{
		{
			name:  "weston-simple-shm",
			args:  func(t *testing.T) []string { return []string{testenv.Tool(t, "weston-simple-shm")} },
			shows: func(img image.Image) bool { return shades(img) > 100 },
		},
		{
			name:  "weston-simple-touch",
			args:  func(t *testing.T) []string { return []string{testenv.Tool(t, "weston-simple-touch")} },
			input: stroke(),
			shows: func(img image.Image) bool { return shades(img) >= 3 }, // the screen, the window, and the line in it
		},
		{
			name:    "weston-terminal",
			globals: "wl_subcompositor,wl_data_device_manager",
			args:    func(t *testing.T) []string { return []string{testenv.Tool(t, "weston-terminal"), "--shell=/bin/sh"} },
			input:   []*displayv1.InputEvent{{Event: &displayv1.InputEvent_Text{Text: "echo Typed on the phone: {1..9} | tr a-z A-Z\n"}}},
			shows:   func(img image.Image) bool { return bright(img) > 700 }, // the prompt and its cursor alone are below 200
		},
		{
			name:    "chromium",
			globals: "wl_subcompositor,wp_viewporter,wl_data_device_manager",
			args: func(t *testing.T) []string {
				file := filepath.Join(t.TempDir(), "page.html")
				if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
					t.Fatal(err)
				}
				return []string{testenv.Tool(t, "chromium"), "--ozone-platform=wayland", "--no-sandbox", "--disable-gpu", "--disable-quic",
					"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--kiosk",
					"--user-data-dir=" + t.TempDir(), "file://" + file}
			},
			shows: func(img image.Image) bool {
				return near(img.At(600, 1000), color.RGBA{0x20, 0x60, 0xc0, 255}) && near(img.At(100, 600), color.RGBA{0xe0, 0xa0, 0x30, 255})
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := tt.args(t)
			s := newScreen(t, tt.globals)
			guest := s.guest(args[0], args[1:]...)
			if tt.input != nil {
				s.until("a window", func(img image.Image) bool { return shades(img) >= 2 })
				if err := s.conn.Input(t.Context(), tt.input...); err != nil {
					t.Fatal(err)
				}
			}
			s.until("what "+tt.name+" draws", tt.shows)
			// The guest's clock stops, so that the newest frame is the same for the stream and the screenshot.
			if err := syscall.Kill(-guest.Pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			s.settle()
			shot := s.shot()
			s.keep(shot, "screenshot.png")
			frames := decode(t, s.file("stream.h264"), s.width, s.height)
			last := frames[len(frames)-1]
			s.keep(last, "decoded.png")
			if got := ssim(t, last, shot); got < 0.95 {
				t.Errorf("the decoded picture is %.4f alike to the screenshot (SSIM), want 0.95", got)
			}
		})
	}
}

// stroke is a finger that draws a line in the middle of the screen.
func stroke() []*displayv1.InputEvent {
	touch := func(action displayv1.TouchAction, x, y float64) *displayv1.InputEvent {
		return &displayv1.InputEvent{Event: &displayv1.InputEvent_Touch{Touch: &displayv1.Touch{Id: 0, Action: action, X: x, Y: y}}}
	}
	events := []*displayv1.InputEvent{touch(displayv1.TouchAction_TOUCH_ACTION_DOWN, 200, 500)}
	for i := range 50 {
		events = append(events, touch(displayv1.TouchAction_TOUCH_ACTION_MOVE, 200+float64(i)*6, 500+float64(i)*5))
	}
	return append(events, touch(displayv1.TouchAction_TOUCH_ACTION_UP, 0, 0))
}

// bright counts the pixels that are more white than black.
func bright(img image.Image) int {
	n := 0
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			if r, g, b, _ := img.At(x, y).RGBA(); r+g+b > 3*0x8000 {
				n++
			}
		}
	}
	return n
}

// shades counts the colours of a picture.
func shades(img image.Image) int {
	seen := map[color.Color]bool{}
	b := img.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y += 2 {
		for x := b.Min.X; x < b.Max.X; x += 2 {
			seen[img.At(x, y)] = true
		}
	}
	return len(seen)
}

func near(c color.Color, want color.RGBA) bool {
	r, g, b, _ := c.RGBA()
	diff := func(a uint32, b uint8) bool { d := int(a>>8) - int(b); return d > -6 && d < 6 }
	return diff(r, want.R) && diff(g, want.G) && diff(b, want.B)
}

var ssimAll = regexp.MustCompile(`All:([0-9.]+)`)

// ssim compares two pictures with ffmpeg's structural similarity.
func ssim(t *testing.T, a, b image.Image) float64 {
	t.Helper()
	dir := t.TempDir()
	writePNG(t, filepath.Join(dir, "a.png"), a)
	writePNG(t, filepath.Join(dir, "b.png"), b)
	out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "ffmpeg"), "-v", "info", "-i", filepath.Join(dir, "a.png"), "-i", filepath.Join(dir, "b.png"),
		"-lavfi", "[0]format=yuv420p[x];[1]format=yuv420p[y];[x][y]ssim", "-f", "null", "-").CombinedOutput()
	m := ssimAll.FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("ffmpeg ssim: %v\n%s", err, out)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
