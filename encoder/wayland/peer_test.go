package wayland

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testWidth, testHeight = 320, 240

// serve runs a server on a screen of its own for the length of a test.
func serve(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.Screen == nil {
		sc, err := screen.New(testWidth, testHeight)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Screen = sc
	}
	if cfg.Dir == "" {
		dir, err := os.MkdirTemp("", "wl") // short: a socket's path has 108 bytes
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		cfg.Dir = dir
	}
	if testing.Verbose() && cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

// event is something that the server sent.
type event struct {
	id   uint32
	name string // interface.event
	args []wire.Value
}

// peer is a client for tests. It knows what its objects are, and keeps the events that it has read.
type peer struct {
	t       testing.TB
	conn    *wire.Conn
	sock    *net.UnixConn // of conn, for sending what conn refuses to
	objects map[uint32]*wire.Interface
	events  []event
	globals map[string]uint32 // names by interface
	ids     []uint32          // free
	next    uint32

	registry, compositor, shm, base, seat, output uint32
}

func dial(t testing.TB, s *Server) *peer {
	t.Helper()
	sock, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(s.cfg.Dir, s.cfg.Name), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := wire.NewConn(sock, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, conn: conn, sock: sock, next: 2, globals: map[string]uint32{}, objects: map[uint32]*wire.Interface{1: protocol.WlDisplay}}
	t.Cleanup(func() { conn.Close(); conn.Release() })
	return p
}

// connect dials and binds the globals that every guest gets.
func connect(t testing.TB, s *Server) *peer {
	t.Helper()
	p := dial(t, s)
	p.registry = p.make(1, protocol.WlDisplay, protocol.WlDisplayRequestGetRegistry, protocol.WlRegistry)
	p.roundtrip()
	p.compositor = p.bind(protocol.WlCompositor, 5)
	p.shm = p.bind(protocol.WlShm, 1)
	p.output = p.bind(protocol.WlOutput, 3)
	p.seat = p.bind(protocol.WlSeat, 5)
	p.base = p.bind(protocol.XdgWmBase, 3)
	p.roundtrip()
	return p
}

// id takes a free id for an object of an interface.
func (p *peer) id(face *wire.Interface) uint32 {
	id := p.next
	if n := len(p.ids); n > 0 {
		id, p.ids = p.ids[n-1], p.ids[:n-1]
	} else {
		p.next++
	}
	p.objects[id] = face
	return id
}

// send queues a request.
func (p *peer) send(id uint32, face *wire.Interface, op int, args ...wire.Value) {
	p.t.Helper()
	if err := p.conn.Send(id, face.Request(op), args...); err != nil {
		p.t.Fatalf("send %s.%s: %v", face.Name, face.Request(op).Name, err)
	}
}

// make sends a request whose first argument is a new object.
func (p *peer) make(id uint32, face *wire.Interface, op int, result *wire.Interface, args ...wire.Value) uint32 {
	p.t.Helper()
	n := p.id(result)
	p.send(id, face, op, append([]wire.Value{wire.NewID(n)}, args...)...)
	return n
}

func (p *peer) bind(face *wire.Interface, version uint32) uint32 {
	p.t.Helper()
	name, ok := p.globals[face.Name]
	if !ok {
		p.t.Fatalf("%s is not offered", face.Name)
	}
	id := p.id(face)
	p.send(p.registry, protocol.WlRegistry, protocol.WlRegistryRequestBind,
		wire.Uint(name), wire.String(face.Name), wire.Uint(version), wire.NewID(id))
	return id
}

// read reads one event.
func (p *peer) read() (event, error) {
	h, body, err := p.conn.Next()
	if err != nil {
		return event{}, err
	}
	face := p.objects[h.Object]
	if face == nil || int(h.Opcode) >= len(face.Events) {
		return event{}, fmt.Errorf("event %d of unknown object %d", h.Opcode, h.Object)
	}
	m := face.Event(int(h.Opcode))
	args, err := p.conn.Decode(nil, m, body)
	if err != nil {
		return event{}, err
	}
	for i := range args {
		if m.Params[i].Kind == wire.KindNewID {
			p.objects[args[i].ID()] = interfaces[m.Params[i].Interface]
		}
	}
	e := event{id: h.Object, name: m.String(), args: args}
	switch e.name {
	case "wl_display.delete_id":
		delete(p.objects, args[0].ID())
		p.ids = append(p.ids, args[0].ID())
	case "wl_registry.global":
		p.globals[args[1].Text()] = args[0].Uint()
	}
	return e, nil
}

var interfaces = map[string]*wire.Interface{"wl_data_offer": protocol.WlDataOffer}

// roundtrip reads events until the server has answered everything so far. It fails the test on a protocol error.
func (p *peer) roundtrip() {
	p.t.Helper()
	cb := p.make(1, protocol.WlDisplay, protocol.WlDisplayRequestSync, protocol.WlCallback)
	p.until(func(e event) bool { return e.id == cb && e.name == "wl_callback.done" })
}

// until reads events until one is wanted, and returns it.
func (p *peer) until(wanted func(e event) bool) event {
	p.t.Helper()
	if err := p.conn.Flush(); err != nil {
		p.t.Fatalf("flush: %v", err)
	}
	for {
		e, err := p.read()
		if err != nil {
			p.t.Fatalf("read: %v", err)
		}
		if e.name == "wl_display.error" {
			p.t.Fatalf("protocol error: object %d, code %d: %s", e.args[0].ID(), e.args[1].Uint(), e.args[2].Text())
		}
		p.events = append(p.events, e)
		if wanted(e) {
			return e
		}
	}
}

// take returns the events of a name so far, and forgets them.
func (p *peer) take(name string) []event {
	var taken, left []event
	for _, e := range p.events {
		if e.name == name {
			taken = append(taken, e)
		} else {
			left = append(left, e)
		}
	}
	p.events = left
	return taken
}

// wantError reads until the connection ends, and checks that a protocol error was sent before.
func (p *peer) wantError(object, code uint32) {
	p.t.Helper()
	_ = p.conn.Flush() // the server may have closed already
	var got *event
	for {
		e, err := p.read()
		if err != nil {
			if got == nil {
				p.t.Fatalf("connection ended with %v and no protocol error, want object %d, code %d", err, object, code)
			}
			return
		}
		if e.name == "wl_display.error" {
			got = &e
			if e.args[0].ID() != object || e.args[1].Uint() != code {
				p.t.Errorf("protocol error is object %d, code %d (%s), want object %d, code %d",
					e.args[0].ID(), e.args[1].Uint(), e.args[2].Text(), object, code)
			}
		}
	}
}

// wantClosed reads until the connection ends.
func (p *peer) wantClosed() {
	p.t.Helper()
	for {
		if _, err := p.read(); err != nil {
			return
		}
	}
}

// memory is a memfd of the test and its mapping.
type memory struct {
	file *os.File
	pix  []byte
}

func newMemory(t testing.TB, size int, flags int) *memory {
	t.Helper()
	fd, err := unix.MemfdCreate("pool", unix.MFD_CLOEXEC|flags)
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{file: os.NewFile(uintptr(fd), "pool")}
	t.Cleanup(func() { m.file.Close() })
	if err := m.file.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	if m.pix, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(m.pix) })
	return m
}

