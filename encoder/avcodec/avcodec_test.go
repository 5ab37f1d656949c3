package avcodec

import (
	"fmt"
	"image"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/convert"
	"github.com/phonehost/phonehost/encoder/h264"
	"github.com/phonehost/phonehost/encoder/internal/benchframes"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOpenRefuses(t *testing.T) {
	good := Config{Width: 64, Height: 64, FPS: 30, Kbps: 1000}
	for _, test := range []struct {
		change func(*Config)
		is     func(error) bool
		words  string
	}{
		{func(c *Config) { c.Width = 63 }, errdefs.IsInvalidArgument, "even"},
		{func(c *Config) { c.Height = 8194 }, errdefs.IsInvalidArgument, "16..8192"},
		{func(c *Config) { c.FPS = 121 }, errdefs.IsInvalidArgument, "1..120"},
		{func(c *Config) { c.Kbps = 99 }, errdefs.IsInvalidArgument, "100..10000"},
		{func(c *Config) { c.Width, c.Height, c.FPS = 8192, 8192, 60 }, errdefs.IsInvalidArgument, "beyond H.264"},
		{func(c *Config) { c.Codec = "libvpx" }, errdefs.IsNotFound, "libx264"},
	} {
		c := good
		test.change(&c)
		if _, err := Open(c); !test.is(err) || !strings.Contains(err.Error(), test.words) {
			t.Errorf("Open(%+v) = %v, want %q", c, err, test.words)
		}
	}
}

func TestProbe(t *testing.T) {
	for _, name := range Codecs() {
		if err := Probe(name); err != nil {
			t.Errorf("Probe(%s) = %v", name, err)
		}
	}
	if err := Probe("no such encoder"); !errdefs.IsNotFound(err) {
		t.Errorf("Probe of an unknown name = %v", err)
	}
	v, err := Version()
	if err != nil || !strings.HasPrefix(Libraries()[1], "libavcodec.so."+strings.Split(v, ".")[0]) {
		t.Errorf("Version = %q, %v; libraries %v", v, err, Libraries())
	}
}

// TestLevels finds the level in the stream that the rule gives for the configuration.
func TestLevels(t *testing.T) {
	for _, c := range []Config{
		{Width: 540, Height: 960, FPS: 30, Kbps: 4000}, {Width: 720, Height: 1280, FPS: 60, Kbps: 100},
		{Width: 1080, Height: 2400, FPS: 60, Kbps: 10000}, {Width: 16, Height: 16, FPS: 1, Kbps: 100},
	} {
		t.Run(fmt.Sprintf("%dx%d@%d", c.Width, c.Height, c.FPS), func(t *testing.T) {
			e, err := Open(c)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			au, key, err := e.Encode(nil, h264.Normal, true)
			if err != nil || !key {
				t.Fatalf("Encode: key %v, %v", key, err)
			}
			sps, err := h264.NewChecker(c.Width, c.Height).Describe(au)
			want, _ := h264.LevelFor(c.Width, c.Height, c.FPS, 10000)
			if err != nil || int(sps.Level) != want || sps.TimeScale != 2*uint32(c.FPS)*sps.TicksPerFrame {
				t.Errorf("%+v, %v; want level %d", sps, err, want)
			}
		})
	}
}

// moving opens an encoder and returns what encodes the next frame of a moving picture.
func moving(t testing.TB, kbps, fps int) (*Encoder, func(h264.Quality, bool) (int, bool)) {
	t.Helper()
	const w, h = 360, 640
	e, err := Open(Config{Width: w, Height: h, FPS: fps, Kbps: kbps})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	src, err := benchframes.New(benchframes.Motion, w, h, 1)
	if err != nil {
		t.Fatal(err)
	}
	pix, n := make([]byte, src.Size()), 0
	return e, func(q h264.Quality, key bool) (int, bool) {
		if q == h264.Normal {
			src.Draw(n, pix)
			n++
		}
		p, err := e.Picture()
		if err != nil {
			t.Fatal(err)
		}
		convert.BGRX(p, pix, src.Stride(), []image.Rectangle{image.Rect(0, 0, w, h)})
		au, isKey, err := e.Encode(nil, q, key)
		if err != nil {
			t.Fatal(err)
		}
		return len(au), isKey
	}
}

// TestFramesFitTheLink finds every frame, key frames too, near one frame's share of the rate, at once after each change of it.
func TestFramesFitTheLink(t *testing.T) {
	e, next := moving(t, 2000, 30)
	for i, rate := range []struct{ kbps, fps int }{{2000, 30}, {500, 30}, {2000, 60}, {2000, 15}, {1000, 1}} {
		e.SetRate(rate.kbps, rate.fps)
		share := rate.kbps * 1000 / max(rate.fps, lowestFPS) / 8
		sum := 0
		for j := range 20 {
			force := j == 10
			size, key := next(h264.Normal, force)
			if key != (force || i+j == 0) {
				t.Errorf("rate %d, frame %d: key %v", i, j, key)
			}
			if size > share*3/2+1000 { // x264 aims at the share and may miss; its first frame names itself in 700 bytes
				t.Errorf("rate %d, frame %d: %d bytes, a share is %d", i, j, size, share)
			}
			sum += size
		}
		if mean := sum / 20; mean > share*11/10 || mean < share/3 {
			t.Errorf("rate %d: frames of %d bytes on average, a share is %d", i, mean, share)
		}
	}
}

// TestFineFrames finds a fine frame larger than a frame's share, bounded, and the frames after it small again.
func TestFineFrames(t *testing.T) {
	_, next := moving(t, 1000, 30)
	share := 1000 * 1000 / 30 / 8
	for range 10 {
		next(h264.Normal, false)
	}
	slack, _ := next(h264.Slack, false)
	fine, key := next(h264.Fine, false)
	if slack > share*3/2 || fine < 3*share || fine > 1000*1000/8/3 || key {
		t.Errorf("slack frame of %d bytes, fine frame of %d, key %v; a share is %d", slack, fine, key, share)
	}
	for range 5 {
		if size, _ := next(h264.Normal, false); size > share*3/2 {
			t.Errorf("a frame of %d bytes after a fine one, a share is %d", size, share)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, kind := range benchframes.Kinds {
		b.Run(string(kind), func(b *testing.B) {
			e, err := Open(Config{Width: 720, Height: 1280, FPS: 30, Kbps: 4000})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			src, _ := benchframes.New(kind, 720, 1280, 1)
			frames := make([][]byte, 30)
			for i := range frames {
				frames[i] = make([]byte, src.Size())
				src.Draw(i, frames[i])
			}
			var au []byte
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p, err := e.Picture()
				if err != nil {
					b.Fatal(err)
				}
				convert.BGRX(p, frames[i%30], src.Stride(), []image.Rectangle{image.Rect(0, 0, 720, 1280)})
				if au, _, err = e.Encode(au[:0], h264.Normal, i == 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
