package convert

import (
	"bytes"
	"fmt"
	"image"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/containerd/errdefs"
)

// yuv is BT.601 with limited range by its definition (ITU-R BT.601-7, 2.5.1 and 2.5.3).
func yuv(b, g, r float64) [3]float64 {
	y := 0.299*r + 0.587*g + 0.114*b
	return [3]float64{16 + 219*y/255, 128 + 224*(b-y)/1.772/255, 128 + 224*(r-y)/1.402/255}
}

func TestColoursFollowTheStandard(t *testing.T) {
	for _, c := range [][3]byte{ // B, G, R
		{0, 0, 0}, {255, 255, 255}, {0, 0, 255}, {0, 255, 0}, {255, 0, 0},
		{255, 255, 0}, {255, 0, 255}, {0, 255, 255}, {128, 128, 128}, {30, 90, 200},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			p, err := NewPicture(16, 16)
			if err != nil {
				t.Fatal(err)
			}
			BGRX(p, bytes.Repeat([]byte{c[0], c[1], c[2], 77}, 256), 64, []image.Rectangle{image.Rect(0, 0, 16, 16)})
			want := yuv(float64(c[0]), float64(c[1]), float64(c[2]))
			for i, plane := range [][]byte{p.Y, p.U, p.V} {
				for _, got := range plane {
					if math.Abs(float64(got)-want[i]) > 1.5 {
						t.Fatalf("plane %d is %d, want %.1f", i, got, want[i])
					}
				}
			}
		})
	}
}

// TestPartsEqualTheWhole converts damage in parts, odd edges included, and compares with a conversion of everything.
func TestPartsEqualTheWhole(t *testing.T) {
	const w, h, stride = 202, 150, 203 * 4 // the screen may be a pixel wider than the video
	rnd := rand.New(rand.NewPCG(3, 4))
	src := make([]byte, stride*(h+1))
	for i := range src {
		src[i] = byte(rnd.Uint32())
	}
	parts, _ := NewPicture(w, h)
	whole, _ := NewPicture(w, h)
	all := []image.Rectangle{image.Rect(0, 0, w+1, h+1)}
	BGRX(parts, src, stride, all)
	for range 200 {
		r := image.Rect(rnd.IntN(w+1), rnd.IntN(h+1), rnd.IntN(w+1), rnd.IntN(h+1))
		for y := r.Min.Y; y < r.Max.Y; y++ {
			for x := r.Min.X * 4; x < r.Max.X*4; x++ {
				src[y*stride+x] = byte(rnd.Uint32())
			}
		}
		BGRX(parts, src, stride, []image.Rectangle{r})
		BGRX(whole, src, stride, all)
		if !bytes.Equal(parts.Y, whole.Y) || !bytes.Equal(parts.U, whole.U) || !bytes.Equal(parts.V, whole.V) {
			t.Fatalf("converting %v alone differs from converting everything", r)
		}
	}
}

func TestShortMemoryPanicsInGo(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a source that is too short was given to C")
		}
	}()
	p, _ := NewPicture(64, 64)
	BGRX(p, make([]byte, 64*64*4-1), 256, []image.Rectangle{image.Rect(0, 0, 2, 2)})
}

func TestNewPictureRefusesSizes(t *testing.T) {
	for _, size := range [][2]int{{0, 2}, {3, 2}, {2, 5}, {-2, 2}} {
		if _, err := NewPicture(size[0], size[1]); !errdefs.IsInvalidArgument(err) {
			t.Errorf("NewPicture(%v) = %v, want InvalidArgument", size, err)
		}
	}
}

func BenchmarkBGRX(b *testing.B) {
	src := make([]byte, 720*1280*4)
	p, _ := NewPicture(720, 1280)
	for _, bench := range []struct {
		name string
		r    image.Rectangle
	}{{"whole", image.Rect(0, 0, 720, 1280)}, {"tile", image.Rect(64, 64, 128, 128)}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			rects := []image.Rectangle{bench.r}
			for b.Loop() {
				BGRX(p, src, 720*4, rects)
			}
		})
	}
}
