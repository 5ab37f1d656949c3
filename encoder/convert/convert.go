// Package convert turns the screen's BGRX pixels into the planar YUV that video encoders take.
//
// It calls libyuv (linked statically: the shared one brings libjpeg and libstdc++ into every display), and gives it memory of
// this process only: a canvas that the Wayland server copied into, never memory that a guest can unmap or truncate, because a
// fault inside C cannot be recovered. The conversion is BT.601 with limited range, the only one for which libyuv has fast
// kernels on every processor; encoders signal exactly that. The package has no state and starts no goroutine.
package convert

/*
#cgo LDFLAGS: -l:libyuv.a
#cgo noescape phonehost_bgrx
#cgo nocallback phonehost_bgrx
#include <stdint.h>
#include <libyuv/convert.h>

// libyuv names formats by the word that a little-endian machine loads: its ARGB is B, G, R, A in memory.
static int phonehost_bgrx(const uint8_t *src, int stride, uint8_t *y, uint8_t *u, uint8_t *v, int ystride, int cstride,
                          int width, int height) {
  return ARGBToI420(src, stride, y, ystride, u, cstride, v, cstride, width, height);
}
*/
import "C"

import (
	"fmt"
	"image"
	"unsafe"

	"github.com/containerd/errdefs"
)

// Picture is a picture in I420: a plane of luma, and two of chroma with half its width and height. It may lie in memory of C.
type Picture struct {
	// Width and Height are the size in pixels, both even.
	Width, Height int
	// Y, U and V are the planes.
	Y, U, V []byte
	// YStride and CStride are the distances of rows in bytes, of luma and of either chroma.
	YStride, CStride int
}

// NewPicture makes a black picture in memory of Go. Width and height are even and positive, or the error is of class
// InvalidArgument.
func NewPicture(width, height int) (Picture, error) {
	if width <= 0 || height <= 0 || width%2 != 0 || height%2 != 0 {
		return Picture{}, fmt.Errorf("picture of %dx%d pixels: both must be even and positive: %w", width, height, errdefs.ErrInvalidArgument)
	}
	n := width * height
	mem := make([]byte, n+n/2)
	p := Picture{Width: width, Height: height, Y: mem[:n], U: mem[n : n+n/4], V: mem[n+n/4:], YStride: width, CStride: width / 2}
	p.Blacken()
	return p, nil
}

// Blacken makes every pixel black.
func (p Picture) Blacken() {
	for _, plane := range []struct {
		pix []byte
		v   byte
	}{{p.Y, 16}, {p.U, 128}, {p.V, 128}} {
		for i := range plane.pix {
			plane.pix[i] = plane.v
		}
	}
}

// BGRX converts the parts rects of a picture of pixels (B, G, R and an ignored byte, rows stride bytes apart) to the same
// parts of dst. Rectangles are widened to even edges, because two by two pixels share their chroma, and clipped to dst; src
// must hold all of dst's size. It panics on slices too short for that, before C sees them.
func BGRX(dst Picture, src []byte, stride int, rects []image.Rectangle) {
	if dst.Width == 0 || dst.Height == 0 {
		return
	}
	last := dst.Height - 1
	_ = src[last*stride+dst.Width*4-1]
	_ = dst.Y[last*dst.YStride+dst.Width-1]
	_ = dst.U[last/2*dst.CStride+dst.Width/2-1]
	_ = dst.V[last/2*dst.CStride+dst.Width/2-1]
	bounds := image.Rect(0, 0, dst.Width, dst.Height)
	for _, r := range rects {
		r = image.Rect(r.Min.X&^1, r.Min.Y&^1, (r.Max.X+1)&^1, (r.Max.Y+1)&^1).Intersect(bounds)
		if r.Empty() {
			continue
		}
		c := r.Min.Y/2*dst.CStride + r.Min.X/2
		C.phonehost_bgrx(
			bytePointer(src, r.Min.Y*stride+r.Min.X*4), C.int(stride),
			bytePointer(dst.Y, r.Min.Y*dst.YStride+r.Min.X), bytePointer(dst.U, c), bytePointer(dst.V, c),
			C.int(dst.YStride), C.int(dst.CStride), C.int(r.Dx()), C.int(r.Dy()))
	}
}

func bytePointer(b []byte, at int) *C.uint8_t { return (*C.uint8_t)(unsafe.Pointer(&b[at])) }
