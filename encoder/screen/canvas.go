package screen

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
)

// Format is the layout of a pixel in memory given to Canvas: four bytes, named as Wayland's wl_shm names them, from the
// highest byte of a little-endian word to the lowest.
type Format uint8

// Formats that a Canvas takes.
const (
	XRGB8888 Format = iota // B, G, R and a byte without meaning
	ARGB8888               // B, G, R, alpha, premultiplied
	XBGR8888               // R, G, B and a byte without meaning
	ABGR8888               // R, G, B, alpha, premultiplied
)

// swapped tells whether red and blue lie the other way round than in the canvas.
func (f Format) swapped() bool { return f == XBGR8888 || f == ABGR8888 }

// alpha tells whether the fourth byte has a meaning.
func (f Format) alpha() bool { return f == ARGB8888 || f == ABGR8888 }

// Canvas is the drawing side of a Screen, valid only inside the callback of Commit. Its methods clip to the screen.
// Memory that a guest changes while it is copied makes a torn picture, never a wrong account of damage: a tile is marked
// before it is written, and what was read to compare is not trusted to be what is read to copy.
type Canvas struct {
	width, height int
	stride        int
	cols          int
	pix           []byte // B, G, R, X; rows are width*4 bytes apart
	row           []byte // one row of scratch
	dirty         tiles  // tiles that differ since the last commit
}

// Bounds is the rectangle of the whole canvas.
func (c *Canvas) Bounds() image.Rectangle { return image.Rect(0, 0, c.width, c.height) }

// Copy replaces the pixels of dst, ignoring alpha. The first byte of src is the pixel at dst.Min, and rows are stride bytes
// apart; src must hold all rows of dst, clipped or not, or Copy panics as any slice does.
func (c *Canvas) Copy(dst image.Rectangle, src []byte, stride int, f Format) {
	r, src := c.clip(dst, src, stride)
	if r.Empty() {
		return
	}
	n := r.Dx() * 4
	for y := r.Min.Y; y < r.Max.Y; y++ {
		line := src[(y-r.Min.Y)*stride:][:n]
		if f.swapped() {
			swapRedBlue(c.row[:n], line)
			line = c.row[:n]
		}
		c.putRow(r.Min.X, y, line)
	}
}

// Blend lays premultiplied pixels over those of dst; a format without alpha replaces them. Arguments are those of Copy.
func (c *Canvas) Blend(dst image.Rectangle, src []byte, stride int, f Format) {
	if !f.alpha() {
		c.Copy(dst, src, stride, f)
		return
	}
	r, src := c.clip(dst, src, stride)
	if r.Empty() {
		return
	}
	n := r.Dx() * 4
	for y := r.Min.Y; y < r.Max.Y; y++ {
		line := c.row[:n]
		if in := src[(y-r.Min.Y)*stride:][:n]; f.swapped() {
			swapRedBlue(line, in)
		} else {
			copy(line, in)
		}
		over(line, c.pix[y*c.stride+r.Min.X*4:])
		c.putRow(r.Min.X, y, line)
	}
}

// Fill paints a rectangle in one opaque colour; the colour's alpha is ignored.
func (c *Canvas) Fill(dst image.Rectangle, col color.RGBA) {
	r := dst.Intersect(c.Bounds())
	if r.Empty() {
		return
	}
	line := c.row[:r.Dx()*4]
	for i := 0; i < len(line); i += 4 {
		line[i], line[i+1], line[i+2], line[i+3] = col.B, col.G, col.R, 0xff
	}
	for y := r.Min.Y; y < r.Max.Y; y++ {
		c.putRow(r.Min.X, y, line)
	}
}

// clip cuts dst to the canvas and moves src along.
func (c *Canvas) clip(dst image.Rectangle, src []byte, stride int) (image.Rectangle, []byte) {
	r := dst.Intersect(c.Bounds())
	if r.Empty() {
		return r, nil
	}
	return r, src[(r.Min.Y-dst.Min.Y)*stride+(r.Min.X-dst.Min.X)*4:]
}

// putRow stores the pixels of line at (x, y) and marks the tiles in which one differs. A tile is marked before it is written,
// so that a fault while line is read leaves no unmarked change.
func (c *Canvas) putRow(x, y int, line []byte) {
	out := c.pix[y*c.stride+x*4:][:len(line)]
	base := y / Tile * c.cols
	for len(line) > 0 {
		// A run of neighbouring tiles that are all marked or all unmarked is handled at once.
		col := x / Tile
		marked := c.dirty.has(base + col)
		end := (col + 1) * Tile
		for n := end - x; n*4 < len(line) && c.dirty.has(base+end/Tile) == marked; n = end - x {
			end += Tile
		}
		n := min((end-x)*4, len(line))
		switch {
		case marked:
			copy(out[:n], line[:n])
		case !bytes.Equal(out[:n], line[:n]):
			c.putTiles(x, base, out[:n], line[:n])
		}
		x, out, line = end, out[n:], line[n:]
	}
}

// putTiles stores a run of a row that lies in unmarked tiles and differs somewhere.
func (c *Canvas) putTiles(x, base int, out, line []byte) {
	for len(line) > 0 {
		end := (x/Tile + 1) * Tile
		n := min((end-x)*4, len(line))
		if !bytes.Equal(out[:n], line[:n]) {
			c.dirty.set(base + x/Tile)
			copy(out[:n], line[:n])
		}
		x, out, line = end, out[n:], line[n:]
	}
}

// swapRedBlue writes src to dst with bytes 0 and 2 of every pixel exchanged; dst may be src.
func swapRedBlue(dst, src []byte) {
	i := 0
	for ; i+8 <= len(src) && i+8 <= len(dst); i += 8 {
		v := binary.LittleEndian.Uint64(src[i:])
		v = v&0xff00ff00ff00ff00 | v&0x000000ff000000ff<<16 | v>>16&0x000000ff000000ff
		binary.LittleEndian.PutUint64(dst[i:], v)
	}
	for ; i+4 <= len(src); i += 4 {
		dst[i], dst[i+1], dst[i+2], dst[i+3] = src[i+2], src[i+1], src[i], src[i+3]
	}
}

// over lays premultiplied BGRA pixels over opaque ones and leaves the opaque result in src.
func over(src, below []byte) {
	below = below[:len(src)]
	for i := 0; i+4 <= len(src); i += 4 {
		a := uint32(src[i+3])
		if a == 0xff {
			continue
		}
		for j := i; j < i+3; j++ {
			v := uint32(below[j])*(255-a) + 127
			src[j] = uint8(min(uint32(src[j])+(v+1+v>>8)>>8, 255))
		}
		src[i+3] = 0xff
	}
}
