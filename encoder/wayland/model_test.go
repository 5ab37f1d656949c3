package wayland

import (
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// modelPart is a surface with a pattern, as the model knows it.
type modelPart struct {
	surface, sub uint32
	at           image.Point
	size         image.Point
	colour       uint32 // of the corner: ARGB, premultiplied
	drawn        bool
}

// texel returns a pixel of the pattern.
func (part *modelPart) texel(p image.Point) uint32 {
	limit := uint32(0x7f)
	if part.colour>>24 == 0xff {
		limit = 0xff
	}
	r, g, b := part.colour>>16+uint32(p.X)*3, part.colour>>8+uint32(p.Y)*5, part.colour+uint32(p.X+p.Y)
	return part.colour&0xff000000 | r&limit<<16 | g&limit<<8 | b&limit
}

// modelWindow is a toplevel and its sub-surfaces, bottom first.
type modelWindow struct {
	peer *peer
	comp uint32
	win  window
	main modelPart
	subs []*modelPart
}

// model is what the screen should show, computed pixel by pixel.
type model struct {
	t       *testing.T
	s       *Server
	rnd     *rand.Rand
	size    image.Point
	windows []*modelWindow
}

// blend lays a premultiplied pixel over an opaque one, by the definition.
func blend(below color.RGBA, argb uint32) color.RGBA {
	a := argb >> 24
	mix := func(b byte, v uint32) byte { return byte(min(v&0xff+(uint32(b)*(255-a)+127)/255, 255)) }
	return color.RGBA{R: mix(below.R, argb>>16), G: mix(below.G, argb>>8), B: mix(below.B, argb), A: 255}
}

func (m *model) want(p image.Point) color.RGBA {
	c := color.RGBA{A: 255}
	if len(m.windows) == 0 {
		return c
	}
	w := m.windows[len(m.windows)-1]
	origin := image.Pt(max(m.size.X-w.main.size.X, 0)/2, max(m.size.Y-w.main.size.Y, 0)/2)
	for _, part := range append([]*modelPart{&w.main}, w.subs...) {
		if at := p.Sub(origin).Sub(part.at); part.drawn && at.In(image.Rectangle{Max: part.size}) {
			c = blend(c, part.texel(at))
		}
	}
	return c
}

// compare checks every pixel. Blending may round differently by one.
func (m *model) compare(step string) {
	m.t.Helper()
	img := m.s.cfg.Screen.Snapshot()
	near := func(a, b byte) bool { return max(a, b)-min(a, b) <= 2 }
	for y := range m.size.Y {
		for x := range m.size.X {
			got, want := img.RGBAAt(x, y), m.want(image.Pt(x, y))
			if !near(got.R, want.R) || !near(got.G, want.G) || !near(got.B, want.B) {
				m.t.Fatalf("%s: pixel %d,%d is %v, want %v", step, x, y, got, want)
			}
		}
	}
}

// colour returns a random colour, half transparent one time in three.
func (m *model) colour() uint32 {
	if v := m.rnd.Uint32(); m.rnd.IntN(3) > 0 {
		return v | 0xff000000
	} else {
		return v&0x007f7f7f | 0x80000000
	}
}

// draw gives a surface a buffer of a new colour, and perhaps a new size. What is opaque has no alpha channel.
func (m *model) draw(p *peer, part *modelPart, size image.Point) {
	part.size, part.colour, part.drawn = size, m.colour(), true
	mem := newMemory(m.t, size.X*size.Y*4, unix.MFD_ALLOW_SEALING)
	format, ignored := uint32(protocol.WlShmFormatArgb8888), uint32(0xffffffff)
	if part.colour>>24 == 0xff {
		format, ignored = protocol.WlShmFormatXrgb8888, 0x00ffffff
	}
	for y := range size.Y {
		for x := range size.X {
			binary.LittleEndian.PutUint32(mem.pix[(y*size.X+x)*4:], part.texel(image.Pt(x, y))&ignored)
		}
	}
	pool := p.pool(mem)
	b := p.buffer(pool, 0, size.X, size.Y, size.X*4, format)
	p.send(pool, protocol.WlShmPool, protocol.WlShmPoolRequestDestroy)
	p.show(part.surface, b)
	p.send(b, protocol.WlBuffer, protocol.WlBufferRequestDestroy)
}

func (m *model) randomSize() image.Point {
	if m.rnd.IntN(2) == 0 {
		return m.size
	}
	return image.Pt(1+m.rnd.IntN(m.size.X+10), 1+m.rnd.IntN(m.size.Y+10))
}

// step does one random thing and returns what it was.
func (m *model) step(peers []*peer, comps []uint32) string {
	if len(m.windows) == 0 || m.rnd.IntN(8) == 0 {
		i := m.rnd.IntN(len(peers))
		w := &modelWindow{peer: peers[i], comp: comps[i], win: peers[i].window()}
		w.main.surface = w.win.surface
		m.draw(w.peer, &w.main, m.randomSize())
		w.peer.roundtrip()
		m.windows = append(m.windows, w)
		return "open a window"
	}
	i := m.rnd.IntN(len(m.windows))
	w := m.windows[i]
	p := w.peer
	defer p.roundtrip()
	switch m.rnd.IntN(7) {
	case 0:
		p.send(w.win.toplevel, protocol.XdgToplevel, protocol.XdgToplevelRequestDestroy)
		m.windows = slices.Delete(m.windows, i, i+1)
		return "close a window"
	case 1:
		part := &modelPart{size: m.randomSize(), at: image.Pt(m.rnd.IntN(m.size.X)-5, m.rnd.IntN(m.size.Y)-5)}
		part.surface, part.sub = p.sub(w.comp, w.win.surface)
		p.subMove(part.sub, int32(part.at.X), int32(part.at.Y))
		m.draw(p, part, part.size)
		p.send(part.sub, protocol.WlSubsurface, protocol.WlSubsurfaceRequestSetDesync)
		p.commit(w.win.surface)
		w.subs = append(w.subs, part)
		return "add a sub-surface"
	case 2, 3:
		m.draw(p, &w.main, m.randomSize())
		return "draw a window"
	case 4:
		m.draw(p, &w.main, w.main.size)
		return "draw a window in its size"
	}
	if len(w.subs) == 0 {
		return "nothing"
	}
	part := w.subs[m.rnd.IntN(len(w.subs))]
	switch m.rnd.IntN(4) {
	case 0:
		p.send(part.surface, protocol.WlSurface, protocol.WlSurfaceRequestDestroy)
		w.subs = slices.DeleteFunc(w.subs, func(o *modelPart) bool { return o == part })
		return "destroy a sub-surface"
	case 1:
		part.at = image.Pt(m.rnd.IntN(m.size.X), m.rnd.IntN(m.size.Y))
		p.subMove(part.sub, int32(part.at.X), int32(part.at.Y))
		p.commit(w.win.surface)
		return "move a sub-surface"
	case 2:
		part.drawn = false
		p.send(part.surface, protocol.WlSurface, protocol.WlSurfaceRequestAttach, wire.Object(0), wire.Int(0), wire.Int(0))
		p.commit(part.surface)
		return "empty a sub-surface"
	}
	m.draw(p, part, m.randomSize())
	return "draw a sub-surface"
}

// TestRandomScenes opens, draws, covers, moves and closes surfaces of two clients at random, uses every input meanwhile, and
// compares the screen with the model after every step.
func TestRandomScenes(t *testing.T) {
	scenes := uint64(30)
	if testing.Short() {
		scenes = 5
	}
	for seed := range scenes {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			sc, err := screen.New(80, 70)
			if err != nil {
				t.Fatal(err)
			}
			s := serve(t, Config{Screen: sc, Globals: []string{"wl_subcompositor"}})
			m := &model{t: t, s: s, rnd: rand.New(rand.NewPCG(seed, 1)), size: image.Pt(80, 70)}
			peers := []*peer{connect(t, s), connect(t, s)}
			var comps []uint32
			for _, p := range peers {
				comps = append(comps, p.bind(protocol.WlSubcompositor, 1))
				p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetTouch, protocol.WlTouch)
				p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetKeyboard, protocol.WlKeyboard)
				p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetPointer, protocol.WlPointer)
			}
			direct := 0
			for n := range 60 {
				s.mu.Lock()
				if s.scene.direct != nil {
					direct++
				}
				s.mu.Unlock()
				m.compare(fmt.Sprint("step ", n, ": ", m.step(peers, comps)))
				x, y := m.rnd.Float64()*80, m.rnd.Float64()*70
				// Each may be refused, where nothing is in its place.
				_ = s.Touch(m.rnd.IntN(maxContacts), TouchAction(1+m.rnd.IntN(4)), x, y)
				_ = s.Key(uint32(1+m.rnd.IntN(247)), m.rnd.IntN(2) == 0)
				_ = s.Wheel(x, y, 0, 1)
				_ = s.Text("aB")
				for _, p := range peers {
					p.roundtrip()
					p.events = p.events[:0]
				}
			}
			if direct == 0 || direct == 60 {
				t.Errorf("the screen alone held the picture in %d of 60 steps", direct)
			}
		})
	}
}
