// Package testguest is a small Wayland client that shows given frames on a display, for tests and benchmarks that need to
// know every pixel. It behaves as Waydroid's composer does: one toplevel, whole-buffer damage, no frame callbacks, release
// ignored.
//
// A Guest is for one goroutine at a time; one goroutine of its own answers the server, which Close waits for.
package testguest

import (
	"fmt"
	"net"
	"sync"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
	"golang.org/x/sys/unix"
)

// Object ids, dense as libwayland's are.
const (
	displayID = iota + 1
	registryID
	compositorID
	shmID
	wmBaseID
	surfaceID
	xdgSurfaceID
	toplevelID
	poolID
	firstBufferID
)

// Guest is a client with one window of the whole screen.
type Guest struct {
	conn   *wire.Conn
	memory []byte
	size   int // of a buffer
	width  int
	height int

	reader     sync.WaitGroup
	configured chan struct{} // closed at the first configure, or when the connection ends
}

// Dial connects to the socket path and maps a window of width x height pixels that has a number of buffers.
func Dial(path string, width, height, buffers int) (*Guest, error) {
	sock, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("dial wayland: %w", err)
	}
	conn, err := wire.NewConn(sock, 1<<20)
	if err != nil {
		sock.Close()
		return nil, err
	}
	g := &Guest{conn: conn, width: width, height: height, size: width * height * 4, configured: make(chan struct{})}
	globals, err := g.globals()
	if err == nil {
		err = g.setUp(globals, buffers)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up guest: %w", err)
	}
	g.reader.Go(g.answer)
	<-g.configured
	return g, nil
}

// globals asks what there is, by name.
func (g *Guest) globals() (map[string]uint32, error) {
	const callback = registryID + 1 // free again when it is done
	g.conn.Send(displayID, protocol.WlDisplay.Request(protocol.WlDisplayRequestGetRegistry), wire.NewID(registryID))
	g.conn.Send(displayID, protocol.WlDisplay.Request(protocol.WlDisplayRequestSync), wire.NewID(callback))
	if err := g.conn.Flush(); err != nil {
		return nil, err
	}
	found := map[string]uint32{}
	for {
		h, body, err := g.conn.Next()
		if err != nil {
			return nil, err
		}
		switch h.Object {
		case registryID:
			args, err := g.conn.Decode(nil, protocol.WlRegistry.Event(int(h.Opcode)), body)
			if err != nil {
				return nil, err
			}
			found[args[1].Text()] = args[0].Uint()
		case callback:
			return found, nil
		}
	}
}

// setUp makes the window and its buffers.
func (g *Guest) setUp(globals map[string]uint32, buffers int) error {
	fd, err := unix.MemfdCreate("testguest", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(g.size*buffers)); err != nil {
		return err
	}
	g.memory, err = unix.Mmap(fd, 0, g.size*buffers, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	clear(g.memory) // pages exist from here on
	bind := func(id uint32, face *wire.Interface, version uint32) {
		g.conn.Send(registryID, protocol.WlRegistry.Request(protocol.WlRegistryRequestBind),
			wire.Uint(globals[face.Name]), wire.String(face.Name), wire.Uint(version), wire.NewID(id))
	}
	bind(compositorID, protocol.WlCompositor, 4)
	bind(shmID, protocol.WlShm, 1)
	bind(wmBaseID, protocol.XdgWmBase, 1)
	g.conn.Send(compositorID, protocol.WlCompositor.Request(protocol.WlCompositorRequestCreateSurface), wire.NewID(surfaceID))
	g.conn.Send(wmBaseID, protocol.XdgWmBase.Request(protocol.XdgWmBaseRequestGetXdgSurface), wire.NewID(xdgSurfaceID), wire.Object(surfaceID))
	g.conn.Send(xdgSurfaceID, protocol.XdgSurface.Request(protocol.XdgSurfaceRequestGetToplevel), wire.NewID(toplevelID))
	g.conn.Send(surfaceID, protocol.WlSurface.Request(protocol.WlSurfaceRequestCommit))
	g.conn.Send(shmID, protocol.WlShm.Request(protocol.WlShmRequestCreatePool), wire.NewID(poolID), wire.FD(fd), wire.Int(int32(g.size*buffers)))
	for i := range buffers {
		g.conn.Send(poolID, protocol.WlShmPool.Request(protocol.WlShmPoolRequestCreateBuffer), wire.NewID(uint32(firstBufferID+i)),
			wire.Int(int32(i*g.size)), wire.Int(int32(g.width)), wire.Int(int32(g.height)), wire.Int(int32(g.width*4)),
			wire.Uint(protocol.WlShmFormatXrgb8888))
	}
	return g.conn.Flush()
}

// answer acknowledges configures and answers pings until the connection ends.
func (g *Guest) answer() {
	var once sync.Once
	ready := func() { once.Do(func() { close(g.configured) }) }
	defer ready()
	for {
		h, body, err := g.conn.Next()
		if err != nil {
			return
		}
		switch {
		case h.Object == xdgSurfaceID && h.Opcode == protocol.XdgSurfaceEventConfigure:
			if args, err := g.conn.Decode(nil, protocol.XdgSurface.Event(int(h.Opcode)), body); err == nil {
				g.conn.Send(xdgSurfaceID, protocol.XdgSurface.Request(protocol.XdgSurfaceRequestAckConfigure), wire.Uint(args[0].Uint()))
				g.conn.Flush()
				ready()
			}
		case h.Object == wmBaseID && h.Opcode == protocol.XdgWmBaseEventPing:
			if args, err := g.conn.Decode(nil, protocol.XdgWmBase.Event(int(h.Opcode)), body); err == nil {
				g.conn.Send(wmBaseID, protocol.XdgWmBase.Request(protocol.XdgWmBaseRequestPong), wire.Uint(args[0].Uint()))
				g.conn.Flush()
			}
		}
	}
}

// Buffer is the memory of a buffer: B, G, R, X per pixel.
func (g *Guest) Buffer(i int) []byte { return g.memory[i*g.size:][:g.size] }

// Show commits a buffer.
func (g *Guest) Show(i int) error {
	surface := func(op int, args ...wire.Value) { g.conn.Send(surfaceID, protocol.WlSurface.Request(op), args...) }
	surface(protocol.WlSurfaceRequestAttach, wire.Object(uint32(firstBufferID+i)), wire.Int(0), wire.Int(0))
	surface(protocol.WlSurfaceRequestDamage, wire.Int(0), wire.Int(0), wire.Int(int32(g.width)), wire.Int(int32(g.height)))
	surface(protocol.WlSurfaceRequestCommit)
	return g.conn.Flush()
}

// Close disconnects.
func (g *Guest) Close() {
	g.conn.Shutdown()
	g.reader.Wait()
	g.conn.Close()
	unix.Munmap(g.memory)
}
