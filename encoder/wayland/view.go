package wayland

import (
	"image"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
)

// view is how a surface shows its buffer.
type view struct {
	scale     int32 // buffer pixels for one of the surface, at least 1
	transform int32 // one of wl_output.transform

	// Set by wp_viewport, in 1/256 of a pixel of the scaled and turned buffer; srcW < 0 when not set.
	srcX, srcY, srcW, srcH int32
	dstW, dstH             int32 // size of the surface; < 0 when not set
}

func plainView() view {
	return view{scale: 1, srcX: -256, srcY: -256, srcW: -256, srcH: -256, dstW: -1, dstH: -1}
}

// identity tells whether every pixel of a buffer of the given size is that pixel of the surface.
func (v view) identity(buffer image.Point) bool {
	whole := v.srcW < 0 || (v.srcX == 0 && v.srcY == 0 && int(v.srcW) == buffer.X*256 && int(v.srcH) == buffer.Y*256)
	return v.scale == 1 && v.transform == protocol.WlOutputTransformNormal && whole && v.size(buffer) == buffer
}

// turned tells whether the transform exchanges width and height.
func (v view) turned() bool { return v.transform&1 != 0 }

// full returns the size of a buffer in the surface's pixels, before a viewport.
func (v view) full(buffer image.Point) image.Point {
	size := buffer.Div(int(v.scale))
	if v.turned() {
		size.X, size.Y = size.Y, size.X
	}
	return size
}

// size returns the size of the surface that shows a buffer of the given size.
func (v view) size(buffer image.Point) image.Point {
	switch {
	case v.dstW >= 0:
		return image.Pt(int(v.dstW), int(v.dstH))
	case v.srcW >= 0:
		return image.Pt(int(v.srcW/256), int(v.srcH/256))
	}
	return v.full(buffer)
}

// source returns the pixel of a buffer that pixel (x, y) of a surface of the given size shows.
func (v view) source(surface, buffer image.Point, x, y int) image.Point {
	// In 1/512 pixels, at the middle of the pixel.
	full := v.full(buffer)
	x0, y0, w, h := 0, 0, full.X*256, full.Y*256
	if v.srcW >= 0 {
		x0, y0, w, h = int(v.srcX), int(v.srcY), int(v.srcW), int(v.srcH)
	}
	fx := x0*2 + (2*x+1)*w/surface.X
	fy := y0*2 + (2*y+1)*h/surface.Y
	return v.untransform(fx, fy, full.X*512, full.Y*512, buffer)
}

// untransform turns a point of the upright picture, whose extent is w times h in 1/512 pixels, into a pixel of the buffer.
func (v view) untransform(x, y, w, h int, buffer image.Point) image.Point {
	var bx, by int
	switch v.transform {
	case protocol.WlOutputTransformNormal:
		bx, by = x, y
	case protocol.WlOutputTransform90:
		bx, by = y, w-x
	case protocol.WlOutputTransform180:
		bx, by = w-x, h-y
	case protocol.WlOutputTransform270:
		bx, by = h-y, x
	case protocol.WlOutputTransformFlipped:
		bx, by = w-x, y
	case protocol.WlOutputTransformFlipped90:
		bx, by = y, x
	case protocol.WlOutputTransformFlipped180:
		bx, by = x, h-y
	case protocol.WlOutputTransformFlipped270:
		bx, by = h-y, w-x
	}
	bx, by = bx*int(v.scale)/512, by*int(v.scale)/512
	return image.Pt(min(max(bx, 0), buffer.X-1), min(max(by, 0), buffer.Y-1))
}
