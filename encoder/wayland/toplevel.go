package wayland

import (
	"encoding/binary"
	"image"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

const toplevelRole = "xdg_toplevel"

// toplevel is xdg_toplevel: a window. Every window is told to fill the screen.
type toplevel struct {
	o      *object
	x      *xdgSurface
	shown  bool
	active bool // what it was last told
}

func (x *xdgSurface) getToplevel(id uint32) error {
	t := &toplevel{x: x, active: true}
	if err := x.take(t); err != nil {
		return err
	}
	t.o = x.o.make(id, protocol.XdgToplevel, t)
	return nil
}

func (*toplevel) name() string            { return toplevelRole }
func (t *toplevel) mapped() bool          { return t.shown }
func (t *toplevel) check(st *state) error { return t.x.check(st) }
func (t *toplevel) applied() error        { return t.x.applied() }
func (t *toplevel) lost()                 { t.x.drop() }
func (t *toplevel) gone(*object)          { t.dropRole() }

// dropRole ends the role unless the surface's end did.
func (t *toplevel) dropRole() {
	if t.x.role == xdgRole(t) {
		t.x.drop()
	}
}

func (t *toplevel) show() error {
	t.shown = true
	t.x.sf.s.scene.push(t)
	return nil
}

func (t *toplevel) hide() {
	t.shown = false
	t.o.c.s.scene.pop(t)
}

// configure tells the window its size and whether it has the focus.
func (t *toplevel) configure() {
	s := t.o.c.s
	states := binary.NativeEndian.AppendUint32(make([]byte, 0, 8), protocol.XdgToplevelStateFullscreen)
	if t.active {
		states = binary.NativeEndian.AppendUint32(states, protocol.XdgToplevelStateActivated)
	}
	t.o.send(protocol.XdgToplevelEventConfigure, wire.Int(int32(s.cfg.Screen.Width())), wire.Int(int32(s.cfg.Screen.Height())), wire.Array(states))
	t.x.sendConfigure()
}

// activate tells the window whether it has the focus, if that changed.
func (t *toplevel) activate(active bool) {
	if t.active != active {
		t.active = active
		t.configure()
	}
}

func (t *toplevel) request(o *object, op int, args []wire.Value) error {
	switch op {
	case protocol.XdgToplevelRequestResize:
		if edge := args[2].Uint(); edge > protocol.XdgToplevelResizeEdgeBottomRight || edge&3 == 3 {
			return o.errorf(protocol.XdgToplevelErrorInvalidResizeEdge, "edge %d", edge)
		}
	case protocol.XdgToplevelRequestSetMaxSize, protocol.XdgToplevelRequestSetMinSize:
		if args[0].Int() < 0 || args[1].Int() < 0 {
			return o.errorf(protocol.XdgToplevelErrorInvalidSize, "size of %dx%d", args[0].Int(), args[1].Int())
		}
	case protocol.XdgToplevelRequestSetMaximized, protocol.XdgToplevelRequestUnsetMaximized,
		protocol.XdgToplevelRequestSetFullscreen, protocol.XdgToplevelRequestUnsetFullscreen:
		// The answer is what it always is, and comes with the first configure if that is still due.
		if t.x.initial {
			t.configure()
		}
	}
	return nil
}

// layers appends what is shown of the window: in the middle of the screen, where it does not fill it.
func (t *toplevel) layers(list []layer) []layer {
	screen := t.o.c.s.scene.bounds().Size()
	window := t.x.window().Size()
	at := image.Pt(max(screen.X-window.X, 0)/2, max(screen.Y-window.Y, 0)/2)
	return t.x.appendLayers(list, at)
}
