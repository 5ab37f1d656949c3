package h264

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestSplit(t *testing.T) {
	for _, test := range []struct {
		name   string
		stream string
		want   []string
	}{
		{"empty", "", nil},
		{"no start code", "abc", nil},
		{"start code alone", "\x00\x00\x01", nil},
		{"one", "\x00\x00\x01abc", []string{"abc"}},
		{"both start codes", "\x00\x00\x00\x01a\x00\x00\x01bc\x00\x00\x00\x01d", []string{"a", "bc", "d"}},
		{"bytes before", "xy\x00\x00\x01a", []string{"a"}},
		{"trailing zeros", "\x00\x00\x01a\x00\x00\x00\x00", []string{"a"}},
		{"empty units", "\x00\x00\x01\x00\x00\x01a\x00\x00\x01", []string{"a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for n := range Split([]byte(test.stream)) {
				got = append(got, string(n))
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"\x00\x00\x03\x01":                 "\x00\x00\x01",
		"\x00\x00\x03\x00\x00\x03":         "\x00\x00\x00\x00",
		"\x00\x03\x00":                     "\x00\x03\x00",
		"\x00\x00\x03":                     "\x00\x00",
		"\x01\x00\x00\x03\x03\x00\x00\x04": "\x01\x00\x00\x03\x00\x00\x04",
	} {
		if got := string(unescape([]byte(in))); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestLevelFor(t *testing.T) {
	for _, test := range []struct {
		width, height, fps, kbps, want int
	}{
		{176, 144, 14, 64, 10},
		{320, 240, 30, 10000, 30},
		{540, 960, 30, 10000, 31},
		{720, 1280, 30, 10000, 32}, // exactly the limit of 3.1
		{720, 1280, 29, 10000, 31},
		{720, 1280, 60, 10000, 40}, // exactly the limit of 3.2
		{1080, 1920, 30, 10000, 40},
		{1080, 1920, 60, 10000, 42},
		{1080, 2400, 30, 10000, 50}, // by its size
		{1080, 2400, 60, 10000, 51},
		{1600, 2560, 120, 10000, 52},
		{16, 6000, 1, 1000, 50}, // by its longer side
	} {
		got, err := LevelFor(test.width, test.height, test.fps, test.kbps)
		if got != test.want || err != nil {
			t.Errorf("LevelFor(%d, %d, %d, %d) = %d, %v, want %d", test.width, test.height, test.fps, test.kbps, got, err, test.want)
		}
	}
	if _, err := LevelFor(8192, 8192, 60, 10000); !errdefs.IsInvalidArgument(err) {
		t.Errorf("LevelFor(8192x8192) = %v", err)
	}
}

// encode makes a stream by ffmpeg.
func encode(t *testing.T, args ...string) []byte {
	t.Helper()
	ffmpeg := testenv.Tool(t, "ffmpeg")
	file := filepath.Join(t.TempDir(), "out.h264")
	all := append([]string{"-v", "error", "-f", "lavfi"}, args...)
	out, err := exec.Command(ffmpeg, append(all, "-f", "h264", file)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ffmpeg: %v\n%s", err, out)
	}
	return readFile(t, file)
}

// TestParseSPS parses what x264 writes for settings that each reach another part of the syntax.
func TestParseSPS(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want SPS
	}{
		{
			"baseline, cropped, coloured",
			[]string{"-i", "testsrc=s=720x1278:r=30", "-frames:v", "1", "-pix_fmt", "yuv420p", "-colorspace", "smpte170m", "-color_range",
				"tv", "-color_primaries", "bt709", "-color_trc", "iec61966-2-1", "-c:v", "libx264", "-profile:v", "baseline",
				"-tune", "zerolatency", "-refs", "1", "-level", "3.2"},
			SPS{Profile: 66, Constraints: 0xc0, Level: 32, Width: 720, Height: 1278, POCType: 2, RefFrames: 1, VUI: true, Primaries: 1,
				Transfer: 13, Matrix: MatrixBT601, TicksPerFrame: 1, TimeScale: 60, Restricted: true, DecBuffering: 1},
		},
		{
			"high, reordered, interlaced",
			[]string{"-i", "testsrc=s=320x240:r=25", "-frames:v", "9", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-profile:v", "high",
				"-x264-params", "interlaced=1:bframes=2:b-pyramid=none:ref=3:level=4.0:nal-hrd=vbr:vbv-maxrate=1000:vbv-bufsize=500"},
			SPS{Profile: 100, Level: 40, Width: 320, Height: 240, RefFrames: 3, VUI: true, Primaries: 2, Transfer: 2,
				Matrix: 2, TicksPerFrame: 1, TimeScale: 50, Restricted: true, Reorder: 1, DecBuffering: 3},
		},
		{
			"4:4:4 with scaling lists, full range",
			[]string{"-i", "testsrc=s=64x50:r=25", "-frames:v", "1", "-pix_fmt", "yuv444p", "-color_range", "pc", "-c:v", "libx264",
				"-x264-params", "cqm=jvt:bframes=0:ref=2:level=3.0"},
			SPS{Profile: 244, Level: 30, Width: 64, Height: 50, POCType: 2, RefFrames: 2, VUI: true, FullRange: true, Primaries: 2,
				Transfer: 2, Matrix: 2, TicksPerFrame: 1, TimeScale: 50, Restricted: true, DecBuffering: 2},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			for n := range Split(encode(t, test.args...)) {
				if n.Type() != TypeSPS {
					continue
				}
				got, err := ParseSPS(n)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(test.want, got); d != "" {
					t.Error(d)
				}
				for i := range n { // every shorter set is refused, and none panics
					if _, err := ParseSPS(n[:i]); i < len(n)-2 && !errors.Is(err, ErrMalformed) {
						t.Errorf("the first %d of %d bytes parse: %v", i, len(n), err)
					}
				}
				return
			}
			t.Error("the stream has no sequence parameter set")
		})
	}
}

// smallSPS is a Constrained Baseline set of 64x64 pixels as x264 wrote it.
var smallSPS = NAL{0x67, 0x42, 0xc0, 0x0a, 0xda, 0x10, 0x9b, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0x28,
	0xf1, 0x22, 0x6a}

func unit(bytes ...NAL) []byte {
	var au []byte
	for _, n := range bytes {
		au = appendNAL(au, n)
	}
	return au
}

func TestChecker(t *testing.T) {
	sps, err := ParseSPS(smallSPS)
	if err != nil {
		t.Fatal(err)
	}
	pps, idr, slice, sei := NAL{0x68, 1}, NAL{0x65, 2}, NAL{0x41, 3}, NAL{0x06, 4}
	c := NewChecker(sps.Width, sps.Height)
	for _, test := range []struct {
		name    string
		in, out []byte
		key     bool
		bad     bool
	}{
		{"key frame before any parameter set", unit(idr), nil, false, true},
		{"complete", unit(smallSPS, pps, sei, idr), unit(smallSPS, pps, sei, idr), true, false},
		{"not key", unit(slice, slice), unit(slice, slice), false, false},
		{"driver that does not repeat", unit(idr), unit(smallSPS, pps, idr), true, false},
		{"half of it", unit(pps, idr), unit(smallSPS, pps, pps, idr), true, false},
		{"no picture", unit(smallSPS, pps), nil, false, true},
		{"empty", nil, nil, false, true},
		{"rubbish", []byte("rubbish"), nil, false, true},
		{"broken set", unit(NAL{0x67, 1}, pps, idr), nil, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, key, err := c.Check(test.in)
			if test.bad != errors.Is(err, ErrMalformed) || key != test.key || !bytes.Equal(out, test.out) {
				t.Errorf("Check = %x, %v, %v", out, key, err)
			}
		})
	}
	if _, _, err := NewChecker(sps.Width+2, sps.Height).Check(unit(smallSPS, pps, idr)); !errors.Is(err, ErrMalformed) {
		t.Errorf("another size: %v", err)
	}
	if _, err := c.Describe(unit(slice)); !errors.Is(err, ErrMalformed) {
		t.Errorf("Describe without a key frame: %v", err)
	}
	got, err := c.Describe(unit(idr))
	if err != nil || got.Codec() != "avc1.42C00A" {
		t.Errorf("Describe = %q, %v", got.Codec(), err)
	}
}

func FuzzParseSPS(f *testing.F) {
	f.Add([]byte(smallSPS))
	f.Add([]byte{0x67, 100, 0, 40, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x6a, 0x02, 0x02, 0x02, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSPS(data)
		switch {
		case err != nil && !errors.Is(err, ErrMalformed):
			t.Errorf("error of another class: %v", err)
		case err == nil && (s.Width <= 0 || s.Height <= 0 || s.Width > 1<<21 || s.Height > 1<<22):
			t.Errorf("size of %dx%d", s.Width, s.Height)
		}
	})
}

func FuzzCheck(f *testing.F) {
	f.Add(unit(smallSPS, NAL{0x68, 1}, NAL{0x65, 2}), unit(NAL{0x65, 9}))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c := NewChecker(64, 64)
		for _, au := range [][]byte{first, second} {
			out, key, err := c.Check(au)
			if err != nil {
				continue
			}
			var sps, pps bool
			for n := range Split(out) {
				sps, pps = sps || n.Type() == TypeSPS, pps || n.Type() == TypePPS
			}
			if key && !(sps && pps) {
				t.Errorf("key frame without parameter sets: %x", out)
			}
		}
	})
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
