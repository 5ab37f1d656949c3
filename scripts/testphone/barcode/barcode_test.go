package barcode

import (
	"fmt"
	"image"
	"image/color"
	"math"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/image/draw"
)

// paint returns a screen with a strip and a disc with its ring for each mark.
func paint(width, height int, frame uint32, marks ...Mark) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(img, img.Bounds(), image.NewUniform(color.RGBA{60, 70, 90, 255}), image.Point{}, draw.Src)
	cells := Encode(frame)
	for i := range Cells {
		c := color.Gray{0}
		if cells&(1<<(Cells-1-i)) != 0 {
			c.Y = 255
		}
		draw.Draw(img, Cell(i, width, height), image.NewUniform(c), image.Point{}, draw.Src)
	}
	outer, inner := float64(Radius(width, height)), float64(DiscRadius(width, height))
	for _, m := range marks {
		for y := range height {
			for x := range width {
				switch d := math.Hypot(float64(x)-m.X, float64(y)-m.Y); {
				case d < inner:
					img.SetRGBA(x, y, Color(m.ID))
				case d < outer:
					img.SetRGBA(x, y, color.RGBA{255, 255, 255, 255})
				}
			}
		}
	}
	return img
}

func TestReadAtEverySize(t *testing.T) {
	for _, size := range []image.Point{{720, 1280}, {240, 240}, {1080, 1920}, {1280, 720}, {242, 4096}} {
		for _, frame := range []uint32{0, 1, 0x55555555, 0xdeadbeef, math.MaxUint32} {
			t.Run(fmt.Sprintf("%v %x", size, frame), func(t *testing.T) {
				got, err := Read(paint(size.X, size.Y, frame))
				if got != frame || err != nil {
					t.Errorf("read %x, %v", got, err)
				}
			})
		}
	}
}

func TestReadScaled(t *testing.T) {
	full := paint(720, 1280, 123456)
	half := image.NewRGBA(image.Rect(0, 0, 540, 960))
	draw.BiLinear.Scale(half, half.Bounds(), full, full.Bounds(), draw.Src, nil)
	if got, err := Read(half); got != 123456 || err != nil {
		t.Errorf("read %d, %v", got, err)
	}
}

func TestReadRefusesWhatIsNoStrip(t *testing.T) {
	flipped := paint(720, 1280, 77)
	draw.Draw(flipped, Cell(20, 720, 1280), image.White, image.Point{}, draw.Src)
	draw.Draw(flipped, Cell(21, 720, 1280), image.White, image.Point{}, draw.Src)
	for name, img := range map[string]image.Image{
		"nothing":     image.NewRGBA(image.Rect(0, 0, 720, 1280)),
		"too small":   image.NewRGBA(image.Rect(0, 0, 20, 20)),
		"wrong cells": flipped,
	} {
		if got, err := Read(img); !errdefs.IsNotFound(err) {
			t.Errorf("%s: read %d, %v", name, got, err)
		}
	}
}

func TestEveryFlippedCellIsNoticed(t *testing.T) {
	want := Encode(0x12345678)
	for i := range 32 + 8 {
		cells := want ^ 1<<(4+i)
		if cells == Encode(uint32(cells>>12)) {
			t.Errorf("cell %d can flip unnoticed", i)
		}
	}
}

func TestFindMarks(t *testing.T) {
	for id := range Fingers {
		t.Run(fmt.Sprint(id), func(t *testing.T) {
			want := []Mark{{ID: id, X: 100, Y: 300}, {ID: (id + 1) % Fingers, X: 500, Y: 1000}}
			got := FindMarks(paint(720, 1280, 1, want...))
			if len(got) != 2 {
				t.Fatalf("found %+v", got)
			}
			for _, w := range want {
				found := false
				for _, g := range got {
					found = found || g.ID == w.ID && math.Hypot(g.X-w.X, g.Y-w.Y) < 3
				}
				if !found {
					t.Errorf("mark %+v is not among %+v", w, got)
				}
			}
		})
	}
}

func TestNoMarksOnBarsOrNothing(t *testing.T) {
	img := paint(720, 1280, 1)
	if got := FindMarks(img); len(got) != 0 {
		t.Errorf("empty screen: %+v", got)
	}
	for _, bar := range Bars(720, 1280) {
		draw.Draw(img, bar.Area, image.NewUniform(bar.Color), image.Point{}, draw.Src)
	}
	if got := FindMarks(img); len(got) != 0 {
		t.Errorf("bars: %+v", got)
	}
}

func TestBarsCoverTheScreenOnce(t *testing.T) {
	for _, size := range []image.Point{{720, 1280}, {242, 240}, {1081, 1921}} {
		area := 0
		for _, bar := range Bars(size.X, size.Y) {
			area += bar.Area.Dx() * bar.Area.Dy()
		}
		if want := size.X * (size.Y - Height(size.Y)); area != want {
			t.Errorf("%v: bars cover %d of %d pixels", size, area, want)
		}
	}
}

func TestFrames(t *testing.T) {
	list, err := Frames(make([]byte, 2*3*4*5), 4, 5)
	if len(list) != 2 || err != nil {
		t.Fatalf("%d frames, %v", len(list), err)
	}
	list[1].Pix[0] = 9
	if got := list[1].At(0, 0); got != (color.RGBA{9, 0, 0, 255}) {
		t.Errorf("pixel %v", got)
	}
	if _, err := Frames(make([]byte, 10), 4, 5); !errdefs.IsInvalidArgument(err) {
		t.Errorf("part of a frame: %v", err)
	}
}
