package wayland

import (
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// outputResource is wl_output: the one screen.
type outputResource struct{}

func (outputResource) request(*object, int, []wire.Value) error { return nil }

func (outputResource) gone(o *object) { o.c.outputs = without(o.c.outputs, o) }

// outputBound describes the screen to a client, and which of its surfaces are on it.
func outputBound(o *object) {
	s := o.c.s
	width, height := s.cfg.Screen.Width(), s.cfg.Screen.Height()
	millimetres := func(pixels int) int32 { return int32(float64(pixels)*25.4/float64(s.cfg.DPI) + 0.5) }
	o.send(protocol.WlOutputEventGeometry, wire.Int(0), wire.Int(0),
		wire.Int(millimetres(width)), wire.Int(millimetres(height)), wire.Int(protocol.WlOutputSubpixelUnknown),
		wire.String("phonehost"), wire.String("display"), wire.Int(protocol.WlOutputTransformNormal))
	o.send(protocol.WlOutputEventMode, wire.Uint(protocol.WlOutputModeCurrent|protocol.WlOutputModePreferred),
		wire.Int(int32(width)), wire.Int(int32(height)), wire.Int(int32(s.cfg.FPS*1000)))
	o.send(protocol.WlOutputEventScale, wire.Int(1))
	o.send(protocol.WlOutputEventDone)
	o.c.outputs = append(o.c.outputs, o)
	for _, l := range s.scene.layers {
		if l.sf.o.c == o.c {
			l.sf.o.send(protocol.WlSurfaceEventEnter, wire.Object(o.id))
		}
	}
}
