package wayland

import (
	"image"
	"slices"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// subcompositorResource is wl_subcompositor.
type subcompositorResource struct{}

func (subcompositorResource) gone(*object) {}

func (subcompositorResource) request(o *object, op int, args []wire.Value) error {
	if op != protocol.WlSubcompositorRequestGetSubsurface {
		return nil
	}
	sf := o.c.objects.get(args[1].ID()).res.(*surface)
	parent := o.c.objects.get(args[2].ID()).res.(*surface)
	depth := 1
	for up := parent; up != nil; depth++ {
		if up == sf {
			return o.errorf(protocol.WlSubcompositorErrorBadSurface, "%v cannot be below itself", sf.o)
		}
		sub, ok := up.role.(*subsurface)
		if !ok {
			break
		}
		up = sub.parent
	}
	if depth > maxDepth {
		return o.c.display.errorf(protocol.WlDisplayErrorNoMemory, "sub-surfaces nested more than %d deep", maxDepth)
	}
	sub := &subsurface{sf: sf, parent: parent, sync: true}
	if sf.xdg != nil || !sf.setRole(sub) {
		return o.errorf(protocol.WlSubcompositorErrorBadSurface, "%v has another role", sf.o)
	}
	sub.o = o.make(args[0].ID(), protocol.WlSubsurface, sub)
	parent.reorder(func(list []*surface) []*surface { return append(list, sf) })
	return nil
}

// reorder changes the order of sub-surfaces from the next commit on.
func (sf *surface) reorder(change func([]*surface) []*surface) {
	if sf.nextStack == nil {
		sf.nextStack = slices.Clone(sf.stack)
	}
	sf.nextStack = change(sf.nextStack)
}

// subsurface is wl_subsurface, and the role of its surface.
type subsurface struct {
	o      *object
	sf     *surface // nil when destroyed
	parent *surface // nil when destroyed
	sync   bool

	at      image.Point // in the parent
	nextAt  image.Point // from the parent's next commit on
	waiting bool        // sf.cached has something for the parent's next commit
}

func (*subsurface) name() string          { return "wl_subsurface" }
func (*subsurface) check(st *state) error { return nil }
func (*subsurface) applied() error        { return nil }

func (sub *subsurface) lost() {
	sub.detach()
	sub.sf = nil
}

func (sub *subsurface) gone(*object) {
	if sub.sf == nil {
		return
	}
	sub.detach()
	sub.sf.role = nil
}

// detach takes the surface out of its parent.
func (sub *subsurface) detach() {
	if p := sub.parent; p != nil {
		p.stack = without(p.stack, sub.sf)
		if p.nextStack != nil {
			p.nextStack = without(p.nextStack, sub.sf)
		}
		sub.parent = nil
	}
	sub.sf.s.scene.stale = true
}

func (sub *subsurface) request(o *object, op int, args []wire.Value) error {
	if sub.sf == nil || sub.parent == nil {
		return nil // what is gone does nothing
	}
	switch op {
	case protocol.WlSubsurfaceRequestSetPosition:
		sub.nextAt = image.Pt(int(args[0].Int()), int(args[1].Int()))
	case protocol.WlSubsurfaceRequestPlaceAbove, protocol.WlSubsurfaceRequestPlaceBelow:
		return sub.place(o.c.objects.get(args[0].ID()).res.(*surface), op == protocol.WlSubsurfaceRequestPlaceAbove)
	case protocol.WlSubsurfaceRequestSetSync:
		sub.sync = true
	case protocol.WlSubsurfaceRequestSetDesync:
		sub.sync = false
		return sub.flushTree()
	}
	return nil
}

// place moves the surface next to a sibling or the parent.
func (sub *subsurface) place(ref *surface, above bool) error {
	order := sub.parent.nextStack
	if order == nil {
		order = sub.parent.stack
	}
	if ref == sub.sf || !slices.Contains(order, ref) {
		return sub.o.errorf(protocol.WlSubsurfaceErrorBadSurface, "%v is neither a sibling nor the parent", ref.o)
	}
	sub.parent.reorder(func(list []*surface) []*surface {
		list = without(list, sub.sf)
		i := slices.Index(list, ref)
		if above {
			i++
		}
		return slices.Insert(list, i, sub.sf)
	})
	return nil
}

// follows tells whether commits wait for the parent's.
func (sub *subsurface) follows() bool {
	for sub != nil {
		if sub.sync {
			return true
		}
		if sub.parent == nil {
			return false
		}
		sub, _ = sub.parent.role.(*subsurface)
	}
	return false
}

// flushTree applies what waits in a surface that no longer follows, and in those below it.
func (sub *subsurface) flushTree() error {
	if sub.follows() {
		return nil
	}
	if err := sub.applyCached(); err != nil {
		return err
	}
	for _, child := range sub.sf.stack {
		if below, ok := child.role.(*subsurface); ok && child != sub.sf {
			if err := below.flushTree(); err != nil {
				return err
			}
		}
	}
	return nil
}

// parentApplied follows the parent's commit.
func (sub *subsurface) parentApplied() error {
	if sub.at != sub.nextAt {
		sub.at = sub.nextAt
		sub.sf.s.scene.stale = true
	}
	return sub.applyCached()
}

func (sub *subsurface) applyCached() error {
	if !sub.waiting {
		return nil
	}
	sub.waiting = false
	sf := sub.sf
	err := sf.apply(&sf.cached)
	sf.cached.init()
	return err
}

// cache keeps a commit for the parent's, with a copy of its pixels.
func (sf *surface) cache() error {
	p, c := &sf.pending, &sf.cached
	sf.role.(*subsurface).waiting = true
	if p.attached {
		c.attached = true
		if err := sf.cachePixels(); err != nil {
			return err
		}
	}
	c.view = p.view
	if p.inputSet {
		c.inputSet, c.input, c.inputAll = true, p.input, p.inputAll
	}
	c.frames = append(c.frames, p.frames...)
	clear(p.frames)
	sf.next()
	return nil
}

// cachePixels copies the pending buffer into the cached state and releases it.
func (sf *surface) cachePixels() error {
	b, v, c := sf.pending.buffer, sf.pending.view, &sf.cached
	if b == nil {
		c.picture.free()
		c.picture = nil
		return nil
	}
	c.picture.free()
	pic, err := sf.o.c.newContents(b, v)
	b.o.send(protocol.WlBufferEventRelease)
	c.picture = pic
	return err
}

// appendLayers appends a surface and its sub-surfaces, bottom first, with the surface's corner at a point of the screen. A
// surface without contents hides its sub-surfaces too.
func (sf *surface) appendLayers(list []layer, at image.Point) []layer {
	if sf.size == (image.Point{}) {
		return list
	}
	for _, child := range sf.stack {
		if child == sf {
			list = append(list, layer{sf: sf, at: at, size: sf.size})
		} else if sub, ok := child.role.(*subsurface); ok {
			list = child.appendLayers(list, at.Add(sub.at))
		}
	}
	return list
}
