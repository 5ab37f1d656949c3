package wayland

import (
	"image"
	"slices"
	"time"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// layer is a surface at its place on the screen.
type layer struct {
	sf   *surface
	at   image.Point // of its upper left corner
	size image.Point
}

func (l layer) rect() image.Rectangle { return image.Rectangle{Min: l.at, Max: l.at.Add(l.size)} }

// scene is what the screen shows: the newest mapped toplevel with its sub-surfaces and popups, before black.
//
// The usual phone shows one surface and nothing else. Its pixels go from the guest's buffer to the screen and are kept nowhere
// else: direct is that surface, and its pic is nil. When anything joins it, its pixels are read back from the screen. In every
// other scene each surface has a picture, and the damaged part of the screen is put together of them in scratch memory, so
// that the screen sees only what really differs.
type scene struct {
	s      *Server
	stack  []*toplevel // mapped, the newest last
	layers []layer     // what is shown, bottom first
	spare  []layer
	direct *surface

	stale   bool            // layers must be computed again
	dirty   image.Rectangle // of the screen, to be put together again
	scratch []byte          // a band of the screen
}

// bandRows is how many rows are put together at once.
const bandRows = 64

func (sc *scene) init(s *Server) { sc.s = s }

func (sc *scene) bounds() image.Rectangle {
	return image.Rect(0, 0, sc.s.cfg.Screen.Width(), sc.s.cfg.Screen.Height())
}

// top returns the toplevel that is shown, or nil.
func (sc *scene) top() *toplevel {
	if len(sc.stack) == 0 {
		return nil
	}
	return sc.stack[len(sc.stack)-1]
}

// find returns the layer of a surface that is shown.
func (sc *scene) find(sf *surface) (layer, bool) {
	for _, l := range sc.layers {
		if l.sf == sf {
			return l, true
		}
	}
	return layer{}, false
}

// at returns the surface that takes input at a point of the screen, and its layer.
func (sc *scene) at(p image.Point) (layer, bool) {
	for _, l := range slices.Backward(sc.layers) {
		if l.sf.accepts(p.Sub(l.at)) {
			return l, true
		}
	}
	return layer{}, false
}

// put takes the damaged pixels of a buffer into a surface.
func (sc *scene) put(sf *surface, b *buffer, st *state) error {
	if !st.view.identity(b.size()) {
		pic, err := sf.o.c.newContents(b, st.view)
		if err != nil {
			return err
		}
		sc.replace(sf, pic, st.view)
		return nil
	}
	if fits := b.size() == sf.size && b.alpha() != sf.opaque; fits && sc.direct == sf && sc.mayDirect(sf) {
		sf.view = st.view
		return sc.putDirect(sf, b, &st.damage)
	} else if fits && sf.pic != nil && sf.pic.base == nil {
		sf.view = st.view
		return sc.load(sf, b, &st.damage)
	}
	pic, err := sf.o.c.newPicture(b.size())
	if err != nil {
		return err
	}
	if err := pic.load(b, pic.bounds()); err != nil {
		pic.free()
		return err
	}
	sc.replace(sf, pic, st.view)
	return nil
}

// load takes damage into the surface's picture and marks where it is shown.
func (sc *scene) load(sf *surface, b *buffer, d *damage) error {
	for _, r := range d.list() {
		if err := sf.pic.load(b, r); err != nil {
			return err
		}
		sc.touch(sf, r)
	}
	return nil
}

// review shows a surface's contents through another view.
func (sc *scene) review(sf *surface, v view) error {
	if v == sf.view || sf.size == (image.Point{}) {
		return nil
	}
	if sc.direct == sf {
		sc.spill()
	}
	if sf.pic == nil {
		return nil
	}
	base := sf.pic
	if base.base != nil {
		base = sf.pic.base
	}
	pic, err := base.through(v)
	if err != nil {
		return err
	}
	if sf.pic.base == base { // the old picture goes, what it was made of stays
		sf.pic.base = nil
	} else {
		sf.pic = nil
	}
	sc.replace(sf, pic, v)
	return nil
}

// putDirect copies damage straight to the screen.
func (sc *scene) putDirect(sf *surface, b *buffer, d *damage) error {
	at := sc.layers[0].at
	bounds := image.Rectangle{Max: sf.size}
	var err error
	sc.s.cfg.Screen.Commit(time.Now(), func(c *screen.Canvas) {
		for _, r := range d.list() {
			if e := b.each(r.Intersect(bounds), func(band image.Rectangle, src []byte, stride int) {
				c.Copy(band.Add(at), src, stride, b.format)
			}); e != nil {
				err = e
			}
		}
	})
	if err != nil {
		return b.o.errorf(protocol.WlShmErrorInvalidFd, "%v", err)
	}
	return nil
}

// replace gives a surface new contents, made with a view.
func (sc *scene) replace(sf *surface, pic *picture, v view) {
	if sc.direct == sf {
		sc.direct = nil
	}
	sf.pic.free()
	sf.pic = pic
	if sf.size != pic.size {
		sc.stale = true
	}
	sf.size, sf.opaque, sf.view = pic.size, pic.opaque, v
	sc.touch(sf, whole)
}

// clear takes a surface's contents away.
func (sc *scene) clear(sf *surface) {
	if sf.size == (image.Point{}) {
		return
	}
	if sc.direct == sf {
		sc.direct = nil
	}
	sf.pic.free()
	sf.pic, sf.size = nil, image.Point{}
	sc.stale = true
}

// touch marks a part of a surface as changed on the screen.
func (sc *scene) touch(sf *surface, r image.Rectangle) {
	if l, ok := sc.find(sf); ok {
		sc.dirty = sc.dirty.Union(r.Intersect(image.Rectangle{Max: sf.size}).Add(l.at).Intersect(sc.bounds()))
	}
}

// forget takes a surface that is destroyed out of the scene.
func (sc *scene) forget(sf *surface) {
	sc.clear(sf)
	if _, shown := sc.find(sf); shown {
		sc.layers = slices.DeleteFunc(sc.layers, func(l layer) bool { return l.sf == sf })
		sc.dirty = sc.bounds()
		sc.stale = true
	}
}

// push shows a toplevel in front of all others.
func (sc *scene) push(t *toplevel) {
	sc.stack = append(sc.stack, t)
	sc.stale = true
	sc.s.cfg.Screen.SetContent(true)
}

// pop takes a toplevel away; the one beneath shows again.
func (sc *scene) pop(t *toplevel) {
	sc.stack = without(sc.stack, t)
	sc.stale = true
	if len(sc.stack) == 0 {
		sc.s.cfg.Screen.SetContent(false)
	}
}

// settle brings the screen up to date with the surfaces. It is called after every request.
func (sc *scene) settle() {
	if sc.stale {
		sc.relayout()
		sc.s.seat.refocus()
	}
	if !sc.dirty.Empty() {
		sc.compose(sc.dirty)
		sc.dirty = image.Rectangle{}
	}
	if len(sc.layers) == 1 && sc.direct == nil && sc.mayDirect(sc.layers[0].sf) {
		sc.direct = sc.layers[0].sf
		sc.direct.pic.free()
		sc.direct.pic = nil
	}
}

// mayDirect tells whether the screen alone may keep the pixels of a surface: it is all that is shown, lies within the screen,
// and cannot come to show something through itself.
func (sc *scene) mayDirect(sf *surface) bool {
	return len(sc.layers) == 1 && sc.layers[0].sf == sf && (sf.pic == nil || sf.pic.base == nil) && sc.layers[0].rect().In(sc.bounds()) &&
		(sf.opaque || !sc.s.offers(protocol.WlSubcompositor))
}

// relayout finds out what is shown where, and marks what changed.
func (sc *scene) relayout() {
	sc.stale = false
	next := sc.spare[:0]
	if t := sc.top(); t != nil {
		next = t.layers(next)
	}
	if slices.Equal(next, sc.layers) {
		sc.spare = next
		return
	}
	if sc.direct != nil {
		sc.spill()
	}
	sc.announce(sc.layers, next)
	sc.spare, sc.layers = sc.layers, next
	sc.dirty = sc.bounds()
}

// announce tells surfaces that they came onto the screen or left it.
func (sc *scene) announce(before, after []layer) {
	tell := func(from, to []layer, op int) {
		for _, l := range from {
			if slices.ContainsFunc(to, func(o layer) bool { return o.sf == l.sf }) {
				continue
			}
			for _, out := range l.sf.o.c.outputs {
				l.sf.o.send(op, wire.Object(out.id))
			}
		}
	}
	tell(before, after, protocol.WlSurfaceEventLeave)
	tell(after, before, protocol.WlSurfaceEventEnter)
	sc.s.pace.reconsider()
}

// spill reads the pixels of the direct surface back from the screen into a picture of its own.
func (sc *scene) spill() {
	sf := sc.direct
	sc.direct = nil
	l, ok := sc.find(sf)
	if !ok {
		return
	}
	pic, err := sf.o.c.mapPicture(sf.size)
	if err != nil {
		sc.clear(sf)
		return
	}
	pic.opaque = sf.opaque
	r := sc.s.cfg.Screen.NewReader()
	defer r.Close()
	r.Read(func(v screen.View) {
		for y := range pic.size.Y {
			copy(pic.row(y, 0, pic.size.X), v.Pix[(l.at.Y+y)*v.Stride+l.at.X*4:])
		}
	})
	sf.pic = pic
}

// compose puts a part of the screen together.
func (sc *scene) compose(r image.Rectangle) {
	stride := r.Dx() * 4
	if need := stride * min(bandRows, r.Dy()); len(sc.scratch) < need {
		sc.scratch = make([]byte, need)
	}
	sc.s.cfg.Screen.Commit(time.Now(), func(c *screen.Canvas) {
		for y := r.Min.Y; y < r.Max.Y; y += bandRows {
			band := image.Rect(r.Min.X, y, r.Max.X, min(y+bandRows, r.Max.Y))
			pix := sc.scratch[:stride*band.Dy()]
			for i := range pix {
				pix[i] = 0
			}
			for _, l := range sc.layers {
				l.draw(pix, band, stride)
			}
			c.Copy(band, pix, stride, screen.XRGB8888)
		}
	})
	if len(sc.layers) < 2 {
		sc.scratch = nil // the usual phone needs it once
	}
}

// draw lays a layer over the pixels of a band.
func (l layer) draw(pix []byte, band image.Rectangle, stride int) {
	r := l.rect().Intersect(band)
	if r.Empty() || l.sf.pic == nil {
		return
	}
	for y := r.Min.Y; y < r.Max.Y; y++ {
		src := l.sf.pic.row(y-l.at.Y, r.Min.X-l.at.X, r.Max.X-l.at.X)
		dst := pix[(y-band.Min.Y)*stride+(r.Min.X-band.Min.X)*4:][:len(src)]
		if l.sf.opaque {
			copy(dst, src)
		} else {
			over(dst, src)
		}
	}
}

// over lays premultiplied pixels over others.
func over(dst, src []byte) {
	for i := 0; i+4 <= len(src); i += 4 {
		switch a := uint32(src[i+3]); a {
		case 255:
			copy(dst[i:i+4], src[i:i+4])
		case 0:
			// Premultiplied, so there is nothing to add; what is there anyway would glow.
		default:
			for j := i; j < i+4; j++ {
				below := uint32(dst[j])*(255-a) + 127
				dst[j] = uint8(min(uint32(src[j])+(below+1+below>>8)>>8, 255))
			}
		}
	}
}
