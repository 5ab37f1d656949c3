package wayland

import (
	"image"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// regionOp adds a rectangle to a region or takes it away.
type regionOp struct {
	rect     image.Rectangle
	subtract bool
}

// region is an area as the list of what made it; the last entry that covers a point decides.
type region []regionOp

func (r region) contains(p image.Point) bool {
	for i := len(r) - 1; i >= 0; i-- {
		if p.In(r[i].rect) {
			return !r[i].subtract
		}
	}
	return false
}

// regionResource is wl_region.
type regionResource struct{ ops region }

func (r *regionResource) gone(o *object) { o.c.regionOps -= len(r.ops) }

func (r *regionResource) request(o *object, op int, args []wire.Value) error {
	switch op {
	case protocol.WlRegionRequestAdd, protocol.WlRegionRequestSubtract:
		if len(r.ops) >= maxRegionOps || o.c.regionOps >= maxAllRegionOps {
			return o.c.display.errorf(protocol.WlDisplayErrorNoMemory, "more than %d rectangles in a region, or %d in all",
				maxRegionOps, maxAllRegionOps)
		}
		o.c.regionOps++
		r.ops = append(r.ops, regionOp{rect: rectArgs(args), subtract: op == protocol.WlRegionRequestSubtract})
	}
	return nil
}

// rectArgs makes a rectangle of four integers; a negative extent is an empty one.
func rectArgs(args []wire.Value) image.Rectangle {
	x, y, w, h := int(args[0].Int()), int(args[1].Int()), int(args[2].Int()), int(args[3].Int())
	return image.Rectangle{Min: image.Pt(x, y), Max: image.Pt(x+max(w, 0), y+max(h, 0))}
}
