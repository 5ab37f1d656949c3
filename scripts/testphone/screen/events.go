package screen

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// handle acts on an event.
func (s *composer) handle(ctx context.Context, e event) error {
	defer e.close()
	switch e.face {
	case protocol.WlDisplay:
		return s.handleDisplay(e)
	case protocol.WlRegistry:
		if e.opcode == protocol.WlRegistryEventGlobal {
			return s.bind(ctx, e.args[0].Uint(), e.args[1].Text(), e.args[2].Uint())
		}
	case protocol.WlCallback:
		s.done[e.object] = true
	case protocol.WlOutput:
		s.handleOutput(e)
	case protocol.XdgWmBase:
		return s.send(e.object, protocol.XdgWmBase, protocol.XdgWmBaseRequestPong, e.args[0])
	case protocol.XdgSurface:
		return s.send(e.object, protocol.XdgSurface, protocol.XdgSurfaceRequestAckConfigure, e.args[0])
	case protocol.XdgToplevel:
		return s.handleToplevel(e)
	case protocol.WlSeat:
		if e.opcode == protocol.WlSeatEventCapabilities {
			return s.handleCapabilities(e.args[0].Uint())
		}
	}
	if s.picture != nil {
		s.handleInput(e)
	}
	return nil // wl_shm.format, wl_buffer.release, wl_surface.enter: nothing follows
}

func (s *composer) handleDisplay(e event) error {
	if e.opcode == protocol.WlDisplayEventDeleteId {
		s.deleted(e.args[0].Uint())
		return nil
	}
	return fmt.Errorf("the display refuses: object %d, error %d: %s: %w", e.args[0].ID(), e.args[1].Uint(), e.args[2].Text(), errdefs.ErrFailedPrecondition)
}

func (s *composer) handleOutput(e event) {
	switch e.opcode {
	case protocol.WlOutputEventMode:
		if e.args[0].Uint()&protocol.WlOutputModeCurrent == 0 {
			return
		}
		s.modeWidth, s.modeHeight = int(e.args[1].Int()), int(e.args[2].Int())
		if milliHertz := e.args[3].Int(); milliHertz > 1000 && milliHertz < 1_000_000 {
			s.milliHertz = int(milliHertz)
		}
	case protocol.WlOutputEventScale:
		s.scale = max(int(e.args[0].Int()), 1)
	}
}

// handleToplevel takes the first size that is told, unless properties have fixed it.
func (s *composer) handleToplevel(e event) error {
	switch e.opcode {
	case protocol.XdgToplevelEventConfigure:
		if width, height := int(e.args[0].Int()), int(e.args[1].Int()); s.width == 0 && s.height == 0 && width > 0 && height > 0 {
			s.width, s.height = width, height
		}
	case protocol.XdgToplevelEventClose:
		return fmt.Errorf("the display closed the window: %w", errdefs.ErrUnavailable)
	}
	return nil
}

// handleCapabilities gets the devices that the seat has, once each.
func (s *composer) handleCapabilities(capabilities uint32) error {
	seat := s.globals["wl_seat"].id
	for _, device := range []struct {
		bit    uint32
		id     *uint32
		face   *wire.Interface
		opcode int
	}{
		{protocol.WlSeatCapabilityPointer, &s.pointer, protocol.WlPointer, protocol.WlSeatRequestGetPointer},
		{protocol.WlSeatCapabilityKeyboard, &s.keyboard, protocol.WlKeyboard, protocol.WlSeatRequestGetKeyboard},
		{protocol.WlSeatCapabilityTouch, &s.touch, protocol.WlTouch, protocol.WlSeatRequestGetTouch},
	} {
		if capabilities&device.bit == 0 || *device.id != 0 {
			continue
		}
		*device.id = s.create(device.face)
		if err := s.send(seat, protocol.WlSeat, device.opcode, wire.NewID(*device.id)); err != nil {
			return err
		}
	}
	return nil
}
