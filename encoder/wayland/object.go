package wayland

import (
	"fmt"
	"slices"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// resource is what stands behind an object.
type resource interface {
	// request does a request, whose arguments have been checked against its signature. Objects among them exist and are of the
	// right interface, new ids are free. Descriptors that it does not take are closed afterwards. A destructor's object is
	// removed afterwards.
	request(o *object, op int, args []wire.Value) error
	// gone is told that the object was removed, by the client or with it.
	gone(o *object)
}

// inert is the resource of objects that take no requests and keep nothing.
type inert struct{}

func (inert) request(*object, int, []wire.Value) error { return nil }
func (inert) gone(*object)                             {}

// object is one protocol object of a client.
type object struct {
	c       *client
	id      uint32
	face    *wire.Interface
	version uint32
	res     resource
}

func (o *object) String() string { return fmt.Sprintf("%s@%d", o.face.Name, o.id) }

// errorf is a protocol error on the object, with a code of the object's interface.
func (o *object) errorf(code uint32, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	const longest = 512
	if len(message) > longest {
		message = message[:longest]
	}
	return &protocolError{object: o.id, code: code, message: message}
}

// send queues an event of the object, unless the client's version of the interface lacks it.
func (o *object) send(op int, args ...wire.Value) {
	if m := o.face.Event(op); m.Since <= o.version {
		o.c.send(o.id, m, args...)
	}
}

// make creates an object for a new id of a request, of the parent's version.
func (o *object) make(id uint32, face *wire.Interface, res resource) *object {
	n := &object{c: o.c, id: id, face: face, version: o.version, res: res}
	o.c.objects.put(n)
	return n
}

// table is the objects of a client by id. Ids are dense: a client takes the lowest that is free, as libwayland does and
// demands, and so does the server for those that it makes.
type table struct {
	client []*object // by id; nil where free
	server []*object // by id - wire.MinServerID
	count  int
}

func (t *table) init() { t.client = make([]*object, 1, 64) }

// slot returns where an object of the id is kept, or nil when the id is beyond all that are.
func (t *table) slot(id uint32) **object {
	list := t.client
	if id >= wire.MinServerID {
		id, list = id-wire.MinServerID, t.server
	}
	if uint64(id) < uint64(len(list)) {
		return &list[id]
	}
	return nil
}

func (t *table) get(id uint32) *object {
	if slot := t.slot(id); slot != nil {
		return *slot
	}
	return nil
}

// free tells whether a client may take the id.
func (t *table) free(id uint32) bool {
	if id == 0 || id > wire.MaxClientID || uint64(id) > uint64(len(t.client)) {
		return false
	}
	return uint64(id) == uint64(len(t.client)) || t.client[id] == nil
}

// nextServer returns the id of an object that the server makes.
func (t *table) nextServer() uint32 {
	i := slices.Index(t.server, nil)
	if i < 0 {
		t.server = append(t.server, nil)
		i = len(t.server) - 1
	}
	return wire.MinServerID + uint32(i)
}

// put adds an object under an id that is free.
func (t *table) put(o *object) {
	if slot := t.slot(o.id); slot != nil {
		*slot = o
	} else {
		t.client = append(t.client, o)
	}
	t.count++
}

func (t *table) drop(id uint32) {
	*t.slot(id) = nil
	t.count--
}

// remove takes an object away and tells the client that its id is free. An object that is already gone is left alone.
func (c *client) remove(o *object) {
	if c.objects.get(o.id) != o {
		return
	}
	c.objects.drop(o.id)
	o.res.gone(o)
	if o.id < wire.MinServerID {
		c.send(1, protocol.WlDisplay.Event(protocol.WlDisplayEventDeleteId), wire.Uint(o.id))
	}
}

// removeAll takes all objects of a client that has ended. Newer ones go first, so that roles go before their surfaces.
func (c *client) removeAll() {
	for _, list := range [][]*object{c.objects.server, c.objects.client} {
		for _, o := range slices.Backward(list) {
			if o != nil {
				c.remove(o)
			}
		}
	}
}

// without returns list without o, in the same memory.
func without[T comparable](list []T, o T) []T {
	for i := range list {
		if list[i] == o {
			copy(list[i:], list[i+1:])
			var zero T
			list[len(list)-1] = zero
			return list[:len(list)-1]
		}
	}
	return list
}
