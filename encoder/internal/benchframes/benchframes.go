// Package benchframes draws what phones show, the same on every run, for benchmarks and tests that need pixels with the
// statistics of real screens: text that is typed, a list that scrolls, a game that moves, and a picture that stands still.
//
// A Source draws frame n from its seed and n alone, so frames can be drawn in any order and compared between programs. The
// package keeps no state beyond the pictures that a Source is made of and starts no goroutine.
package benchframes

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"
	"math/rand/v2"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

// Kind is what a Source shows.
type Kind string

// Kinds of screens.
const (
	Still  Kind = "still"  // a page of text and pictures that never changes
	Typing Kind = "typing" // one letter every second frame, over a page that stands still
	Scroll Kind = "scroll" // a list of text and thumbnails that moves 9 pixels per frame
	Motion Kind = "motion" // a textured ground that pans, with sprites over it: every pixel changes in every frame
)

// Kinds are all kinds, from the easiest to the hardest to encode.
var Kinds = []Kind{Still, Typing, Scroll, Motion}

// Source draws the frames of one kind. It may be used by several goroutines at once.
type Source struct {
	kind          Kind
	width, height int
	page          *image.RGBA // several screens high; drawing wraps round
	sprite        *image.RGBA
}

// New makes a source of frames of width x height pixels. The same kind, size and seed give the same frames.
func New(kind Kind, width, height int, seed uint64) (*Source, error) {
	s := &Source{kind: kind, width: width, height: height}
	rnd := rand.New(rand.NewPCG(seed, uint64(len(kind))))
	switch kind {
	case Still, Typing, Scroll:
		s.page = listPage(rnd, width, height*2)
	case Motion:
		s.page = ground(rnd, width*2, height*2)
		s.sprite = ball(96)
	default:
		return nil, fmt.Errorf("kind %q: one of %v", kind, Kinds)
	}
	return s, nil
}

// Size is the number of bytes of a frame.
func (s *Source) Size() int { return s.width * s.height * 4 }

// Stride is the distance of rows in bytes.
func (s *Source) Stride() int { return s.width * 4 }

// Draw draws frame n, 0 or higher, into dst, Size bytes: B, G, R, 255 per pixel.
func (s *Source) Draw(n int, dst []byte) {
	out := &image.RGBA{Pix: dst[:s.Size()], Stride: s.Stride(), Rect: image.Rect(0, 0, s.width, s.height)}
	switch s.kind {
	case Still:
		s.paste(out, 0, 0)
	case Typing:
		s.paste(out, 0, 0)
		s.typed(out, n/2)
	case Scroll:
		s.paste(out, 0, n*9)
		draw.Draw(out, image.Rect(0, 0, s.width, 48), image.NewUniform(color.RGBA{120, 60, 20, 255}), image.Point{}, draw.Src)
	case Motion:
		s.paste(out, n*5, n*3)
		for i := range 6 {
			t := float64(n)/20 + float64(i)
			at := image.Pt(int((math.Sin(t*1.3)+1)/2*float64(s.width-96)), int((math.Cos(t*0.9)+1)/2*float64(s.height-96)))
			draw.Draw(out, image.Rectangle{Min: at, Max: at.Add(image.Pt(96, 96))}, s.sprite, image.Point{}, draw.Over)
		}
	}
}

// paste copies the page, moved by (dx, dy) and wrapped round, to the whole of out.
func (s *Source) paste(out *image.RGBA, dx, dy int) {
	w, h := s.page.Rect.Dx(), s.page.Rect.Dy()
	for y := range s.height {
		row := s.page.Pix[(y+dy)%h*s.page.Stride:][:w*4]
		line := out.Pix[y*out.Stride:][:s.width*4]
		n := copy(line, row[dx%w*4:])
		copy(line[n:], row)
	}
}

// typed draws the first n letters of a text in the lower half.
func (s *Source) typed(out *image.RGBA, n int) {
	const letters = "the quick brown fox jumps over the lazy dog 0123456789, "
	perRow := max(s.width/8-4, 1)
	box := image.Rect(8, s.height/2, s.width-8, s.height)
	draw.Draw(out, box, image.White, image.Point{}, draw.Src)
	rows := max((box.Dy()-16)/16, 1)
	for i := range n % (perRow * rows) {
		text(out, 16+i%perRow*8, s.height/2+16+i/perRow*16, letters[i%len(letters):][:1], color.Black)
	}
}

// listPage is a page of cards, each with a thumbnail and lines of text.
func listPage(rnd *rand.Rand, w, h int) *image.RGBA {
	page := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(page, page.Rect, image.NewUniform(color.RGBA{240, 236, 232, 255}), image.Point{}, draw.Src)
	const card = 160
	for y := 8; y+card <= h; y += card {
		draw.Draw(page, image.Rect(8, y, w-8, y+card-8), image.White, image.Point{}, draw.Src)
		thumb := ground(rnd, 128, 128)
		draw.Draw(page, image.Rect(16, y+12, 144, y+140), thumb, image.Point{}, draw.Src)
		for line := range 8 {
			words := make([]byte, max(rnd.IntN(max((w-170)/7, 2)), 1))
			for i := range words {
				words[i] = byte('a' + rnd.IntN(26))
				if rnd.IntN(6) == 0 {
					words[i] = ' '
				}
			}
			text(page, 156, y+24+line*16, string(words), color.RGBA{uint8(rnd.IntN(90)), 40, 40, 255})
		}
	}
	return page
}

// ground is a smooth landscape of waves with fine grain, as photographs and games have, that wraps round.
func ground(rnd *rand.Rand, w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	var fx, fy, ph [3][4]float64
	for c := range 3 {
		for i := range 4 {
			fx[c][i] = 2 * math.Pi * float64(rnd.IntN(6)) / float64(w)
			fy[c][i] = 2 * math.Pi * float64(1+rnd.IntN(6)) / float64(h)
			ph[c][i] = rnd.Float64() * 7
		}
	}
	for y := range h {
		for x := range w {
			p := img.Pix[y*img.Stride+x*4:][:4]
			grain := float64(rnd.IntN(13)) - 6
			for c := range 3 {
				v := 128.0
				for i := range 4 {
					v += 28 * math.Sin(fx[c][i]*float64(x)+fy[c][i]*float64(y)+ph[c][i])
				}
				p[c] = uint8(min(max(v+grain, 0), 255))
			}
			if (x/32+y/32)%7 == 0 {
				p[0], p[1], p[2] = p[1], p[2], p[0] // hard edges
			}
			p[3] = 255
		}
	}
	return img
}

// ball is a shaded disc with a transparent surround.
func ball(d int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, d, d))
	r := float64(d) / 2
	for y := range d {
		for x := range d {
			dx, dy := float64(x)-r, float64(y)-r
			if q := (dx*dx + dy*dy) / (r * r); q < 1 {
				v := uint8(255 * (1 - q*0.8))
				img.SetRGBA(x, y, color.RGBA{v, v / 2, 255 - v, 255})
			}
		}
	}
	return img
}

func text(dst draw.Image, x, y int, s string, c color.Color) {
	d := font.Drawer{Dst: dst, Src: image.NewUniform(c), Face: basicfont.Face7x13, Dot: fixed.P(x, y)}
	d.DrawString(s)
}
