package wayland

import (
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// viewporter is wp_viewporter.
type viewporter struct{}

func (viewporter) gone(*object) {}

func (viewporter) request(o *object, op int, args []wire.Value) error {
	if op != protocol.WpViewporterRequestGetViewport {
		return nil
	}
	sf := o.c.objects.get(args[1].ID()).res.(*surface)
	if sf.viewport != nil {
		return o.errorf(protocol.WpViewporterErrorViewportExists, "%v has a viewport", sf.o)
	}
	v := &viewport{sf: sf}
	v.o = o.make(args[0].ID(), protocol.WpViewport, v)
	sf.viewport = v.o
	return nil
}

// viewport is wp_viewport: it crops and scales a surface.
type viewport struct {
	o  *object
	sf *surface // nil when destroyed
}

func (v *viewport) surface() *surface {
	if v.sf != nil && v.sf.viewport != v.o {
		v.sf = nil
	}
	return v.sf
}

func (v *viewport) gone(*object) {
	sf := v.surface()
	if sf == nil {
		return
	}
	plain := plainView()
	plain.scale, plain.transform = sf.pending.view.scale, sf.pending.view.transform
	sf.pending.view = plain
	sf.viewport = nil
}

func (v *viewport) request(o *object, op int, args []wire.Value) error {
	if op == protocol.WpViewportRequestDestroy {
		return nil
	}
	sf := v.surface()
	if sf == nil {
		return o.errorf(protocol.WpViewportErrorNoSurface, "its surface was destroyed")
	}
	p := &sf.pending.view
	switch op {
	case protocol.WpViewportRequestSetSource:
		x, y, w, h := int32(args[0].Fixed()), int32(args[1].Fixed()), int32(args[2].Fixed()), int32(args[3].Fixed())
		unset := x == -256 && y == -256 && w == -256 && h == -256
		if !unset && (x < 0 || y < 0 || w <= 0 || h <= 0) {
			return o.errorf(protocol.WpViewportErrorBadValue, "source %d,%d of %dx%d", x, y, w, h)
		}
		p.srcX, p.srcY, p.srcW, p.srcH = x, y, w, h
	case protocol.WpViewportRequestSetDestination:
		w, h := args[0].Int(), args[1].Int()
		if (w != -1 || h != -1) && (w <= 0 || h <= 0) {
			return o.errorf(protocol.WpViewportErrorBadValue, "destination of %dx%d", w, h)
		}
		p.dstW, p.dstH = w, h
	}
	return nil
}
