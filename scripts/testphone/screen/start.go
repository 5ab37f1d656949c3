package screen

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// global is one of the five objects that the composer binds, and the highest version it takes.
type global struct {
	face    *wire.Interface
	version uint32
	id      uint32 // 0 until bound
}

func globals() map[string]*global {
	return map[string]*global{
		"wl_compositor": {face: protocol.WlCompositor, version: 5},
		"wl_shm":        {face: protocol.WlShm, version: 1},
		"xdg_wm_base":   {face: protocol.XdgWmBase, version: 1},
		"wl_output":     {face: protocol.WlOutput, version: 3},
		"wl_seat":       {face: protocol.WlSeat, version: 5},
	}
}

// begin goes through Waydroid's start: registry, globals, surface. At its end the size is known.
func (s *composer) begin(ctx context.Context) error {
	s.registry = s.create(protocol.WlRegistry)
	if err := s.send(displayID, protocol.WlDisplay, protocol.WlDisplayRequestGetRegistry, wire.NewID(s.registry)); err != nil {
		return err
	}
	if err := s.roundtrip(ctx); err != nil {
		return fmt.Errorf("bind globals: %w", err)
	}
	for _, name := range []string{"wl_compositor", "wl_shm", "xdg_wm_base", "wl_output"} {
		if s.globals[name].id == 0 {
			return fmt.Errorf("the display does not offer %s: %w", name, errdefs.ErrNotImplemented)
		}
	}
	if err := s.makeWindow(); err != nil {
		return fmt.Errorf("make the window: %w", err)
	}
	if err := s.roundtrip(ctx); err != nil {
		return fmt.Errorf("make the window: %w", err)
	}
	if err := s.send(s.surface, protocol.WlSurface, protocol.WlSurfaceRequestCommit); err != nil {
		return err
	}
	if s.width == 0 || s.height == 0 {
		s.width, s.height = s.modeWidth/s.scale, s.modeHeight/s.scale
	}
	if s.width == 0 || s.height == 0 {
		return fmt.Errorf("the display told no size: %w", errdefs.ErrUnavailable)
	}
	return nil
}

// makeWindow sends what comes before the first roundtrip of a window.
func (s *composer) makeWindow() error {
	s.surface = s.create(protocol.WlSurface)
	s.xdgSurface = s.create(protocol.XdgSurface)
	s.toplevel = s.create(protocol.XdgToplevel)
	return errors.Join(
		s.send(s.globals["wl_compositor"].id, protocol.WlCompositor, protocol.WlCompositorRequestCreateSurface, wire.NewID(s.surface)),
		s.send(s.globals["xdg_wm_base"].id, protocol.XdgWmBase, protocol.XdgWmBaseRequestGetXdgSurface, wire.NewID(s.xdgSurface), wire.Object(s.surface)),
		s.send(s.xdgSurface, protocol.XdgSurface, protocol.XdgSurfaceRequestGetToplevel, wire.NewID(s.toplevel)),
		s.send(s.toplevel, protocol.XdgToplevel, protocol.XdgToplevelRequestSetMaximized),
		s.send(s.toplevel, protocol.XdgToplevel, protocol.XdgToplevelRequestSetTitle, wire.String("testphone")),
		s.send(s.toplevel, protocol.XdgToplevel, protocol.XdgToplevelRequestSetAppId, wire.String("testphone")),
		s.send(s.surface, protocol.WlSurface, protocol.WlSurfaceRequestCommit),
	)
}

// roundtrip asks for a sync and handles events until its answer is there. Handlers may call it again.
func (s *composer) roundtrip(ctx context.Context) error {
	callback := s.create(protocol.WlCallback)
	if err := s.send(displayID, protocol.WlDisplay, protocol.WlDisplayRequestSync, wire.NewID(callback)); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	for !s.done[callback] {
		select {
		case e, ok := <-s.events:
			if !ok {
				return s.err
			}
			if err := s.handle(ctx, e); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	delete(s.done, callback)
	return nil
}

// bind binds a global if it is one that the composer wants and has not.
func (s *composer) bind(ctx context.Context, name uint32, face string, version uint32) error {
	g := s.globals[face]
	if g == nil || g.id != 0 {
		return nil
	}
	g.version = min(g.version, version)
	g.id = s.create(g.face)
	if err := s.send(s.registry, protocol.WlRegistry, protocol.WlRegistryRequestBind,
		wire.Uint(name), wire.String(face), wire.Uint(g.version), wire.NewID(g.id)); err != nil {
		return err
	}
	if face == "wl_output" {
		return s.roundtrip(ctx)
	}
	return nil
}
