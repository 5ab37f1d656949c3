package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/cli/render"
	"github.com/phonehost/phonehost/encoder/h264"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// x264 returns access units that the real x264 has made, set up as phone-display sets it up.
func x264(t *testing.T, frames int) [][]byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=240x320:rate=30",
		"-frames:v", strconv.Itoa(frames), "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency",
		"-threads", "1", "-bsf:v", "h264_metadata=aud=insert", "-x264-params", "keyint=infinite:repeat-headers=1", "-f", "h264", "-")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("make a stream: %v", err)
	}
	var units [][]byte
	for nal := range h264.Split(out) {
		if nal.Type() == h264.AUD {
			units = append(units, nil)
		}
		last := len(units) - 1
		units[last] = append(append(units[last], 0, 0, 0, 1), nal...)
	}
	if len(units) != frames {
		t.Fatalf("the stream has %d access units, want %d", len(units), frames)
	}
	return units
}

// decodes decodes a file, which must be without fault, and returns the number of its pictures.
func decodes(t *testing.T, name string) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "ffmpeg"), "-v", "warning", "-xerror", "-err_detect", "explode", "-i", name,
		"-fps_mode", "passthrough", "-f", "framemd5", "-")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("decode %s: %v\n%s", name, err, &stderr)
	}
	pictures := 0
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "#") {
			pictures++
		}
	}
	return pictures
}

func TestRecord(t *testing.T) {
	units := x264(t, 60)
	for _, name := range []string{"out.mp4", "out.h264", "-"} {
		t.Run(name, func(t *testing.T) {
			agent := withPhone(t)
			agent.streams.video = units
			dir := t.TempDir()
			file := name
			if name != "-" {
				file = filepath.Join(dir, name)
			}
			r := runWith(t.Context(), agent, nil, "record", "cp-1", "-f", file, "--frames", "60", "-o", "json")
			if r.code != exitDone {
				t.Fatalf("%+v", r)
			}
			summary := r.stdout
			if name == "-" {
				file = filepath.Join(dir, "piped.h264")
				if err := os.WriteFile(file, []byte(r.stdout), 0o644); err != nil {
					t.Fatal(err)
				}
				_, summary, _ = strings.Cut(r.stderr, "\n") // the first line says what is being recorded
			}
			var got render.Recording
			if err := json.Unmarshal([]byte(summary), &got); err != nil {
				t.Fatalf("summary %q: %v", summary, err)
			}
			if q := got.CommitToEncoded; q == nil || q.P50 != 3 || q.P99 != 3 || q.Samples != 59 {
				t.Errorf("commit to encoded: %+v, want 3 ms of 59 frames", q)
			}
			if q := got.Encoding; q == nil || q.P50 != 2 || q.Max != 2 {
				t.Errorf("encoding: %+v, want 2 ms", q)
			}
			if v, w := got.CommitToViewer, got.CommitToViewerWithoutEncoding; v == nil || w == nil || v.P50 < 3 || v.Max-w.Max < 1.999 || v.P99 < v.P50 || v.Max < v.P99 {
				t.Errorf("commit to viewer: %+v and without encoding %+v", v, w)
			}
			want := render.Recording{Phone: "cp-1", File: file, Format: "h264", Encoder: "libx264", Width: 240, Height: 320, Frames: 60, KeyFrames: 1,
				Bytes: uint64(len(bytes.Join(units, nil)))}
			switch name {
			case "out.mp4":
				want.Format = "mp4"
			case "-":
				want.File = "-"
			}
			got.Seconds, got.FramesPerSecond, got.BitrateKbps = 0, 0, 0
			got.CommitToEncoded, got.Encoding, got.CommitToViewer, got.CommitToViewerWithoutEncoding = nil, nil, nil, nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("summary (-want +got):\n%s", diff)
			}
			if got := decodes(t, file); got != 60 {
				t.Errorf("%d pictures decoded, want 60", got)
			}
		})
	}
}

func TestRecordUntilItsTime(t *testing.T) {
	agent := withPhone(t)
	agent.streams.video = x264(t, 20) // and then the screen stands still
	file := filepath.Join(t.TempDir(), "out.mp4")
	r := runWith(t.Context(), agent, nil, "record", "cp-1", "-f", file, "--duration", "500ms")
	if r.code != exitDone || !strings.Contains(r.stdout, "frames") {
		t.Fatalf("%+v", r)
	}
	out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "ffprobe"), "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	// The last picture stands until the end; how long before it the first one came is the machine's affair.
	seconds, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil || seconds <= 0 {
		t.Errorf("duration %s, want more than 0: %v", out, err)
	}
}

func TestRecordGoesOnWhenTheDisplayIsBack(t *testing.T) {
	agent := withPhone(t)
	units := x264(t, 20)
	agent.streams.video, agent.streams.lose = append(units, x264(t, 20)...), 20
	file := filepath.Join(t.TempDir(), "out.mp4")
	r := runWith(t.Context(), agent, nil, "record", "cp-1", "-f", file, "--frames", "40")
	if r.code != exitDone || !strings.Contains(r.stderr, "the display is lost: it exited with 139") || !strings.Contains(r.stdout, "display lost") {
		t.Fatalf("%+v", r)
	}
	if got := decodes(t, file); got != 40 {
		t.Errorf("%d pictures decoded, want 40", got)
	}
}

func TestRecordOfNothingIsNoRecording(t *testing.T) {
	agent := withPhone(t)
	file := filepath.Join(t.TempDir(), "out.mp4")
	r := runWith(t.Context(), agent, nil, "record", "cp-1", "-f", file, "--duration", "10ms")
	if r.code != exitFailed || !strings.Contains(r.stderr, "no frame came") || !strings.Contains(r.stderr, "phonectl logs cp-1") {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty file is still there: %v", err)
	}
}
