package screen

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// displayID is the object that every connection begins with.
const displayID = 1

// event is a message from the display.
type event struct {
	object uint32
	face   *wire.Interface
	opcode int
	args   []wire.Value
}

// close closes the descriptors that came with the event.
func (e event) close() { wire.CloseFDs(e.args) }

// connection is the client's end of the socket: it numbers objects, sends requests and receives events.
type connection struct {
	conn   *wire.Conn
	events chan event
	gone   chan struct{} // closed by close, ends the reader
	reader sync.WaitGroup
	err    error // why the reader ended, readable after events is closed

	mu      sync.Mutex
	objects map[uint32]*wire.Interface
	free    []uint32
	next    uint32
}

// connect takes over a socket. As libwayland, it keeps at most 4096 bytes that the display has not taken.
func connect(socket *net.UnixConn) (*connection, error) {
	conn, err := wire.NewConn(socket, wire.MaxMessage)
	if err != nil {
		return nil, err
	}
	c := &connection{
		conn:    conn,
		events:  make(chan event),
		gone:    make(chan struct{}),
		objects: map[uint32]*wire.Interface{displayID: protocol.WlDisplay},
		next:    displayID + 1,
	}
	c.reader.Go(c.read)
	return c, nil
}

// close ends the connection and waits for the reader.
func (c *connection) close() {
	close(c.gone)
	c.conn.Shutdown()
	c.reader.Wait()
	c.conn.Close()
	c.conn.Release()
}

// read delivers events until the connection ends.
func (c *connection) read() {
	defer close(c.events)
	for {
		h, body, err := c.conn.Next()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the display closed the connection: %w", errdefs.ErrUnavailable)
		}
		if err != nil {
			c.err = err
			return
		}
		face := c.face(h.Object)
		if face == nil || int(h.Opcode) >= len(face.Events) {
			c.err = fmt.Errorf("event %d of object %d is none: %w", h.Opcode, h.Object, errdefs.ErrDataLoss)
			return
		}
		args, err := c.conn.Decode(nil, face.Event(int(h.Opcode)), body)
		if err != nil {
			c.err = err
			return
		}
		e := event{h.Object, face, int(h.Opcode), args}
		select {
		case c.events <- e:
		case <-c.gone:
			e.close()
			return
		}
	}
}

func (c *connection) face(id uint32) *wire.Interface {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.objects[id]
}

// create numbers a new object, reusing the numbers that the display has given back.
func (c *connection) create(face *wire.Interface) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.next
	if n := len(c.free); n > 0 {
		id, c.free = c.free[n-1], c.free[:n-1]
	} else {
		c.next++
	}
	c.objects[id] = face
	return id
}

// deleted takes back the number of an object that is no more.
func (c *connection) deleted(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.objects[id]; known {
		delete(c.objects, id)
		c.free = append(c.free, id)
	}
}

// send queues a request.
func (c *connection) send(object uint32, face *wire.Interface, opcode int, args ...wire.Value) error {
	if err := c.conn.Send(object, face.Request(opcode), args...); err != nil {
		return fmt.Errorf("%v: %w", face.Request(opcode), err)
	}
	return nil
}

// flush sends what is queued as far as the display takes it.
func (c *connection) flush() error { return c.conn.Flush() }