func (m *memory) fd() wire.Value { return wire.FD(int(m.file.Fd())) }

// fill paints all pixels in a colour given as the word that ARGB8888 holds.
func (m *memory) fill(argb uint32) {
	for i := 0; i+4 <= len(m.pix); i += 4 {
		m.pix[i], m.pix[i+1], m.pix[i+2], m.pix[i+3] = byte(argb), byte(argb>>8), byte(argb>>16), byte(argb>>24)
	}
}

// pool makes a wl_shm_pool of m.
func (p *peer) pool(m *memory) uint32 {
	p.t.Helper()
	return p.make(p.shm, protocol.WlShm, protocol.WlShmRequestCreatePool, protocol.WlShmPool, m.fd(), wire.Int(int32(len(m.pix))))
}

func (p *peer) buffer(pool uint32, offset, width, height, stride int, format uint32) uint32 {
	p.t.Helper()
	return p.make(pool, protocol.WlShmPool, protocol.WlShmPoolRequestCreateBuffer, protocol.WlBuffer,
		wire.Int(int32(offset)), wire.Int(int32(width)), wire.Int(int32(height)), wire.Int(int32(stride)), wire.Uint(format))
}

// picture makes memory and a buffer of one colour.
func (p *peer) picture(width, height int, argb uint32) (*memory, uint32) {
	p.t.Helper()
	m := newMemory(p.t, width*height*4, unix.MFD_ALLOW_SEALING)
	m.fill(argb)
	pool := p.pool(m)
	b := p.buffer(pool, 0, width, height, width*4, protocol.WlShmFormatArgb8888)
	p.send(pool, protocol.WlShmPool, protocol.WlShmPoolRequestDestroy)
	return m, b
}

