package wayland

import (
	"image"
	"slices"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

const popupRole = "xdg_popup"

// popup is xdg_popup: a menu or the like, before the window that it belongs to.
type popup struct {
	o      *object
	x      *xdgSurface
	parent *xdgSurface // nil when dismissed or the parent is gone
	pos    positioner
	rect   image.Rectangle // in the parent's window
	shown  bool
	grab   bool // takes the keyboard while it is shown
}

func (x *xdgSurface) getPopup(args []wire.Value) error {
	c := x.o.c
	parentObject := c.objects.get(args[1].ID())
	if parentObject == nil || parentObject == x.o {
		return x.base.o.errorf(protocol.XdgWmBaseErrorInvalidPopupParent, "a popup without a parent")
	}
	parent := parentObject.res.(*xdgSurface)
	if parent.role == nil {
		return x.base.o.errorf(protocol.XdgWmBaseErrorInvalidPopupParent, "the parent has no role")
	}
	depth := 1
	for up, ok := parent.role.(*popup); ok && up.parent != nil; up, ok = up.parent.role.(*popup) {
		if depth++; depth > maxDepth {
			return c.display.errorf(protocol.WlDisplayErrorNoMemory, "popups nested more than %d deep", maxDepth)
		}
	}
	pos := c.objects.get(args[2].ID()).res.(*positioner)
	if !pos.complete() {
		return x.base.o.errorf(protocol.XdgWmBaseErrorInvalidPositioner, "a positioner without size or anchor")
	}
	p := &popup{x: x, parent: parent, pos: *pos}
	if err := x.take(p); err != nil {
		return err
	}
	parent.popups = append(parent.popups, p)
	p.o = x.o.make(args[0].ID(), protocol.XdgPopup, p)
	return nil
}

func (*popup) name() string            { return popupRole }
func (p *popup) mapped() bool          { return p.shown }
func (p *popup) check(st *state) error { return p.x.check(st) }
func (p *popup) applied() error        { return p.x.applied() }

func (p *popup) lost() {
	p.leaveParent()
	p.x.drop()
}

func (p *popup) gone(*object) {
	p.leaveParent()
	if p.x.role == xdgRole(p) {
		p.x.drop()
	}
}

func (p *popup) leaveParent() {
	if p.parent != nil {
		p.parent.popups = without(p.parent.popups, p)
		p.parent = nil
	}
}

func (p *popup) request(o *object, op int, args []wire.Value) error {
	switch op {
	case protocol.XdgPopupRequestDestroy:
		if slices.ContainsFunc(p.x.popups, func(c *popup) bool { return c.shown }) {
			return p.x.base.o.errorf(protocol.XdgWmBaseErrorNotTheTopmostPopup, "%v has a popup before it", o)
		}
	case protocol.XdgPopupRequestGrab:
		if p.shown {
			return o.errorf(protocol.XdgPopupErrorInvalidGrab, "a grab of a popup that is shown")
		}
		p.grab = true
	case protocol.XdgPopupRequestReposition:
		pos := o.c.objects.get(args[0].ID()).res.(*positioner)
		if !pos.complete() {
			return p.x.base.o.errorf(protocol.XdgWmBaseErrorInvalidPositioner, "a positioner without size or anchor")
		}
		p.pos = *pos
		o.send(protocol.XdgPopupEventRepositioned, wire.Uint(args[1].Uint()))
		p.configure()
	}
	return nil
}

// configure computes where the popup goes and tells it.
func (p *popup) configure() {
	s := p.o.c.s
	room := s.scene.bounds()
	if p.parent != nil {
		room = room.Sub(s.scene.origin(p.parent))
	}
	p.rect = p.pos.place(room)
	s.scene.stale = true
	p.o.send(protocol.XdgPopupEventConfigure, wire.Int(int32(p.rect.Min.X)), wire.Int(int32(p.rect.Min.Y)),
		wire.Int(int32(p.rect.Dx())), wire.Int(int32(p.rect.Dy())))
	p.x.sendConfigure()
}

// origin returns where on the screen the window of an xdg_surface that is shown has its corner.
func (sc *scene) origin(x *xdgSurface) image.Point {
	if x.sf != nil {
		if l, ok := sc.find(x.sf); ok {
			return l.at.Add(x.window().Min)
		}
	}
	return image.Point{}
}

func (p *popup) show() error {
	if p.parent == nil {
		return nil // dismissed meanwhile
	}
	if p.parent.role == nil || !p.parent.role.mapped() {
		return p.x.base.o.errorf(protocol.XdgWmBaseErrorInvalidPopupParent, "the parent of %v is not shown", p.o)
	}
	p.shown = true
	p.x.sf.s.scene.stale = true
	return nil
}

func (p *popup) hide() {
	p.shown = false
	p.o.c.s.scene.stale = true
}

// dismiss hides the popup, and those before it, and tells the client to destroy it.
func (p *popup) dismiss() {
	for _, c := range slices.Clone(p.x.popups) {
		c.dismiss()
	}
	if p.shown {
		p.hide()
	}
	p.leaveParent()
	p.o.send(protocol.XdgPopupEventPopupDone)
}
