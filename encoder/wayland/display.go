package wayland

import (
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// displayResource is wl_display, object 1 of every client.
type displayResource struct{}

func (displayResource) gone(*object) {}

func (displayResource) request(o *object, op int, args []wire.Value) error {
	id := args[0].ID()
	switch op {
	case protocol.WlDisplayRequestSync:
		cb := o.make(id, protocol.WlCallback, inert{})
		cb.send(protocol.WlCallbackEventDone, wire.Uint(o.c.s.nextSerial()))
		o.c.remove(cb)
	case protocol.WlDisplayRequestGetRegistry:
		reg := o.make(id, protocol.WlRegistry, registryResource{})
		for i, g := range o.c.s.globals {
			reg.send(protocol.WlRegistryEventGlobal, wire.Uint(uint32(i+1)), wire.String(g.face.Name), wire.Uint(g.version))
		}
	}
	return nil
}

// registryResource is wl_registry. Globals are numbered from 1 in the order of Server.globals, and never change.
type registryResource struct{}

func (registryResource) gone(*object) {}

func (registryResource) request(o *object, op int, args []wire.Value) error {
	name, face, version, id := args[0].Uint(), args[1].Text(), args[2].Uint(), args[3].ID()
	if name == 0 || uint64(name) > uint64(len(o.c.s.globals)) {
		return o.errorf(protocol.WlDisplayErrorInvalidObject, "no global %d", name)
	}
	g := &o.c.s.globals[name-1]
	if face != g.face.Name {
		return o.errorf(protocol.WlDisplayErrorInvalidObject, "global %d is %s, not %s", name, g.face.Name, face)
	}
	if version == 0 || version > g.version {
		return o.errorf(protocol.WlDisplayErrorInvalidObject, "version %d of %s: 1..%d", version, face, g.version)
	}
	n := &object{c: o.c, id: id, face: g.face, version: version}
	n.res = g.bind(n)
	o.c.objects.put(n)
	if g.bound != nil {
		g.bound(n)
	}
	return nil
}

// global is something that clients can bind.
type global struct {
	face    *wire.Interface
	version uint32
	bind    func(o *object) resource
	bound   func(o *object) // sends the first events; may be nil
}

// OptionalGlobals returns the names that Config.Globals may have.
func OptionalGlobals() []string {
	var names []string
	for _, g := range optionalGlobals() {
		names = append(names, g.face.Name)
	}
	return names
}

func optionalGlobals() []global {
	return []global{
		{face: protocol.WlSubcompositor, version: 1, bind: func(*object) resource { return subcompositorResource{} }},
		{face: protocol.WlDataDeviceManager, version: 3, bind: func(*object) resource { return dataManager{} }},
		{face: protocol.WpViewporter, version: 1, bind: func(*object) resource { return viewporter{} }},
	}
}

// offered is the list of globals: those that every guest gets, then the optional ones that were asked for.
func offered(names []string) []global {
	list := []global{
		{face: protocol.WlCompositor, version: 5, bind: func(*object) resource { return compositorResource{} }},
		{face: protocol.WlShm, version: 1, bind: func(*object) resource { return shmResource{} }, bound: shmFormats},
		{face: protocol.WlOutput, version: 3, bind: func(*object) resource { return outputResource{} }, bound: outputBound},
		{face: protocol.WlSeat, version: 5, bind: func(*object) resource { return seatResource{} }, bound: seatBound},
		{face: protocol.XdgWmBase, version: 3, bind: func(*object) resource { return &wmBase{} }},
	}
	for _, g := range optionalGlobals() {
		for _, name := range names {
			if name == g.face.Name {
				list = append(list, g)
				break
			}
		}
	}
	return list
}

// offers tells whether a global is offered.
func (s *Server) offers(face *wire.Interface) bool {
	for i := range s.globals {
		if s.globals[i].face == face {
			return true
		}
	}
	return false
}
