package wayland

import (
	"image"
	"slices"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// maxUnacked is how many configure events of a surface may wait for their acknowledgement; older ones are forgotten.
const maxUnacked = 256

// wmBase is xdg_wm_base.
type wmBase struct {
	o        *object
	surfaces int
}

func (w *wmBase) gone(*object) {}

func (w *wmBase) request(o *object, op int, args []wire.Value) error {
	w.o = o
	switch op {
	case protocol.XdgWmBaseRequestDestroy:
		if w.surfaces > 0 {
			return o.errorf(protocol.XdgWmBaseErrorDefunctSurfaces, "%d surfaces are left", w.surfaces)
		}
	case protocol.XdgWmBaseRequestCreatePositioner:
		o.make(args[0].ID(), protocol.XdgPositioner, &positioner{})
	case protocol.XdgWmBaseRequestGetXdgSurface:
		sf := o.c.objects.get(args[1].ID()).res.(*surface)
		if sf.xdg != nil || sf.role != nil || (sf.roleName != "" && sf.roleName != toplevelRole && sf.roleName != popupRole) {
			return o.errorf(protocol.XdgWmBaseErrorRole, "%v has a role", sf.o)
		}
		if sf.size != (image.Point{}) || sf.pending.buffer != nil {
			return o.errorf(protocol.XdgWmBaseErrorInvalidSurfaceState, "%v has a buffer", sf.o)
		}
		x := &xdgSurface{base: w, sf: sf}
		sf.xdg = x
		w.surfaces++
		x.o = o.make(args[0].ID(), protocol.XdgSurface, x)
	}
	return nil
}

// xdgRole is a toplevel or a popup.
type xdgRole interface {
	role
	configure()
	mapped() bool
	show() error
	hide()
}

// xdgSurface is xdg_surface: what toplevels and popups have in common.
type xdgSurface struct {
	o    *object
	base *wmBase
	sf   *surface // nil when destroyed
	role xdgRole  // nil before it is made, and after it is destroyed

	initial    bool     // the commit that asks for the first configure was made
	configured bool     // a configure was acknowledged since
	unacked    []uint32 // serials, oldest first

	geometry     image.Rectangle // empty: all of the surface
	nextGeometry image.Rectangle
	popups       []*popup // children, the newest last
}

func (x *xdgSurface) gone(*object) {
	x.base.surfaces--
	if x.sf != nil {
		x.sf.xdg = nil
	}
}

func (x *xdgSurface) request(o *object, op int, args []wire.Value) error {
	if op == protocol.XdgSurfaceRequestDestroy {
		if x.role != nil {
			return o.errorf(protocol.XdgSurfaceErrorDefunctRoleObject, "its role object is left")
		}
		return nil
	}
	if x.sf == nil {
		return o.errorf(protocol.XdgSurfaceErrorDefunctRoleObject, "its surface was destroyed")
	}
	switch op {
	case protocol.XdgSurfaceRequestGetToplevel:
		return x.getToplevel(args[0].ID())
	case protocol.XdgSurfaceRequestGetPopup:
		return x.getPopup(args)
	}
	if x.role == nil {
		return o.errorf(protocol.XdgSurfaceErrorNotConstructed, "it has no role")
	}
	switch op {
	case protocol.XdgSurfaceRequestSetWindowGeometry:
		r := rectArgs(args)
		if r.Empty() {
			return o.errorf(protocol.XdgSurfaceErrorInvalidSize, "window geometry of %dx%d", args[2].Int(), args[3].Int())
		}
		x.nextGeometry = r
	case protocol.XdgSurfaceRequestAckConfigure:
		i := slices.Index(x.unacked, args[0].Uint())
		if i < 0 {
			return o.errorf(protocol.XdgSurfaceErrorInvalidSerial, "no configure %d is unacknowledged", args[0].Uint())
		}
		x.unacked = append(x.unacked[:0], x.unacked[i+1:]...)
		x.configured = true
	}
	return nil
}

// take gives the surface a role object.
func (x *xdgSurface) take(r xdgRole) error {
	if x.role != nil {
		return x.o.errorf(protocol.XdgSurfaceErrorAlreadyConstructed, "it is a %s already", x.role.name())
	}
	if !x.sf.setRole(r) {
		return x.base.o.errorf(protocol.XdgWmBaseErrorRole, "%v is a %s", x.sf.o, x.sf.roleName)
	}
	x.role = r
	return nil
}

// drop takes the role object away, and with it the window.
func (x *xdgSurface) drop() {
	if x.role == nil {
		return
	}
	x.unmap()
	x.role = nil
	if x.sf != nil {
		x.sf.role = nil
	}
}

// unmap hides the window; it starts anew with the next commit.
func (x *xdgSurface) unmap() {
	for _, p := range slices.Clone(x.popups) {
		p.dismiss()
	}
	if x.role.mapped() {
		x.role.hide()
	}
	x.initial, x.configured, x.unacked = false, false, nil
	x.geometry, x.nextGeometry = image.Rectangle{}, image.Rectangle{}
}

// check refuses buffers before the first configure was acknowledged.
func (x *xdgSurface) check(st *state) error {
	if st.buffer != nil && !x.configured {
		return x.o.errorf(protocol.XdgSurfaceErrorUnconfiguredBuffer, "a buffer before a configure was acknowledged")
	}
	return nil
}

// applied maps, unmaps or configures the window, as its contents came, went or are asked for.
func (x *xdgSurface) applied() error {
	if x.geometry != x.nextGeometry {
		x.geometry = x.nextGeometry
		x.sf.s.scene.stale = true
	}
	switch empty := x.sf.size == (image.Point{}); {
	case empty && x.role.mapped():
		x.unmap()
	case empty && !x.initial:
		x.initial = true
		x.role.configure()
	case !empty && !x.role.mapped() && x.configured:
		return x.role.show()
	}
	return nil
}

// sendConfigure ends a group of configure events.
func (x *xdgSurface) sendConfigure() {
	serial := x.o.c.s.nextSerial()
	if len(x.unacked) >= maxUnacked {
		x.unacked = append(x.unacked[:0], x.unacked[1:]...)
	}
	x.unacked = append(x.unacked, serial)
	x.o.send(protocol.XdgSurfaceEventConfigure, wire.Uint(serial))
}

// window returns the part of the surface that is the window proper, without shadows.
func (x *xdgSurface) window() image.Rectangle {
	if x.geometry.Empty() {
		return image.Rectangle{Max: x.sf.size}
	}
	return x.geometry
}

// appendLayers appends the window and its popups, with the window's corner at a point of the screen.
func (x *xdgSurface) appendLayers(list []layer, at image.Point) []layer {
	if x.sf == nil || x.role == nil || !x.role.mapped() {
		return list
	}
	list = x.sf.appendLayers(list, at.Sub(x.window().Min))
	for _, p := range x.popups {
		if p.shown {
			list = p.x.appendLayers(list, at.Add(p.rect.Min))
		}
	}
	return list
}
