package wayland

import (
	"image"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
)

// picture is a private copy of a surface's contents: B, G, R, A, premultiplied, one pixel for each pixel of the screen. Its
// memory is mapped and unmapped by itself, so that it goes back to the system at once and not after a collection.
type picture struct {
	c      *client
	size   image.Point
	stride int
	pix    []byte
	opaque bool // the fourth byte has no meaning

	// base is the buffer as it was, where a view made this picture of it; nil where this is it.
	base *picture
}

// memoryLimit is how many bytes of pictures a client may have: what a phone's screen with sub-surfaces, popups and some
// windows behind it needs, several times over.
func (s *Server) memoryLimit() int {
	return 6*s.cfg.Screen.Width()*s.cfg.Screen.Height()*4 + 8<<20
}

// newPicture allocates a picture, or is a protocol error when the client has too many.
func (c *client) newPicture(size image.Point) (*picture, error) {
	const longest = 1 << 16
	bytes := int64(size.X) * int64(size.Y) * 4
	if size.X <= 0 || size.X > longest || size.Y <= 0 || size.Y > longest || bytes > int64(c.s.memoryLimit()-c.memory) {
		return nil, c.display.errorf(protocol.WlDisplayErrorNoMemory, "no memory for %dx%d pixels", size.X, size.Y)
	}
	return c.mapPicture(size)
}

// mapPicture allocates a picture beyond the limit.
func (c *client) mapPicture(size image.Point) (*picture, error) {
	pix, err := unix.Mmap(-1, 0, size.X*size.Y*4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, c.display.errorf(protocol.WlDisplayErrorNoMemory, "memory for %dx%d pixels: %v", size.X, size.Y, err)
	}
	c.memory += len(pix)
	return &picture{c: c, size: size, stride: size.X * 4, pix: pix}, nil
}

// free gives the memory back; nil is nothing.
func (p *picture) free() {
	if p == nil || p.pix == nil {
		return
	}
	p.base.free()
	p.c.memory -= len(p.pix)
	_ = unix.Munmap(p.pix)
	p.pix = nil
}

func (p *picture) bounds() image.Rectangle { return image.Rectangle{Max: p.size} }

// row returns the pixels of row y from column x0 to x1.
func (p *picture) row(y, x0, x1 int) []byte { return p.pix[y*p.stride+x0*4 : y*p.stride+x1*4] }

// load copies a part of a buffer whose pixels are the picture's.
func (p *picture) load(b *buffer, r image.Rectangle) error {
	p.opaque = !b.alpha()
	err := b.each(r.Intersect(p.bounds()), func(band image.Rectangle, src []byte, stride int) {
		for y := band.Min.Y; y < band.Max.Y; y++ {
			dst := p.row(y, band.Min.X, band.Max.X)
			copy(dst, src[(y-band.Min.Y)*stride:])
			if b.swapped() {
				for i := 0; i < len(dst); i += 4 {
					dst[i], dst[i+2] = dst[i+2], dst[i]
				}
			}
		}
	})
	if err != nil {
		return b.o.errorf(protocol.WlShmErrorInvalidFd, "%v", err)
	}
	return nil
}

// newContents copies a whole buffer as seen through a view.
func (c *client) newContents(b *buffer, v view) (*picture, error) {
	base, err := c.newPicture(b.size())
	if err != nil {
		return nil, err
	}
	if err := base.load(b, base.bounds()); err != nil {
		base.free()
		return nil, err
	}
	p, err := base.through(v)
	if err != nil {
		base.free()
	}
	return p, err
}

// through returns what a view makes of a picture, taking the nearest pixels. The picture becomes its base, or is returned
// itself when the view changes nothing.
func (p *picture) through(v view) (*picture, error) {
	if v.identity(p.size) {
		return p, nil
	}
	out, err := p.c.newPicture(v.size(p.size))
	if err != nil {
		return nil, err
	}
	out.opaque, out.base = p.opaque, p
	// A column of the result depends on its x alone, a row on its y alone.
	across, down := make([]image.Point, out.size.X), make([]image.Point, out.size.Y)
	for x := range across {
		across[x] = v.source(out.size, p.size, x, 0)
	}
	for y := range down {
		down[y] = v.source(out.size, p.size, 0, y)
	}
	for y, d := range down {
		row := out.row(y, 0, out.size.X)
		for x, a := range across {
			from := d.Y*p.stride + a.X*4
			if v.turned() {
				from = a.Y*p.stride + d.X*4
			}
			copy(row[x*4:x*4+4], p.pix[from:from+4])
		}
	}
	return out, nil
}
