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

// loadThrough copies a whole buffer as seen through a view: turned, scaled and cropped, taking the nearest pixel.
func (p *picture) loadThrough(b *buffer, v view) error {
	whole, err := p.c.newPicture(image.Pt(b.width, b.height))
	if err != nil {
		return err
	}
	defer whole.free()
	if err := whole.load(b, whole.bounds()); err != nil {
		return err
	}
	p.opaque = whole.opaque
	for y := range p.size.Y {
		out := p.row(y, 0, p.size.X)
		for x := range p.size.X {
			from := v.source(p.size, whole.size, x, y)
			copy(out[x*4:x*4+4], whole.row(from.Y, from.X, from.X+1))
		}
	}
	return nil
}
