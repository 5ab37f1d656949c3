package paint

import (
	"image"
	"image/color"
)

// Canvas is a picture in memory: XRGB8888, one uint32 a pixel, rows without padding. The top byte of every pixel is 255.
type Canvas struct {
	// Pix holds Width*Height pixels.
	Pix []uint32
	// Width and Height are in pixels.
	Width, Height int
}

func newCanvas(width, height int) *Canvas {
	return &Canvas{make([]uint32, width*height), width, height}
}

func (c *Canvas) bounds() image.Rectangle { return image.Rect(0, 0, c.Width, c.Height) }

// row returns the pixels of a row from x0 up to x1.
func (c *Canvas) row(y, x0, x1 int) []uint32 { return c.Pix[y*c.Width+x0 : y*c.Width+x1] }

// copyFrom copies a part of a canvas of the same size.
func (c *Canvas) copyFrom(src *Canvas, r image.Rectangle) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		copy(c.row(y, r.Min.X, r.Max.X), src.row(y, r.Min.X, r.Max.X))
	}
}

func (c *Canvas) fill(r image.Rectangle, p uint32) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		row := c.row(y, r.Min.X, r.Max.X)
		for i := range row {
			row[i] = p
		}
	}
}

// pixel packs an opaque colour.
func pixel(c color.RGBA) uint32 {
	return 0xff000000 | uint32(c.R)<<16 | uint32(c.G)<<8 | uint32(c.B)
}

// mix returns the colour a/256 of the way from under to over, 0 <= a <= 256.
func mix(under, over, a uint32) uint32 {
	const odd, even = 0x00ff00ff, 0x0000ff00
	b := 256 - a
	rb := ((over&odd)*a + (under&odd)*b) >> 8 & odd
	g := ((over&even)*a + (under&even)*b) >> 8 & even
	return 0xff000000 | rb | g
}

// mask is the coverage of a shape, 0..255, one byte a pixel.
type mask struct {
	alpha         []uint8
	width, height int
}

// stamp draws a colour through a mask whose top left corner is at p, clipped. strength, 0..256, fades the whole.
func (c *Canvas) stamp(clip image.Rectangle, m *mask, p image.Point, over, strength uint32) {
	r := image.Rect(p.X, p.Y, p.X+m.width, p.Y+m.height).Intersect(clip)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		row := c.row(y, r.Min.X, r.Max.X)
		start := (y-p.Y)*m.width + r.Min.X - p.X
		cover := m.alpha[start : start+len(row)]
		for i, a := range cover {
			switch {
			case a == 0:
			case a == 255 && strength == 256:
				row[i] = over
			default:
				row[i] = mix(row[i], over, (uint32(a)+uint32(a)>>7)*strength>>8)
			}
		}
	}
}

// shade darkens or colours a rectangle: a/256 of the way to over.
func (c *Canvas) shade(clip, r image.Rectangle, over, a uint32) {
	r = r.Intersect(clip)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		row := c.row(y, r.Min.X, r.Max.X)
		for i := range row {
			row[i] = mix(row[i], over, a)
		}
	}
}
