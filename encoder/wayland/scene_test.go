package wayland

import (
	"fmt"
	"image"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// sub makes a sub-surface of parent.
func (p *peer) sub(subcompositor, parent uint32) (surface, sub uint32) {
	p.t.Helper()
	surface = p.surface()
	sub = p.make(subcompositor, protocol.WlSubcompositor, protocol.WlSubcompositorRequestGetSubsurface, protocol.WlSubsurface,
		wire.Object(surface), wire.Object(parent))
	return surface, sub
}

func (p *peer) subMove(sub uint32, x, y int32) {
	p.t.Helper()
	p.send(sub, protocol.WlSubsurface, protocol.WlSubsurfaceRequestSetPosition, wire.Int(x), wire.Int(y))
}

func TestSubsurfaces(t *testing.T) {
	s := serve(t, Config{Globals: []string{"wl_subcompositor"}})
	p := connect(t, s)
	comp := p.bind(protocol.WlSubcompositor, 1)
	w := p.window()
	_, grey := p.picture(testWidth, testHeight, 0xff808080)
	p.show(w.surface, grey)
	p.roundtrip()

	child, sub := p.sub(comp, w.surface)
	p.subMove(sub, 10, 20)
	_, red := p.picture(50, 50, 0xffff0000)
	p.show(child, red)
	p.roundtrip()
	at := image.Pt(15, 25)
	wantPixels(t, s, map[image.Point]uint32{at: 0x808080}) // waits for the parent
	if got := len(p.take("wl_buffer.release")); got != 2 {
		t.Errorf("%d releases, want 2: a buffer that waits is not held", got)
	}
	p.commit(w.surface)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{at: 0xff0000, {X: 9, Y: 25}: 0x808080, {X: 59, Y: 69}: 0xff0000, {X: 60, Y: 69}: 0x808080})

	p.send(sub, protocol.WlSubsurface, protocol.WlSubsurfaceRequestSetDesync)
	_, half := p.picture(50, 50, 0x80008000) // half transparent green, premultiplied
	p.show(child, half)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{at: 0x40c040}) // 0x80 + 0x80*(1-0x80/0xff) = 0xc0 and 0x40

	second, sub2 := p.sub(comp, w.surface)
	p.subMove(sub2, 30, 40)
	_, blue := p.picture(50, 50, 0xff0000ff)
	p.show(second, blue)
	p.commit(w.surface)
	p.roundtrip()
	both := image.Pt(35, 45)
	wantPixels(t, s, map[image.Point]uint32{both: 0xff, {X: 79, Y: 89}: 0xff})
	p.send(sub2, protocol.WlSubsurface, protocol.WlSubsurfaceRequestPlaceBelow, wire.Object(child))
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{both: 0xff})
	p.commit(w.surface)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{both: 0x00807f, {X: 79, Y: 89}: 0xff})

	before := s.cfg.Screen.Counters()
	p.show(w.surface, grey) // nothing differs: the screen must see nothing
	p.roundtrip()
	if after := s.cfg.Screen.Counters(); after.Changed != before.Changed || after.Committed == before.Committed {
		t.Errorf("counters went from %+v to %+v", before, after)
	}

	p.send(child, protocol.WlSurface, protocol.WlSurfaceRequestDestroy)
	p.send(sub2, protocol.WlSubsurface, protocol.WlSubsurfaceRequestDestroy)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{at: 0x808080, both: 0x808080, {X: 79, Y: 89}: 0x808080})
}

func TestSubsurfaceBelowTransparentParent(t *testing.T) {
	s := serve(t, Config{Globals: []string{"wl_subcompositor"}})
	p := connect(t, s)
	comp := p.bind(protocol.WlSubcompositor, 1)
	w := p.window()
	_, clear := p.picture(testWidth, testHeight, 0)
	p.show(w.surface, clear)
	p.roundtrip()
	child, sub := p.sub(comp, w.surface)
	_, red := p.picture(testWidth, testHeight, 0xffff0000)
	p.show(child, red)
	p.send(sub, protocol.WlSubsurface, protocol.WlSubsurfaceRequestPlaceBelow, wire.Object(w.surface))
	p.commit(w.surface)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{X: 5, Y: 5}: 0xff0000})
}

