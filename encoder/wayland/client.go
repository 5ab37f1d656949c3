package wayland

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// protocolError ends a client: it is sent as wl_display.error.
type protocolError struct {
	object  uint32
	code    uint32
	message string
}

func (e *protocolError) Error() string {
	return fmt.Sprintf("object %d: error %d: %s", e.object, e.code, e.message)
}

// client is one connection. All fields but conn are guarded by the server's mutex.
type client struct {
	s    *Server
	conn *wire.Conn

	objects table
	args    []wire.Value // of the request that is dispatched
	queued  bool         // in Server.dirty
	ended   error        // why it is being disconnected
	display *object

	// What it has, for limits and for events.
	surfaces  int
	callbacks int
	pools     int
	regionOps int
	memory    int // bytes of its pictures
	outputs   []*object
	touches   []*object
	keyboards []*object
	pointers  []*object
	devices   []*object
	offers    int
}

func newClient(s *Server, conn *wire.Conn) *client {
	c := &client{s: s, conn: conn}
	c.objects.init()
	c.display = &object{c: c, id: 1, face: protocol.WlDisplay, version: 1, res: displayResource{}}
	c.objects.put(c.display)
	return c
}

// run is the client's goroutine: it reads until the connection ends, and then takes everything of the client away.
func (c *client) run() {
	debug.SetPanicOnFault(true) // guest memory can fault while it is copied; see pool.access
	c.s.log.Debug("wayland client connected", "pid", c.pid())
	err := c.serve()
	c.s.mu.Lock()
	if c.ended == nil {
		c.ended = err
	}
	c.logEnd()
	c.removeAll()
	delete(c.s.all, c)
	c.s.scene.settle()
	c.s.unlock()
	c.conn.Close()
	c.conn.Release()
}

// serve reads and dispatches requests, a bounded number at a time under the mutex.
func (c *client) serve() error {
	for {
		h, body, err := c.conn.Next()
		if errors.Is(err, wire.ErrMalformed) || errors.Is(err, wire.ErrFDs) {
			c.s.mu.Lock()
			c.fail(c.display.errorf(protocol.WlDisplayErrorInvalidMethod, "%v", err))
			c.s.unlock()
		}
		if err != nil {
			return err
		}
		c.s.mu.Lock()
		c.fail(c.dispatchBuffered(h, body))
		ended := c.ended
		c.s.unlock()
		if ended != nil {
			return ended
		}
	}
}

// dispatchBuffered dispatches a request and those that have been read with it, until others should have a turn.
func (c *client) dispatchBuffered(h wire.Header, body []byte) error {
	if c.ended != nil {
		return nil
	}
	for start := time.Now(); ; {
		if err := c.dispatch(h, body); err != nil || c.ended != nil || !c.conn.Buffered() || time.Since(start) > turn {
			return err
		}
		var err error
		if h, body, err = c.conn.Next(); err != nil {
			return c.display.errorf(protocol.WlDisplayErrorInvalidMethod, "%v", err)
		}
	}
}

// dispatch checks one request against its signature and the objects that it names, and does it.
func (c *client) dispatch(h wire.Header, body []byte) error {
	o := c.objects.get(h.Object)
	if o == nil {
		return c.display.errorf(protocol.WlDisplayErrorInvalidObject, "invalid object %d", h.Object)
	}
	if int(h.Opcode) >= len(o.face.Requests) {
		return c.display.errorf(protocol.WlDisplayErrorInvalidMethod, "invalid method %d, object %v", h.Opcode, o)
	}
	m := o.face.Request(int(h.Opcode))
	if m.Since > o.version {
		return c.display.errorf(protocol.WlDisplayErrorInvalidMethod, "method %v is of version %d, object %v of version %d", m, m.Since, o, o.version)
	}
	args, err := c.conn.Decode(c.args[:0], m, body)
	if err != nil {
		return c.display.errorf(protocol.WlDisplayErrorInvalidMethod, "invalid arguments for %v: %v", o, err)
	}
	c.args = args
	if err = c.checkObjects(m, args); err == nil {
		err = o.res.request(o, int(h.Opcode), args)
	}
	wire.CloseFDs(args)
	if err != nil {
		return err
	}
	if m.Destructor {
		c.remove(o)
	}
	c.s.scene.settle()
	return nil
}

// checkObjects refuses arguments that name no object, or one of the wrong interface, and new ids that are not free.
func (c *client) checkObjects(m *wire.Message, args []wire.Value) error {
	for i := range args {
		p, id := &m.Params[i], args[i].ID()
		switch p.Kind {
		case wire.KindObject:
			if id == 0 {
				continue
			}
			o := c.objects.get(id)
			if o == nil || (p.Interface != "" && o.face.Name != p.Interface) {
				return c.display.errorf(protocol.WlDisplayErrorInvalidMethod, "argument %s of %v: %d is no %s", p.Name, m, id, p.Interface)
			}
		case wire.KindNewID:
			if !c.objects.free(id) {
				return c.display.errorf(protocol.WlDisplayErrorInvalidMethod, "argument %s of %v: %d is no free id", p.Name, m, id)
			}
			if c.objects.count >= maxObjects {
				return c.display.errorf(protocol.WlDisplayErrorNoMemory, "more than %d objects", maxObjects)
			}
		}
	}
	return nil
}

// fail disconnects the client for err, and tells it if err is a protocol error. Nil is nothing.
func (c *client) fail(err error) {
	if err == nil || c.ended != nil {
		return
	}
	if pe, ok := errors.AsType[*protocolError](err); ok {
		c.send(1, protocol.WlDisplay.Event(protocol.WlDisplayEventError),
			wire.Object(pe.object), wire.Uint(pe.code), wire.String(pe.message))
	}
	c.drop(err)
}

// drop makes the client's goroutine end.
func (c *client) drop(err error) {
	if c.ended == nil {
		c.ended = err
	}
	c.conn.Shutdown()
}

// send queues an event.
func (c *client) send(id uint32, m *wire.Message, args ...wire.Value) {
	if c.ended != nil {
		return
	}
	if err := c.conn.Send(id, m, args...); err != nil {
		c.drop(err)
		return
	}
	if !c.queued {
		c.queued = true
		c.s.dirty = append(c.s.dirty, c)
	}
}

func (c *client) flush() {
	c.queued = false
	if err := c.conn.Flush(); err != nil {
		c.drop(err)
	}
}

// busy tells that the client is so far behind with reading that what it can do without is not sent.
func (c *client) busy() bool { return c.conn.Queued() > maxQueue/8 }

func (c *client) pid() int32 {
	cred, err := c.conn.Peer()
	if err != nil {
		return 0
	}
	return cred.Pid
}

func (c *client) logEnd() {
	switch err := c.ended; {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		c.s.log.Debug("wayland client gone", "pid", c.pid())
	default:
		c.s.log.Warn("wayland client disconnected", "pid", c.pid(), "error", err)
	}
}
