package mp4

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/encoder/h264"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// x264 returns the access units of a stream that the real x264 has made, as phone-display sets it up.
func x264(t testing.TB, size, profile string, frames int, args ...string) [][]byte {
	t.Helper()
	ffmpeg := testenv.Tool(t, "ffmpeg")
	all := []string{"-v", "error", "-f", "lavfi", "-i", "testsrc2=size=" + size + ":rate=30", "-frames:v", strconv.Itoa(frames),
		"-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-threads", "1",
		"-profile:v", profile, "-bsf:v", "h264_metadata=aud=insert", "-x264-params", "keyint=infinite:repeat-headers=1"}
	all = append(append(all, args...), "-f", "h264", "-")
	out, err := exec.CommandContext(t.Context(), ffmpeg, all...).Output()
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

// mux writes units with the given times into a file and returns its path.
func mux(t *testing.T, units [][]byte, times []time.Duration, end time.Duration) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "out.mp4")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := NewWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	for i, unit := range units {
		if err := w.Write(unit, times[i]); err != nil {
			t.Fatalf("unit %d: %v", i, err)
		}
	}
	if err := w.Close(end); err != nil {
		t.Fatal(err)
	}
	return name
}

// tool runs a program of FFmpeg, which must have nothing to complain about, and returns its output.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, name), append([]string{"-v", "warning"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// decoded returns the hash of every picture.
func decoded(t *testing.T, name string, args ...string) []string {
	t.Helper()
	args = append(append(args, "-xerror", "-err_detect", "explode", "-i", name), "-fps_mode", "passthrough", "-f", "framemd5", "-")
	var hashes []string
	for line := range strings.Lines(tool(t, "ffmpeg", args...)) {
		if !strings.HasPrefix(line, "#") {
			cells := strings.Split(line, ",")
			hashes = append(hashes, strings.TrimSpace(cells[len(cells)-1]))
		}
	}
	return hashes
}

