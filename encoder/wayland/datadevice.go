package wayland

import (
	"slices"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// Limits of the clipboard.
const (
	maxTypes  = 64  // types that a source offers
	maxType   = 256 // bytes of a type's name
	maxOffers = 64  // offers that a client has not destroyed
	maxUnsent = 512 // bytes that may wait for a source when a paste begins
)

// clipboard is the selection: the source that one client set, offered to the client that has the keyboard. What is copied goes
// from client to client through a pipe of theirs; the server passes its descriptor on and never reads it.
type clipboard struct {
	source *dataSource
}

// dataManager is wl_data_device_manager.
type dataManager struct{}

func (dataManager) gone(*object) {}

func (dataManager) request(o *object, op int, args []wire.Value) error {
	switch op {
	case protocol.WlDataDeviceManagerRequestCreateDataSource:
		src := &dataSource{}
		src.o = o.make(args[0].ID(), protocol.WlDataSource, src)
	case protocol.WlDataDeviceManagerRequestGetDataDevice:
		d := o.make(args[0].ID(), protocol.WlDataDevice, dataDevice{})
		o.c.devices = append(o.c.devices, d)
		if focus := o.c.s.seat.focus; focus != nil && focus.o.c == o.c {
			o.c.s.clipboard.offer(d)
		}
	}
	return nil
}

// dataSource is wl_data_source: something to paste.
type dataSource struct {
	o     *object // nil when destroyed
	types []string
}

func (src *dataSource) request(o *object, op int, args []wire.Value) error {
	switch op {
	case protocol.WlDataSourceRequestOffer:
		name := args[0].Text()
		if len(src.types) >= maxTypes || len(name) > maxType {
			return o.c.display.errorf(protocol.WlDisplayErrorNoMemory, "more than %d types, or a name of more than %d bytes", maxTypes, maxType)
		}
		src.types = append(src.types, name)
	case protocol.WlDataSourceRequestSetActions:
		const all = protocol.WlDataDeviceManagerDndActionCopy | protocol.WlDataDeviceManagerDndActionMove | protocol.WlDataDeviceManagerDndActionAsk
		if args[0].Uint()&^all != 0 {
			return o.errorf(protocol.WlDataSourceErrorInvalidActionMask, "actions %#x", args[0].Uint())
		}
	}
	return nil
}

func (src *dataSource) gone(o *object) {
	src.o = nil
	if o.c.s.clipboard.source == src {
		o.c.s.clipboard.set(o.c.s, nil)
	}
}

// set replaces the selection and offers the new one.
func (cb *clipboard) set(s *Server, src *dataSource) {
	if old := cb.source; old != nil && old != src && old.o != nil {
		old.o.send(protocol.WlDataSourceEventCancelled)
	}
	cb.source = src
	if s.seat.focus != nil {
		cb.offerTo(s.seat.focus.o.c)
	}
}

// offerTo offers the selection to a client.
func (cb *clipboard) offerTo(c *client) {
	for _, d := range c.devices {
		cb.offer(d)
	}
}

// offer offers the selection to a data device, or tells it that there is none. A client that keeps too many offers gets no
// more.
func (cb *clipboard) offer(d *object) {
	c := d.c
	if cb.source == nil || c.offers >= maxOffers || c.objects.count >= maxObjects {
		d.send(protocol.WlDataDeviceEventSelection, wire.Object(0))
		return
	}
	offer := &dataOffer{source: cb.source}
	o := &object{c: c, id: c.objects.nextServer(), face: protocol.WlDataOffer, version: d.version, res: offer}
	c.objects.put(o)
	c.offers++
	d.send(protocol.WlDataDeviceEventDataOffer, wire.NewID(o.id))
	for _, name := range cb.source.types {
		o.send(protocol.WlDataOfferEventOffer, wire.String(name))
	}
	d.send(protocol.WlDataDeviceEventSelection, wire.Object(o.id))
}

// dataDevice is wl_data_device.
type dataDevice struct{}

func (dataDevice) gone(o *object) { o.c.devices = without(o.c.devices, o) }

func (dataDevice) request(o *object, op int, args []wire.Value) error {
	source := func(id uint32) *dataSource {
		if src := o.c.objects.get(id); src != nil {
			return src.res.(*dataSource)
		}
		return nil
	}
	switch op {
	case protocol.WlDataDeviceRequestStartDrag:
		return startDrag(o, source(args[0].ID()), args[2].ID())
	case protocol.WlDataDeviceRequestSetSelection:
		if f := o.c.s.seat.focus; f != nil && f.o.c == o.c {
			o.c.s.clipboard.set(o.c.s, source(args[0].ID()))
		}
	}
	return nil
}

// startDrag ends a drag as soon as it begins: a phone's screen has one window at a time to drag to.
func startDrag(o *object, src *dataSource, icon uint32) error {
	if image := o.c.objects.get(icon); image != nil {
		if sf := image.res.(*surface); sf.xdg != nil || !sf.setRole(iconRole{}) {
			return o.errorf(protocol.WlDataDeviceErrorRole, "%v has another role", image)
		}
	}
	if src != nil {
		src.o.send(protocol.WlDataSourceEventCancelled)
	}
	return nil
}

// iconRole is the role of the picture of a drag, which is never shown.
type iconRole struct{ cursorRole }

func (iconRole) name() string { return "drag icon" }

// dataOffer is wl_data_offer.
type dataOffer struct{ source *dataSource }

func (*dataOffer) gone(o *object) { o.c.offers-- }

func (offer *dataOffer) request(_ *object, op int, args []wire.Value) error {
	if op != protocol.WlDataOfferRequestReceive {
		return nil
	}
	src, name := offer.source, args[0].Text()
	// A source that is behind gets no more descriptors than its queue holds: the paste comes out empty.
	if src.o != nil && slices.Contains(src.types, name) && src.o.c.conn.Queued() < maxUnsent {
		src.o.send(protocol.WlDataSourceEventSend, wire.String(name), wire.FD(args[1].FD()))
	}
	return nil
}