func TestNestedSubsurfacesFollowTogether(t *testing.T) {
	s := serve(t, Config{Globals: []string{"wl_subcompositor"}})
	p := connect(t, s)
	comp := p.bind(protocol.WlSubcompositor, 1)
	w := p.shown(testWidth, testHeight)
	child, _ := p.sub(comp, w.surface)
	grandchild, low := p.sub(comp, child)
	p.send(low, protocol.WlSubsurface, protocol.WlSubsurfaceRequestSetDesync) // but its parent follows
	_, red := p.picture(40, 40, 0xffff0000)
	_, blue := p.picture(20, 20, 0xff0000ff)
	p.show(grandchild, blue)
	p.show(child, red)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{X: 5, Y: 5}: 0x808080})
	p.commit(w.surface)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{X: 5, Y: 5}: 0xff, {X: 25, Y: 25}: 0xff0000})
}

func TestSubsurfaceErrors(t *testing.T) {
	s := serve(t, Config{Globals: []string{"wl_subcompositor"}})
	tests := map[string]func(p *peer, comp uint32) (object, code uint32){
		"of itself": func(p *peer, comp uint32) (uint32, uint32) {
			sf := p.surface()
			p.make(comp, protocol.WlSubcompositor, 1, protocol.WlSubsurface, wire.Object(sf), wire.Object(sf))
			return comp, protocol.WlSubcompositorErrorBadSurface
		},
		"in a circle": func(p *peer, comp uint32) (uint32, uint32) {
			a := p.surface()
			b, _ := p.sub(comp, a)
			c, _ := p.sub(comp, b)
			p.make(comp, protocol.WlSubcompositor, 1, protocol.WlSubsurface, wire.Object(a), wire.Object(c))
			return comp, protocol.WlSubcompositorErrorBadSurface
		},
		"of a window": func(p *peer, comp uint32) (uint32, uint32) {
			w := p.window()
			p.make(comp, protocol.WlSubcompositor, 1, protocol.WlSubsurface, wire.Object(w.surface), wire.Object(p.surface()))
			return comp, protocol.WlSubcompositorErrorBadSurface
		},
		"too deep": func(p *peer, comp uint32) (uint32, uint32) {
			sf := p.surface()
			for range maxDepth + 1 {
				sf, _ = p.sub(comp, sf)
			}
			return 1, protocol.WlDisplayErrorNoMemory
		},
		"placed by a stranger": func(p *peer, comp uint32) (uint32, uint32) {
			_, sub := p.sub(comp, p.surface())
			p.send(sub, protocol.WlSubsurface, protocol.WlSubsurfaceRequestPlaceAbove, wire.Object(p.surface()))
			return sub, protocol.WlSubsurfaceErrorBadSurface
		},
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			p := connect(t, s)
			p.wantError(do(p, p.bind(protocol.WlSubcompositor, 1)))
		})
	}
}

func TestPopup(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetTouch, protocol.WlTouch)
	p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetKeyboard, protocol.WlKeyboard)
	w := p.shown(200, 100) // at 60,70
	pos := p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestCreatePositioner, protocol.XdgPositioner)
	p.send(pos, protocol.XdgPositioner, protocol.XdgPositionerRequestSetSize, wire.Int(80), wire.Int(30))
	p.send(pos, protocol.XdgPositioner, protocol.XdgPositionerRequestSetAnchorRect, wire.Int(180), wire.Int(10), wire.Int(20), wire.Int(10))
	p.send(pos, protocol.XdgPositioner, protocol.XdgPositionerRequestSetAnchor, wire.Uint(protocol.XdgPositionerAnchorBottomRight))
	p.send(pos, protocol.XdgPositioner, protocol.XdgPositionerRequestSetGravity, wire.Uint(protocol.XdgPositionerGravityBottomRight))
	p.send(pos, protocol.XdgPositioner, protocol.XdgPositionerRequestSetConstraintAdjustment, wire.Uint(protocol.XdgPositionerConstraintAdjustmentFlipX))
	sf := p.surface()
	x := p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestGetXdgSurface, protocol.XdgSurface, wire.Object(sf))
	pop := p.make(x, protocol.XdgSurface, protocol.XdgSurfaceRequestGetPopup, protocol.XdgPopup, wire.Object(w.xdg), wire.Object(pos))
	p.send(pop, protocol.XdgPopup, protocol.XdgPopupRequestGrab, wire.Object(p.seat), wire.Uint(1))
	p.commit(sf)
	p.roundtrip()
	// Right of the anchor it would end at 60+200+80 = 340: beyond the screen, so it goes left of it.
	conf := p.take("xdg_popup.configure")
	if len(conf) != 1 || fmt.Sprint(conf[0].args[0].Int(), conf[0].args[1].Int(), conf[0].args[2].Int(), conf[0].args[3].Int()) != "100 20 80 30" {
		t.Fatalf("configure is %v", conf)
	}
	p.ack(x)
	_, red := p.picture(80, 30, 0xffff0000)
	p.take("wl_keyboard.enter")
	p.show(sf, red)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{X: 160, Y: 90}: 0xff0000, {X: 239, Y: 119}: 0xff0000, {X: 159, Y: 90}: 0x808080, {X: 240, Y: 119}: 0x808080})
	if enter := p.take("wl_keyboard.enter"); len(enter) != 1 || enter[0].args[1].ID() != sf {
		t.Errorf("the popup did not get the keyboard: %v", enter)
	}
	if err := s.Touch(0, TouchDown, 161, 92); err != nil {
		t.Fatal(err)
	}
	p.roundtrip()
	if down := p.take("wl_touch.down"); len(down) != 1 || down[0].args[2].ID() != sf || down[0].args[4].Fixed().Float() != 1 {
		t.Errorf("touch is %v", down)
	}
	if err := s.Touch(1, TouchDown, 2, 2); err != nil { // beside everything
		t.Fatal(err)
	}
	p.roundtrip()
	if done := p.take("xdg_popup.popup_done"); len(done) != 1 {
		t.Errorf("the popup was not dismissed")
	}
	wantPixels(t, s, map[image.Point]uint32{{X: 160, Y: 90}: 0x808080})
	p.send(pop, protocol.XdgPopup, protocol.XdgPopupRequestDestroy)
	p.roundtrip()
}