func (p *peer) surface() uint32 {
	p.t.Helper()
	return p.make(p.compositor, protocol.WlCompositor, protocol.WlCompositorRequestCreateSurface, protocol.WlSurface)
}

func (p *peer) commit(surface uint32) {
	p.t.Helper()
	p.send(surface, protocol.WlSurface, protocol.WlSurfaceRequestCommit)
}

// show attaches a buffer, damages all of it and commits.
func (p *peer) show(surface, buffer uint32) {
	p.t.Helper()
	p.send(surface, protocol.WlSurface, protocol.WlSurfaceRequestAttach, wire.Object(buffer), wire.Int(0), wire.Int(0))
	p.send(surface, protocol.WlSurface, protocol.WlSurfaceRequestDamageBuffer, wire.Int(0), wire.Int(0), wire.Int(1<<30), wire.Int(1<<30))
	p.commit(surface)
}

// window is a toplevel.
type window struct{ surface, xdg, toplevel uint32 }

// window makes a toplevel and acknowledges its first configure.
func (p *peer) window() window {
	p.t.Helper()
	w := window{surface: p.surface()}
	w.xdg = p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestGetXdgSurface, protocol.XdgSurface, wire.Object(w.surface))
	w.toplevel = p.make(w.xdg, protocol.XdgSurface, protocol.XdgSurfaceRequestGetToplevel, protocol.XdgToplevel)
	p.commit(w.surface)
	p.roundtrip()
	p.ack(w.xdg)
	return w
}

// ack acknowledges the newest configure of an xdg_surface.
func (p *peer) ack(xdg uint32) {
	p.t.Helper()
	var serial uint32
	for _, e := range p.events {
		if e.id == xdg && e.name == "xdg_surface.configure" {
			serial = e.args[0].Uint()
		}
	}
	if serial == 0 {
		p.t.Fatal("no configure came")
	}
	p.send(xdg, protocol.XdgSurface, protocol.XdgSurfaceRequestAckConfigure, wire.Uint(serial))
}

// pixel returns a pixel of the screen.
func pixel(s *Server, x, y int) color.RGBA { return s.cfg.Screen.Snapshot().RGBAAt(x, y) }

func rgb(v uint32) color.RGBA {
	return color.RGBA{R: byte(v >> 16), G: byte(v >> 8), B: byte(v), A: 255}
}

// wantPixels checks pixels of the screen by place.
func wantPixels(t testing.TB, s *Server, want map[image.Point]uint32) {
	t.Helper()
	img := s.cfg.Screen.Snapshot()
	for at, v := range want {
		if got := img.RGBAAt(at.X, at.Y); got != rgb(v) {
			t.Errorf("pixel %v is %v, want %v", at, got, rgb(v))
		}
	}
}

// saveScreen writes what the screen shows to a file, for a person to look at.
func saveScreen(t testing.TB, s *Server, name string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.ArtifactDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := png.Encode(io.Writer(f), s.cfg.Screen.Snapshot()); err != nil {
		t.Fatal(err)
	}
}