func TestFilePlaysAsTheStreamItWasMadeOf(t *testing.T) {
	for _, profile := range []string{"baseline", "main", "high"} {
		t.Run(profile, func(t *testing.T) {
			units := x264(t, "240x320", profile, 200, "-force_key_frames", "expr:eq(n,100)")
			times := make([]time.Duration, len(units))
			for i := range times {
				times[i] = time.Duration(i) * time.Second / 30
			}
			name := mux(t, units, times, 200*time.Second/30)

			raw := filepath.Join(t.TempDir(), "raw.h264")
			if err := os.WriteFile(raw, bytes.Join(units, nil), 0o644); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(decoded(t, raw, "-f", "h264"), decoded(t, name)); diff != "" {
				t.Errorf("pictures differ (-stream +file):\n%s", diff)
			}
			got := tool(t, "ffprobe", "-count_packets", "-select_streams", "v", "-show_entries",
				"stream=codec_tag_string,width,height,nb_frames,nb_read_packets,avg_frame_rate,duration:format=format_name", "-of", "default=nw=1", name)
			want := "codec_tag_string=avc1\nwidth=240\nheight=320\navg_frame_rate=30/1\nduration=6.666667\nnb_frames=200\nnb_read_packets=200\n" +
				"format_name=mov,mp4,m4a,3gp,3g2,mj2\n"
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ffprobe (-want +got):\n%s", diff)
			}
			var keys []string
			packets := tool(t, "ffprobe", "-select_streams", "v", "-show_entries", "packet=pts_time,flags", "-of", "csv=p=0", name)
			for line := range strings.Lines(packets) {
				if at, flags, _ := strings.Cut(line, ","); strings.HasPrefix(flags, "K") {
					keys = append(keys, at)
				}
			}
			if diff := cmp.Diff([]string{"0.000000", "3.333333"}, keys); diff != "" {
				t.Errorf("key frames (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTimesAreTheFramesOwn(t *testing.T) {
	units := x264(t, "240x320", "baseline", 5)
	// A burst, a still screen of a minute, and two times that do not go forward.
	times := []time.Duration{time.Second, 1020 * time.Millisecond, 61020 * time.Millisecond, 61 * time.Second, 61 * time.Second}
	name := mux(t, units, times, 62*time.Second)
	got := tool(t, "ffprobe", "-select_streams", "v", "-show_entries", "packet=pts,dts,duration", "-of", "csv=p=0", name)
	want := "0,0,1800\n1800,1800,5400000\n5401800,5401800,1\n5401801,5401801,1\n5401802,5401802,88198\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("times in ticks (-want +got):\n%s", diff)
	}
}

func TestSizeMayChange(t *testing.T) {
	units := x264(t, "240x320", "baseline", 70)
	second := len(units)
	units = append(units, x264(t, "320x240", "baseline", 70)...)
	units = append(units, x264(t, "240x320", "baseline", 10)...)
	times := make([]time.Duration, len(units))
	for i := range times {
		times[i] = time.Duration(i) * 40 * time.Millisecond
	}
	name := mux(t, units, times, 6*time.Second)
	sizes := tool(t, "ffprobe", "-select_streams", "v", "-show_entries", "frame=width,height", "-of", "csv=p=0", name)
	lines := strings.Fields(strings.ReplaceAll(sizes, ",\n", "\n")) // frames with side data have a cell more
	if len(lines) != len(units) {
		t.Fatalf("%d pictures decoded, want %d", len(lines), len(units))
	}
	for i, want := range map[int]string{0: "240,320", second - 1: "240,320", second: "320,240", 139: "320,240", 140: "240,320", 149: "240,320"} {
		if lines[i] != want {
			t.Errorf("picture %d is %s, want %s", i, lines[i], want)
		}
	}
}

func TestFileBeyond4GiB(t *testing.T) {
	units := x264(t, "240x320", "baseline", 130)
	name := filepath.Join(t.TempDir(), "large.mp4")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := NewWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	for i, unit := range units {
		if i == 2*chunkSamples {
			// A hole, as if 5 GiB of pictures lay there; it takes no room on the disk.
			const hole = 5 << 30
			if err := w.out.Flush(); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Seek(hole, io.SeekCurrent); err != nil {
				t.Fatal(err)
			}
			w.offset += hole
		}
		if err := w.Write(unit, time.Duration(i)*40*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(6 * time.Second); err != nil {
		t.Fatal(err)
	}
	if got := len(decoded(t, name)); got != len(units) {
		t.Errorf("%d pictures decoded, want %d", got, len(units))
	}
}

func TestRefusals(t *testing.T) {
	units := x264(t, "240x320", "baseline", 2)
	high444 := x264(t, "240x320", "high444", 1, "-pix_fmt", "yuv444p")
	var onlySets []byte
	for nal := range h264.Split(units[0]) {
		if nal.Type() == h264.TypeSPS || nal.Type() == h264.TypePPS {
			onlySets = append(append(onlySets, 0, 0, 1), nal...)
		}
	}
	tests := []struct {
		name, want string
		unit       []byte
	}{
		{"nothing", "no picture", nil},
		{"no start code", "no picture", []byte("not H.264 at all")},
		{"only parameter sets", "no picture", onlySets},
		{"begins with a delta frame", "no key frame", units[1]},
		{"chroma that the description cannot name", "profile 244", high444[0]},
		{"damaged parameter set", "malformed", []byte{0, 0, 1, 0x67, 66, 0, 0, 1, 0x68, 1, 0, 0, 1, 0x65, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "out.mp4"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			w, err := NewWriter(f)
			if err != nil {
				t.Fatal(err)
			}
			err = w.Write(tt.unit, 0)
			if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one of a bad argument that says %q", err, tt.want)
			}
			if err := w.Close(time.Second); !errors.Is(err, errdefs.ErrFailedPrecondition) {
				t.Errorf("closing a file without pictures: %v, want a failed precondition", err)
			}
		})
	}
}

// FuzzWrite feeds rubbish: it may be refused, and must not panic or make tables that do not fit the data.
func FuzzWrite(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0x67, 66, 0, 30, 0, 0, 1, 0x68, 1, 0, 0, 1, 0x65, 1}, int64(0))
	f.Add([]byte{0, 0, 0, 1, 9, 16, 0, 0, 1, 1, 2, 3}, int64(time.Hour))
	f.Fuzz(func(t *testing.T, unit []byte, at int64) {
		w, err := NewWriter(new(memory))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if w.Write(unit, time.Duration(at)) != nil {
				return
			}
		}
		if err := w.Close(0); err != nil {
			t.Fatal(err)
		}
		total := w.mdat + mdatHeader
		for _, s := range w.samples {
			total += uint64(s.size)
		}
		if total != w.offset {
			t.Errorf("samples end at %d, data at %d", total, w.offset)
		}
	})
}

// memory is a file in memory that only counts.
type memory struct{ offset int64 }

func (m *memory) Write(p []byte) (int, error) { m.offset += int64(len(p)); return len(p), nil }

func (m *memory) Seek(offset int64, _ int) (int64, error) { m.offset = offset; return offset, nil }
