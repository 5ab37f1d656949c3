package paint

import (
	"bytes"
	"fmt"
	"math"
	"os/exec"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testphone/barcode"
)

// TestReadableAfterEncoding encodes frames at a low rate, decodes them at two sizes, and reads numbers and marks from the result.
func TestReadableAfterEncoding(t *testing.T) {
	ffmpeg := testenv.Tool(t, "ffmpeg")
	const frames = 20
	for _, scene := range []string{"motion", "scroll", "typing"} {
		p := painter(t, 720, 1280, scene)
		var raw []byte
		for i := range frames {
			now := start.Add(time.Duration(i) * frameTime)
			if i == 5 {
				for id := range barcode.Fingers {
					p.Press(id, 100+float64(id%5)*120, 500+float64(id/5)*300)
				}
			}
			p.Frame(now)
			for _, pix := range p.Canvas().Pix {
				raw = append(raw, byte(pix), byte(pix>>8), byte(pix>>16), 0)
			}
		}
		h264 := convert(t, ffmpeg, raw, "-f", "rawvideo", "-pix_fmt", "bgr0", "-s", "720x1280", "-r", "30", "-i", "-",
			"-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-b:v", "1M", "-maxrate", "1M", "-bufsize", "200k",
			"-pix_fmt", "yuv420p", "-f", "h264", "-")
		for _, scale := range []float64{1, 0.75} {
			w, h := int(720*scale), int(1280*scale)
			video := convert(t, ffmpeg, h264, "-f", "h264", "-i", "-", "-s", fmt.Sprintf("%dx%d", w, h), "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
			list, err := barcode.Frames(video, w, h)
			if err != nil || len(list) != frames {
				t.Fatalf("%s: %d frames, %v", scene, len(list), err)
			}
			for i, img := range list {
				if n, err := barcode.Read(img); n != uint32(i+1) || err != nil {
					t.Errorf("%s, scale %g, frame %d: number %d, %v", scene, scale, i, n, err)
				}
			}
			marks := barcode.FindMarks(list[frames-1])
			if len(marks) != barcode.Fingers {
				t.Errorf("%s, scale %g: %d marks: %+v", scene, scale, len(marks), marks)
				continue
			}
			for id, m := range marks {
				x, y := scale*(100+float64(id%5)*120), scale*(500+float64(id/5)*300)
				if m.ID != id || math.Hypot(m.X-x, m.Y-y) > 5 {
					t.Errorf("%s, scale %g: mark %+v, want %d at %g,%g", scene, scale, m, id, x, y)
				}
			}
			if early := barcode.FindMarks(list[0]); len(early) != 0 {
				t.Errorf("%s, scale %g: marks before any finger: %+v", scene, scale, early)
			}
		}
	}
}

func convert(t *testing.T, ffmpeg string, input []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), ffmpeg, append([]string{"-v", "error", "-threads", "1"}, args...)...)
	var messages bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &messages
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ffmpeg %v: %v: %s", args, err, messages.Bytes())
	}
	return out
}
