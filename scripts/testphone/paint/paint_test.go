package paint

import (
	"fmt"
	"image"
	"image/color"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/testphone/barcode"
)

var start = time.Date(2025, 6, 7, 12, 34, 56, 0, time.UTC)

const frameTime = time.Second / 30

func painter(t testing.TB, width, height int, scene string) *Painter {
	t.Helper()
	p, err := New(Config{Width: width, Height: height, FPS: 30, DPI: 320, Name: "phone-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetScene(scene); err != nil {
		t.Fatal(err)
	}
	return p
}

// picture makes an image of a canvas.
func picture(c *Canvas) *image.RGBA {
	img := image.NewRGBA(c.bounds())
	for y := range c.Height {
		for x, p := range c.row(y, 0, c.Width) {
			img.SetRGBA(x, y, color.RGBA{uint8(p >> 16), uint8(p >> 8), uint8(p), uint8(p >> 24)})
		}
	}
	return img
}

// act plays the same input on a painter before frame i.
func act(p *Painter, i int, now time.Time) {
	switch {
	case i == 3:
		p.Press(0, 200, 300)
		p.Press(1, 400, 640)
		p.Key("a (30)")
		p.Type('H')
	case i > 3 && i < 12:
		p.Move(0, 200+float64(i*9), 300+float64(i*5), now)
		p.Type('i')
	case i == 12:
		p.Lift(0, now)
		p.Wheel(-2)
	case i == 20:
		p.Lift(1, now)
	}
}

// TestIncrementalEqualsWhole compares what many small changes have left with the same frame drawn whole.
func TestIncrementalEqualsWhole(t *testing.T) {
	for _, scene := range []string{"motion", "scroll", "typing", "bars"} {
		for _, size := range []image.Point{{720, 1280}, {320, 240}} {
			t.Run(fmt.Sprint(scene, size), func(t *testing.T) {
				p := painter(t, size.X, size.Y, scene)
				for i := range 80 {
					now := start.Add(time.Duration(i) * frameTime)
					act(p, i, now)
					p.Frame(now)
					if i%16 != 15 {
						continue
					}
					got := slices.Clone(p.canvas.Pix)
					p.canvas.copyFrom(p.back, p.canvas.bounds())
					for _, e := range p.elements {
						e.draw(p.canvas, p.canvas.bounds())
					}
					p.strip()
					for k := range got {
						if got[k] != p.canvas.Pix[k] {
							t.Fatalf("frame %d: pixel %d,%d is %08x, drawn whole %08x", i, k%size.X, k/size.X, got[k], p.canvas.Pix[k])
						}
					}
				}
			})
		}
	}
}

// TestDamageIsComplete keeps a copy by the reported rectangles only, as the screen's buffers are kept.
func TestDamageIsComplete(t *testing.T) {
	for _, scene := range Scenes() {
		t.Run(scene, func(t *testing.T) {
			p := painter(t, 720, 1280, scene)
			replica := newCanvas(720, 1280)
			for i := range 80 {
				now := start.Add(time.Duration(i) * frameTime)
				act(p, i, now)
				for _, r := range p.Frame(now) {
					replica.copyFrom(p.canvas, r)
				}
				if !slices.Equal(replica.Pix, p.canvas.Pix) {
					t.Fatalf("frame %d: something changed outside of the damage", i)
				}
			}
		})
	}
}

func TestEveryFrameHasItsNumberAndDiffers(t *testing.T) {
	for _, scene := range []string{"motion", "scroll", "typing", "bars"} {
		t.Run(scene, func(t *testing.T) {
			p := painter(t, 720, 1280, scene)
			for i := range uint32(5) {
				if len(p.Frame(start.Add(time.Duration(i)*frameTime))) == 0 {
					t.Errorf("frame %d: nothing changed", i)
				}
				if got, err := barcode.Read(picture(p.Canvas())); got != i+1 || err != nil {
					t.Errorf("frame %d: number %d, %v", i, got, err)
				}
			}
		})
	}
}

func TestStillStandsStill(t *testing.T) {
	p := painter(t, 720, 1280, "still")
	if len(p.Frame(start)) == 0 {
		t.Fatal("no first frame")
	}
	before := slices.Clone(p.canvas.Pix)
	p.Press(0, 100, 100)
	p.Type('x')
	for i := range 10 {
		if r := p.Frame(start.Add(time.Duration(i) * time.Second)); len(r) != 0 {
			t.Fatalf("frame %d: %v", i, r)
		}
	}
	if !slices.Equal(before, p.canvas.Pix) || p.FrameNumber() != 1 {
		t.Errorf("picture changed, frame %d", p.FrameNumber())
	}
	if err := p.SetScene("motion"); err != nil {
		t.Fatal(err)
	}
	if r := p.Frame(start); len(r) == 0 {
		t.Error("motion does not go on")
	}
}

func TestMarksFollowFingers(t *testing.T) {
	for _, scene := range []string{"motion", "scroll", "typing"} {
		t.Run(scene, func(t *testing.T) {
			p := painter(t, 720, 1280, scene)
			now := start
			p.Frame(now)
			if marks := barcode.FindMarks(picture(p.Canvas())); len(marks) != 0 {
				t.Fatalf("marks without fingers: %+v", marks)
			}
			for id := range barcode.Fingers {
				p.Press(id, 100+float64(id%5)*120, 400+float64(id/5)*300)
			}
			p.Move(3, 470, 500, now)
			p.Frame(now.Add(frameTime))
			marks := barcode.FindMarks(picture(p.Canvas()))
			if len(marks) != barcode.Fingers {
				t.Fatalf("%d marks: %+v", len(marks), marks)
			}
			for id, m := range marks {
				x, y := 100+float64(id%5)*120, 400+float64(id/5)*300
				if id == 3 {
					x, y = 470, 500
				}
				if m.ID != id || math.Hypot(m.X-x, m.Y-y) > 4 {
					t.Errorf("mark %d is %+v, want %g,%g", id, m, x, y)
				}
			}
		})
	}
}

func TestMarkStaysAndFades(t *testing.T) {
	p := painter(t, 720, 1280, "motion")
	p.Frame(start)
	p.Press(4, 300, 700)
	p.Lift(4, start)
	for _, test := range []struct {
		after time.Duration
		want  int
	}{{frameTime, 1}, {holdTime, 1}, {holdTime + fadeTime, 0}} {
		p.Frame(start.Add(test.after))
		if marks := barcode.FindMarks(picture(p.Canvas())); len(marks) != test.want {
			t.Errorf("%v after the lift: %+v", test.after, marks)
		}
	}
	if len(p.touches.fingers) != 0 {
		t.Errorf("%d fingers are kept", len(p.touches.fingers))
	}
}

func TestTyping(t *testing.T) {
	p := painter(t, 720, 1280, "motion")
	for _, c := range []byte("no\nHellp\bo\x01") {
		p.Type(c)
	}
	if p.typed != "Hello" {
		t.Errorf("typed %q", p.typed)
	}
	for range 2 * maxTyped {
		p.Type('x')
	}
	if len(p.typed) != maxTyped {
		t.Errorf("%d characters are kept", len(p.typed))
	}
}

func TestBarsAreExact(t *testing.T) {
	p := painter(t, 720, 1280, "bars")
	p.Frame(start)
	img := picture(p.Canvas())
	for _, bar := range barcode.Bars(720, 1280) {
		for _, at := range []image.Point{bar.Area.Min, bar.Area.Max.Sub(image.Pt(1, 1))} {
			if got := img.RGBAAt(at.X, at.Y); got != bar.Color {
				t.Errorf("pixel %v is %v, want %v", at, got, bar.Color)
			}
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := New(Config{Width: 10, Height: 1280}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("width 10: %v", err)
	}
	if err := painter(t, 720, 1280, "motion").SetScene("none"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("scene none: %v", err)
	}
}

func TestOddSizes(t *testing.T) {
	for _, size := range []image.Point{{64, 64}, {240, 240}, {4096, 240}, {242, 2000}, {1920, 1080}} {
		for _, scene := range Scenes() {
			p := painter(t, size.X, size.Y, scene)
			p.Press(0, -50, 1e9)
			for i := range 3 {
				p.Frame(start.Add(time.Duration(i) * time.Second))
			}
		}
	}
}

func BenchmarkFrame(b *testing.B) {
	for _, scene := range Scenes() {
		b.Run(scene, func(b *testing.B) {
			p := painter(b, 720, 1280, scene)
			replica := newCanvas(720, 1280)
			for i := range b.N {
				for _, r := range p.Frame(start.Add(time.Duration(i) * frameTime)) {
					replica.copyFrom(p.canvas, r)
				}
			}
		})
	}
}
