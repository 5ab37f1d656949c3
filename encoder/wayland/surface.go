package wayland

import (
	"image"
	"math"
	"slices"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// compositorResource is wl_compositor.
type compositorResource struct{}

func (compositorResource) gone(*object) {}

func (compositorResource) request(o *object, op int, args []wire.Value) error {
	switch op {
	case protocol.WlCompositorRequestCreateSurface:
		if o.c.surfaces >= maxSurfaces {
			return o.c.display.errorf(protocol.WlDisplayErrorNoMemory, "more than %d surfaces", maxSurfaces)
		}
		o.c.surfaces++
		sf := &surface{s: o.c.s, inputAll: true, view: plainView()}
		sf.stack = []*surface{sf}
		sf.pending.init()
		sf.cached.init()
		sf.o = o.make(args[0].ID(), protocol.WlSurface, sf)
	case protocol.WlCompositorRequestCreateRegion:
		o.make(args[0].ID(), protocol.WlRegion, &regionResource{})
	}
	return nil
}

// role is what a surface is used as. A surface has at most one in its life, though the role's object may go and come back.
type role interface {
	// name is the role's name in messages.
	name() string
	// check is asked before a commit takes effect.
	check(st *state) error
	// applied is told that a commit took effect.
	applied() error
	// lost is told that the surface is destroyed.
	lost()
}

// state is what a commit makes current, all at once.
type state struct {
	attached bool    // a buffer, or none, was attached
	buffer   *buffer // nil to remove the contents
	picture  *picture
	damage   damage
	view     view
	input    region
	inputAll bool // no input region: all of the surface
	inputSet bool
	frames   []*object // wl_callback of frame
}

func (st *state) init() { *st = state{view: plainView(), inputAll: true, frames: st.frames[:0]} }

// surface is wl_surface.
type surface struct {
	o *object
	s *Server

	pending  state  // since the last commit
	cached   state  // committed, waiting for the parent; see subsurface
	input    region // where it takes input, unless that is everywhere
	inputAll bool

	role     role   // the object of the role; nil when it is gone
	roleName string // set once
	xdg      *xdgSurface
	viewport *object // its wp_viewport, if any

	// Contents: size is zero without any. The pixels are in pic, or, when pic is nil, on the screen alone.
	size   image.Point
	opaque bool
	view   view // through which they are seen
	pic    *picture

	// stack is the sub-surfaces and, between them, the surface itself, bottom first. nextStack is the order from the next
	// commit on; nil when it is the same.
	stack     []*surface
	nextStack []*surface

	frames  []*object // callbacks that wait
	waiting bool      // in pacer.waiting
}

// damage is a small set of rectangles.
type damage struct {
	rects [8]image.Rectangle
	n     int
}

// add adds a rectangle; when the set is full, all become one.
func (d *damage) add(r image.Rectangle) {
	if r.Empty() {
		return
	}
	if d.n < len(d.rects) {
		d.rects[d.n] = r
		d.n++
		return
	}
	for _, other := range d.rects {
		r = r.Union(other)
	}
	d.rects[0], d.n = r, 1
}

func (d *damage) list() []image.Rectangle { return d.rects[:d.n] }

// whole is damage to everything.
var whole = image.Rect(0, 0, math.MaxInt32, math.MaxInt32)

func (sf *surface) gone(o *object) {
	s := sf.s
	o.c.surfaces--
	for _, list := range [][]*surface{sf.stack, sf.nextStack} {
		for _, child := range list {
			if sub, ok := child.role.(*subsurface); ok && child != sf {
				sub.parent = nil
			}
		}
	}
	if sf.role != nil {
		sf.role.lost()
		sf.role = nil
	}
	if sf.xdg != nil {
		sf.xdg.sf = nil
	}
	sf.viewport = nil
	s.scene.forget(sf)
	s.seat.forget(sf)
	s.pace.forget(sf)
	for _, list := range [][]*object{sf.pending.frames, sf.cached.frames, sf.frames} {
		for _, cb := range list {
			o.c.remove(cb)
		}
	}
	sf.pending.frames, sf.cached.frames, sf.frames = nil, nil, nil
	sf.pic.free()
	sf.cached.picture.free()
}

func (sf *surface) request(o *object, op int, args []wire.Value) error {
	p := &sf.pending
	switch op {
	case protocol.WlSurfaceRequestAttach:
		return sf.attach(args)
	case protocol.WlSurfaceRequestDamage, protocol.WlSurfaceRequestDamageBuffer:
		// Surfaces and buffers differ only in views that are not simple, where all is taken anyway.
		p.damage.add(rectArgs(args))
	case protocol.WlSurfaceRequestFrame:
		if o.c.callbacks >= maxCallbacks {
			return o.c.display.errorf(protocol.WlDisplayErrorNoMemory, "more than %d frame callbacks wait", maxCallbacks)
		}
		p.frames = append(p.frames, o.make(args[0].ID(), protocol.WlCallback, frameCallback{}))
		o.c.callbacks++
	case protocol.WlSurfaceRequestSetInputRegion:
		p.inputSet, p.inputAll, p.input = true, true, nil
		if r := o.c.objects.get(args[0].ID()); r != nil {
			p.inputAll, p.input = false, slices.Clip(r.res.(*regionResource).ops)
		}
	case protocol.WlSurfaceRequestCommit:
		return sf.commit()
	case protocol.WlSurfaceRequestSetBufferTransform:
		t := args[0].Int()
		if t < protocol.WlOutputTransformNormal || t > protocol.WlOutputTransformFlipped270 {
			return o.errorf(protocol.WlSurfaceErrorInvalidTransform, "transform %d", t)
		}
		p.view.transform = t
	case protocol.WlSurfaceRequestSetBufferScale:
		if args[0].Int() <= 0 {
			return o.errorf(protocol.WlSurfaceErrorInvalidScale, "scale %d", args[0].Int())
		}
		p.view.scale = args[0].Int()
	}
	return nil
}

func (sf *surface) attach(args []wire.Value) error {
	x, y := args[1].Int(), args[2].Int()
	if sf.o.version >= 5 && (x != 0 || y != 0) {
		return sf.o.errorf(protocol.WlSurfaceErrorInvalidOffset, "attach at %d,%d", x, y)
	}
	sf.pending.attached, sf.pending.buffer = true, nil
	if b := sf.o.c.objects.get(args[0].ID()); b != nil {
		sf.pending.buffer = b.res.(*buffer)
	}
	return nil
}

// setRole gives the surface a role, or tells that it has another.
func (sf *surface) setRole(r role) bool {
	if sf.role != nil || (sf.roleName != "" && sf.roleName != r.name()) {
		return false
	}
	sf.role, sf.roleName = r, r.name()
	return true
}

// commit makes what is pending current, or, in a sub-surface that follows its parent, keeps it for the parent's commit.
func (sf *surface) commit() error {
	st := &sf.pending
	if st.buffer != nil && st.buffer.dead {
		st.buffer = nil
	}
	if st.buffer != nil {
		if err := sf.checkBuffer(st); err != nil {
			return err
		}
	}
	if sf.xdg != nil && sf.roleName == "" {
		return sf.xdg.o.errorf(protocol.XdgSurfaceErrorNotConstructed, "commit without a role")
	}
	if sf.role != nil {
		if err := sf.role.check(st); err != nil {
			return err
		}
	}
	if sub, ok := sf.role.(*subsurface); ok && sub.follows() {
		return sf.cache()
	}
	err := sf.apply(st)
	sf.next()
	return err
}

// next makes an empty pending state out of the one that was committed.
func (sf *surface) next() {
	v := sf.pending.view
	sf.pending.init()
	sf.pending.view = v
}

// checkBuffer refuses buffers that do not fit their view.
func (sf *surface) checkBuffer(st *state) error {
	b, v := st.buffer, &st.view
	if b.width%int(v.scale) != 0 || b.height%int(v.scale) != 0 {
		return sf.o.errorf(protocol.WlSurfaceErrorInvalidSize, "buffer of %dx%d pixels at scale %d", b.width, b.height, v.scale)
	}
	if v.srcW < 0 || sf.viewport == nil {
		return nil
	}
	if v.dstW < 0 && (v.srcW%256 != 0 || v.srcH%256 != 0) {
		return sf.viewport.errorf(protocol.WpViewportErrorBadSize, "source of %v by %v and no destination",
			wire.Fixed(v.srcW).Float(), wire.Fixed(v.srcH).Float())
	}
	full := v.full(b.size())
	if int64(v.srcX)+int64(v.srcW) > int64(full.X)*256 || int64(v.srcY)+int64(v.srcH) > int64(full.Y)*256 {
		return sf.viewport.errorf(protocol.WpViewportErrorOutOfBuffer, "source is beyond %dx%d", full.X, full.Y)
	}
	return nil
}

// apply makes a state current: contents, region, order of sub-surfaces, the role, the callbacks, the sub-surfaces' own.
func (sf *surface) apply(st *state) error {
	if st.inputSet {
		sf.input, sf.inputAll = st.input, st.inputAll
	}
	if err := sf.takeContents(st); err != nil {
		return err
	}
	if sf.nextStack != nil {
		sf.stack, sf.nextStack = sf.nextStack, nil
		sf.s.scene.stale = true
	}
	if len(st.frames) > 0 {
		sf.frames = append(sf.frames, st.frames...)
		clear(st.frames)
		st.frames = st.frames[:0]
		sf.s.pace.add(sf)
	}
	if sf.role != nil {
		if err := sf.role.applied(); err != nil {
			return err
		}
	}
	return sf.applyChildren()
}

// applyChildren lets the sub-surfaces that wait for this commit follow it.
func (sf *surface) applyChildren() error {
	for _, child := range sf.stack {
		if child == sf {
			continue
		}
		if sub, ok := child.role.(*subsurface); ok {
			if err := sub.parentApplied(); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeContents takes the pixels of a state into the surface and releases its buffer. Without a buffer, it is the view that
// may be new.
func (sf *surface) takeContents(st *state) error {
	switch {
	case st.picture != nil:
		pic := st.picture
		st.picture = nil
		sf.s.scene.replace(sf, pic, st.view)
	case !st.attached:
		return sf.s.scene.review(sf, st.view)
	case st.buffer == nil:
		sf.s.scene.clear(sf)
	default:
		err := sf.s.scene.put(sf, st.buffer, st)
		st.buffer.o.send(protocol.WlBufferEventRelease)
		return err
	}
	return nil
}

// accepts tells whether input at a point of the surface is for it.
func (sf *surface) accepts(p image.Point) bool {
	if !p.In(image.Rectangle{Max: sf.size}) {
		return false
	}
	return sf.inputAll || sf.input.contains(p)
}

// frameCallback is the wl_callback of a wl_surface.frame.
type frameCallback struct{ inert }

func (frameCallback) gone(o *object) { o.c.callbacks-- }
