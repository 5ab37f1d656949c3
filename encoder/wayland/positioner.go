package wayland

import (
	"image"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// positioner is xdg_positioner: rules for the place of a popup.
type positioner struct {
	size     image.Point
	anchor   image.Rectangle
	anchored bool // anchor was set
	edge     uint32
	gravity  uint32
	adjust   uint32
	offset   image.Point
}

func (p *positioner) gone(*object) {}

// complete tells whether everything that must be set is.
func (p *positioner) complete() bool { return p.size.X > 0 && p.size.Y > 0 && p.anchored }

func (p *positioner) request(o *object, op int, args []wire.Value) error {
	switch op {
	case protocol.XdgPositionerRequestSetSize:
		if args[0].Int() <= 0 || args[1].Int() <= 0 {
			return o.errorf(protocol.XdgPositionerErrorInvalidInput, "size of %dx%d", args[0].Int(), args[1].Int())
		}
		p.size = image.Pt(int(args[0].Int()), int(args[1].Int()))
	case protocol.XdgPositionerRequestSetAnchorRect:
		if args[2].Int() < 0 || args[3].Int() < 0 {
			return o.errorf(protocol.XdgPositionerErrorInvalidInput, "anchor of %dx%d", args[2].Int(), args[3].Int())
		}
		p.anchor, p.anchored = rectArgs(args), true
	case protocol.XdgPositionerRequestSetAnchor:
		if args[0].Uint() > protocol.XdgPositionerAnchorBottomRight {
			return o.errorf(protocol.XdgPositionerErrorInvalidInput, "anchor %d", args[0].Uint())
		}
		p.edge = args[0].Uint()
	case protocol.XdgPositionerRequestSetGravity:
		if args[0].Uint() > protocol.XdgPositionerGravityBottomRight {
			return o.errorf(protocol.XdgPositionerErrorInvalidInput, "gravity %d", args[0].Uint())
		}
		p.gravity = args[0].Uint()
	case protocol.XdgPositionerRequestSetConstraintAdjustment:
		p.adjust = args[0].Uint()
	case protocol.XdgPositionerRequestSetOffset:
		p.offset = image.Pt(int(args[0].Int()), int(args[1].Int()))
	}
	return nil
}

// sides splits an anchor or gravity into directions: -1 left or top, 1 right or bottom, 0 neither. The two enums agree.
func sides(v uint32) (x, y int) {
	switch v {
	case protocol.XdgPositionerAnchorTop:
		return 0, -1
	case protocol.XdgPositionerAnchorBottom:
		return 0, 1
	case protocol.XdgPositionerAnchorLeft:
		return -1, 0
	case protocol.XdgPositionerAnchorRight:
		return 1, 0
	case protocol.XdgPositionerAnchorTopLeft:
		return -1, -1
	case protocol.XdgPositionerAnchorBottomLeft:
		return -1, 1
	case protocol.XdgPositionerAnchorTopRight:
		return 1, -1
	case protocol.XdgPositionerAnchorBottomRight:
		return 1, 1
	}
	return 0, 0
}

// axis is the placing in one direction.
type axis struct {
	lo, hi       int // of the anchor rectangle
	size, offset int
	edge         int // -1, 0, 1
	gravity      int
	flip         bool
	slide        bool
	resize       bool
}

// at returns where the popup begins with the given edge and gravity.
func (a axis) at(edge, gravity, offset int) int {
	pos := (a.lo + a.hi) / 2
	switch edge {
	case -1:
		pos = a.lo
	case 1:
		pos = a.hi
	}
	switch gravity {
	case -1:
		pos -= a.size
	case 0:
		pos -= a.size / 2
	}
	return pos + offset
}

// place returns where the popup begins and ends, within lo..hi if the adjustments allow it.
func (a axis) place(lo, hi int) (from, to int) {
	fits := func(pos int) bool { return pos >= lo && pos+a.size <= hi }
	pos := a.at(a.edge, a.gravity, a.offset)
	if fits(pos) {
		return pos, pos + a.size
	}
	if a.flip {
		if flipped := a.at(-a.edge, -a.gravity, -a.offset); fits(flipped) {
			return flipped, flipped + a.size
		}
	}
	if a.slide {
		pos = max(min(pos, hi-a.size), lo)
		if fits(pos) {
			return pos, pos + a.size
		}
	}
	if a.resize {
		if from, to = max(pos, lo), min(pos+a.size, hi); from < to {
			return from, to
		}
	}
	return pos, pos + a.size
}

// place returns the popup's rectangle in its parent's window, of which room is what the screen shows.
func (p *positioner) place(room image.Rectangle) image.Rectangle {
	edgeX, edgeY := sides(p.edge)
	gravX, gravY := sides(p.gravity)
	has := func(bit uint32) bool { return p.adjust&bit != 0 }
	x := axis{lo: p.anchor.Min.X, hi: p.anchor.Max.X, size: p.size.X, offset: p.offset.X, edge: edgeX, gravity: gravX,
		flip:   has(protocol.XdgPositionerConstraintAdjustmentFlipX),
		slide:  has(protocol.XdgPositionerConstraintAdjustmentSlideX),
		resize: has(protocol.XdgPositionerConstraintAdjustmentResizeX)}
	y := axis{lo: p.anchor.Min.Y, hi: p.anchor.Max.Y, size: p.size.Y, offset: p.offset.Y, edge: edgeY, gravity: gravY,
		flip:   has(protocol.XdgPositionerConstraintAdjustmentFlipY),
		slide:  has(protocol.XdgPositionerConstraintAdjustmentSlideY),
		resize: has(protocol.XdgPositionerConstraintAdjustmentResizeY)}
	var r image.Rectangle
	r.Min.X, r.Max.X = x.place(room.Min.X, room.Max.X)
	r.Min.Y, r.Max.Y = y.place(room.Min.Y, room.Max.Y)
	return r
}