func TestPositioner(t *testing.T) {
	room := image.Rect(0, 0, 100, 100)
	base := positioner{size: image.Pt(20, 10), anchor: image.Rect(40, 40, 60, 60), anchored: true}
	with := func(change func(p *positioner)) positioner { p := base; change(&p); return p }
	tests := map[string]struct {
		pos  positioner
		want image.Rectangle
	}{
		"in the middle": {base, image.Rect(40, 45, 60, 55)},
		"below": {with(func(p *positioner) {
			p.edge, p.gravity = protocol.XdgPositionerAnchorBottom, protocol.XdgPositionerGravityBottom
		}), image.Rect(40, 60, 60, 70)},
		"above left with an offset": {with(func(p *positioner) {
			p.edge, p.gravity, p.offset = protocol.XdgPositionerAnchorTopLeft, protocol.XdgPositionerGravityTopLeft, image.Pt(-1, 2)
		}), image.Rect(19, 32, 39, 42)},
		"slides": {with(func(p *positioner) {
			p.offset, p.adjust = image.Pt(70, 0), protocol.XdgPositionerConstraintAdjustmentSlideX
		}), image.Rect(80, 45, 100, 55)},
		"does not slide": {with(func(p *positioner) { p.offset = image.Pt(70, 0) }), image.Rect(110, 45, 130, 55)},
		"shrinks": {with(func(p *positioner) {
			p.offset, p.adjust = image.Pt(50, 0), protocol.XdgPositionerConstraintAdjustmentResizeX
		}), image.Rect(90, 45, 100, 55)},
		"too large slides to the start": {with(func(p *positioner) {
			p.size, p.adjust = image.Pt(200, 10), protocol.XdgPositionerConstraintAdjustmentSlideX
		}), image.Rect(0, 45, 200, 55)},
		"too large shrinks to the room": {with(func(p *positioner) {
			p.size, p.adjust = image.Pt(200, 10), protocol.XdgPositionerConstraintAdjustmentSlideX|protocol.XdgPositionerConstraintAdjustmentResizeX
		}), image.Rect(0, 45, 100, 55)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tt.pos.place(room); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// corners paints a buffer of width x height with a colour in each quarter: red, green over blue, white.
func corners(t *testing.T, p *peer, width, height int) uint32 {
	t.Helper()
	m := newMemory(t, width*height*4, unix.MFD_ALLOW_SEALING)
	for y := range height {
		for x := range width {
			v := []uint32{0xff0000, 0x00ff00, 0x0000ff, 0xffffff}[y*2/height*2+x*2/width]
			copy(m.pix[(y*width+x)*4:], words(0xff000000|v))
		}
	}
	return p.buffer(p.pool(m), 0, width, height, width*4, 0)
}

func TestTransforms(t *testing.T) {
	const r, g, b, w = 0xff0000, 0x00ff00, 0x0000ff, 0xffffff
	// What the corners show: upper left, upper right, lower left, lower right. The client has turned its picture
	// counter-clockwise by the transform's angle; the server turns it back.
	tests := [][4]uint32{{r, g, b, w}, {b, r, w, g}, {w, b, g, r}, {g, w, r, b}, {g, r, w, b}, {r, b, g, w}, {b, w, r, g}, {w, g, b, r}}
	for transform, want := range tests {
		for _, scale := range []int{1, 2} {
			t.Run(fmt.Sprintf("%d at scale %d", transform, scale), func(t *testing.T) {
				s := serve(t, Config{})
				p := connect(t, s)
				win := p.window()
				p.send(win.surface, protocol.WlSurface, protocol.WlSurfaceRequestSetBufferTransform, wire.Int(int32(transform)))
				p.send(win.surface, protocol.WlSurface, protocol.WlSurfaceRequestSetBufferScale, wire.Int(int32(scale)))
				width, height := testWidth, testHeight
				if transform%2 == 1 {
					width, height = height, width
				}
				p.show(win.surface, corners(t, p, width*scale, height*scale))
				p.roundtrip()
				wantPixels(t, s, map[image.Point]uint32{{X: 0, Y: 0}: want[0], {X: testWidth - 1, Y: 0}: want[1],
					{X: 0, Y: testHeight - 1}: want[2], {X: testWidth - 1, Y: testHeight - 1}: want[3],
					{X: testWidth/2 - 1, Y: testHeight/2 - 1}: want[0], {X: testWidth / 2, Y: testHeight / 2}: want[3]})
			})
		}
	}
}

func TestViewport(t *testing.T) {
	s := serve(t, Config{Globals: []string{"wp_viewporter"}})
	p := connect(t, s)
	porter := p.bind(protocol.WpViewporter, 1)
	w := p.window()
	vp := p.make(porter, protocol.WpViewporter, protocol.WpViewporterRequestGetViewport, protocol.WpViewport, wire.Object(w.surface))
	dst := func(x, y int32) {
		p.send(vp, protocol.WpViewport, protocol.WpViewportRequestSetDestination, wire.Int(x), wire.Int(y))
	}
	src := func(x, y, w, h float64) {
		p.send(vp, protocol.WpViewport, protocol.WpViewportRequestSetSource, wire.Fix(wire.ToFixed(x)), wire.Fix(wire.ToFixed(y)),
			wire.Fix(wire.ToFixed(w)), wire.Fix(wire.ToFixed(h)))
	}
	dst(testWidth, testHeight)
	p.show(w.surface, corners(t, p, 40, 40))
	p.roundtrip()
	end := image.Pt(testWidth-1, testHeight-1)
	wantPixels(t, s, map[image.Point]uint32{{}: 0xff0000, end: 0xffffff, {X: testWidth/2 - 1, Y: 0}: 0xff0000, {X: testWidth / 2, Y: 0}: 0x00ff00})
	src(20, 0, 20, 20) // without a new buffer
	p.commit(w.surface)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{}: 0x00ff00, end: 0x00ff00})
	src(-1, -1, -1, -1)
	dst(-1, -1)
	p.commit(w.surface)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{X: 140, Y: 100}: 0xff0000, {X: 179, Y: 139}: 0xffffff, {}: 0})
	src(0, 0, 41, 40)
	dst(10, 10)
	p.show(w.surface, corners(t, p, 40, 40))
	p.wantError(vp, protocol.WpViewportErrorOutOfBuffer)
}

func TestFocusIsShownToWindows(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	a := p.shown(testWidth, testHeight)
	p.take("xdg_toplevel.configure")
	b := p.shown(testWidth, testHeight)
	states := func(top uint32) (last []byte) {
		for _, e := range p.events {
			if e.name == "xdg_toplevel.configure" && e.id == top {
				last = e.args[2].Bytes()
			}
		}
		return last
	}
	if got := states(a.toplevel); len(got) != 4 {
		t.Errorf("the window beneath has states %v, want fullscreen alone", got)
	}
	p.send(b.toplevel, protocol.XdgToplevel, protocol.XdgToplevelRequestDestroy)
	p.roundtrip()
	if got := states(a.toplevel); len(got) != 8 {
		t.Errorf("the window that came back has states %v, want fullscreen and activated", got)
	}
}

// TestWindowComesAndGoes unmaps a window with a null buffer and maps it again.
func TestWindowComesAndGoes(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	w := p.shown(testWidth, testHeight)
	p.show(w.surface, 0)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{}: 0})
	p.events = nil
	p.commit(w.surface)
	p.roundtrip()
	p.ack(w.xdg)
	_, red := p.picture(testWidth, testHeight, 0xffff0000)
	p.show(w.surface, red)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{}: 0xff0000})
}
