package wayland

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// program turns bytes into requests that make some sense: objects that exist, ids that are free, descriptors of memory. What
// the bytes choose is which request goes to which object with which numbers.
type program struct {
	data    []byte
	out     []byte
	fds     []int
	objects []known
	next    uint32
	memory  []int // descriptors to share
}

type known struct {
	id   uint32
	face *wire.Interface
}

func (g *program) byte() byte {
	if len(g.data) == 0 {
		return 0
	}
	b := g.data[0]
	g.data = g.data[1:]
	return b
}

func (g *program) number() int32 {
	table := [...]int32{0, 1, -1, 2, 3, 4, 8, 16, 64, 100, 256, 1024, 4096, 1 << 16, 1 << 30, -1 << 31, 1<<31 - 1, 320, 240, 1280}
	if b := g.byte(); int(b) < 8*len(table) {
		return table[int(b)%len(table)]
	}
	return int32(g.byte())<<8 | int32(g.byte())
}

func (g *program) add(face *wire.Interface) uint32 {
	id := g.next
	g.next++
	g.objects = append(g.objects, known{id, face})
	return id
}

// pick returns an object of an interface, usually.
func (g *program) pick(face string, nullable bool) uint32 {
	b := g.byte()
	if nullable && b%8 == 0 {
		return 0
	}
	var fit []uint32
	for _, o := range g.objects {
		if face == "" || o.face.Name == face || b == 255 {
			fit = append(fit, o.id)
		}
	}
	if len(fit) == 0 {
		return 1
	}
	return fit[int(g.byte())%len(fit)]
}

var faces = map[string]*wire.Interface{}

func init() {
	for _, f := range []*wire.Interface{protocol.WlCallback, protocol.WlRegistry, protocol.WlSurface, protocol.WlRegion,
		protocol.WlShmPool, protocol.WlBuffer, protocol.WlPointer, protocol.WlKeyboard, protocol.WlTouch, protocol.WlSubsurface,
		protocol.XdgSurface, protocol.XdgToplevel, protocol.XdgPopup, protocol.XdgPositioner, protocol.WlDataSource,
		protocol.WlDataDevice, protocol.WpViewport} {
		faces[f.Name] = f
	}
}

// request appends one request.
func (g *program) request(o known, op int) {
	m := o.face.Request(op)
	args := make([]wire.Value, 0, len(m.Params))
	for _, p := range m.Params {
		switch p.Kind {
		case wire.KindInt:
			args = append(args, wire.Int(g.number()))
		case wire.KindUint:
			args = append(args, wire.Uint(uint32(g.number())))
		case wire.KindFixed:
			args = append(args, wire.Fix(wire.Fixed(g.number())))
		case wire.KindString:
			args = append(args, wire.String("text/plain"))
		case wire.KindObject:
			id := g.pick(p.Interface, p.Nullable)
			args = append(args, wire.Object(id))
		case wire.KindNewID:
			face := faces[p.Interface]
			if face == nil {
				return
			}
			args = append(args, wire.NewID(g.add(face)))
		case wire.KindArray:
			args = append(args, wire.Array(nil))
		case wire.KindFD:
			fd := g.memory[int(g.byte())%len(g.memory)]
			args = append(args, wire.FD(fd))
			g.fds = append(g.fds, fd)
		}
	}
	if out, err := wire.Append(g.out, o.id, m, args...); err == nil {
		g.out = out
	}
	if m.Destructor {
		for i := range g.objects {
			if g.objects[i].id == o.id {
				g.objects = append(g.objects[:i], g.objects[i+1:]...)
				break
			}
		}
	}
}

// start binds every global, and makes a window with a buffer.
func (g *program) start(s *Server) {
	reg := known{g.add(protocol.WlRegistry), protocol.WlRegistry}
	g.out, _ = wire.Append(g.out, 1, protocol.WlDisplay.Request(1), wire.NewID(reg.id))
	for i, gl := range s.globals {
		id := g.add(gl.face)
		g.out, _ = wire.Append(g.out, reg.id, protocol.WlRegistry.Request(0), wire.Uint(uint32(i+1)),
			wire.String(gl.face.Name), wire.Uint(gl.version), wire.NewID(id))
	}
	find := func(face *wire.Interface) known {
		for _, o := range g.objects {
			if o.face == face {
				return o
			}
		}
		return known{}
	}
	sf := g.add(protocol.WlSurface)
	g.out, _ = wire.Append(g.out, find(protocol.WlCompositor).id, protocol.WlCompositor.Request(0), wire.NewID(sf))
	x := g.add(protocol.XdgSurface)
	g.out, _ = wire.Append(g.out, find(protocol.XdgWmBase).id, protocol.XdgWmBase.Request(2), wire.NewID(x), wire.Object(sf))
	g.out, _ = wire.Append(g.out, x, protocol.XdgSurface.Request(1), wire.NewID(g.add(protocol.XdgToplevel)))
	g.out, _ = wire.Append(g.out, sf, protocol.WlSurface.Request(6))
	pool := g.add(protocol.WlShmPool)
	g.out, _ = wire.Append(g.out, find(protocol.WlShm).id, protocol.WlShm.Request(0), wire.NewID(pool), wire.FD(g.memory[0]), wire.Int(4096))
	g.fds = append(g.fds, g.memory[0])
	g.out, _ = wire.Append(g.out, pool, protocol.WlShmPool.Request(0), wire.NewID(g.add(protocol.WlBuffer)),
		wire.Int(0), wire.Int(32), wire.Int(32), wire.Int(128), wire.Uint(0))
	// The first configure of a server that has sent nothing else carries serial 1.
	g.out, _ = wire.Append(g.out, x, protocol.XdgSurface.Request(4), wire.Uint(1))
}

// FuzzRequests runs sequences of requests of one client against a server, which must survive them, keep nothing of the client
// when it is gone, and go on serving.
func FuzzRequests(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x0a\x01\x09\x00\x00\x00\x0a\x06\x0a\x02\x00\x00\x10\x10\x0a\x06"))
	f.Add([]byte("subsurfaces and popups and pools and regions and everything else there is to ask for"))
	sc, err := screen.New(testWidth, testHeight)
	if err != nil {
		f.Fatal(err)
	}
	s, err := New(Config{Screen: sc, Dir: f.TempDir(), Globals: OptionalGlobals()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	var memory []int
	for _, size := range []int{1 << 20, 4096, 1} {
		for _, flags := range []int{unix.MFD_ALLOW_SEALING, 0} {
			m := newMemory(f, size, flags)
			memory = append(memory, int(m.file.Fd()))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s.mu.Lock()
		s.serial = 0
		s.mu.Unlock()
		g := &program{data: data, next: 2, objects: []known{{1, protocol.WlDisplay}}, memory: memory}
		g.start(s)
		for len(g.data) > 0 && len(g.fds) < wire.MaxFDsPerSend && len(g.out) < 1<<16 {
			o := g.objects[int(g.byte())%len(g.objects)]
			if n := len(o.face.Requests); n > 0 {
				g.request(o, int(g.byte())%n)
			}
		}
		s.runProgram(t, g)
	})
}

// runProgram sends a program through a socket pair to a client of the server and waits for the client's end.
func (s *Server) runProgram(t *testing.T, g *program) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var socks [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		socks[i] = c.(*net.UnixConn)
	}
	conn, err := wire.NewConn(socks[0], maxQueue)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	c := newClient(s, conn)
	s.all[c] = struct{}{}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); c.run() }()
	if _, _, err = socks[1].WriteMsgUnix(g.out[:1], unix.UnixRights(g.fds...), nil); err == nil {
		_, _ = socks[1].Write(g.out[1:]) // ends early when the server hangs up
	}
	_ = s.Touch(0, TouchDown, 160, 120)
	_ = s.Text("a")
	_ = s.Touch(0, TouchCancel, 0, 0)
	_ = socks[1].CloseWrite()
	<-done
	socks[1].Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.memory != 0 || c.pools != 0 || c.surfaces != 0 || c.callbacks != 0 || c.regionOps != 0 || c.offers != 0 || c.objects.count != 0 {
		t.Errorf("the client left memory %d, pools %d, surfaces %d, callbacks %d, region ops %d, offers %d, objects %d",
			c.memory, c.pools, c.surfaces, c.callbacks, c.regionOps, c.offers, c.objects.count)
	}
	if len(s.pools) != 0 || len(s.scene.stack) != 0 || len(s.scene.layers) != 0 || s.scene.direct != nil || len(s.pace.waiting) != 0 ||
		s.seat.focus != nil || s.seat.pointer != nil || s.clipboard.source != nil {
		t.Errorf("the server kept %d pools, %d windows, %d layers, %d callbacks", len(s.pools), len(s.scene.stack), len(s.scene.layers), len(s.pace.waiting))
	}
	for i := range s.seat.contacts {
		if s.seat.contacts[i].sf != nil {
			t.Errorf("contact %d is on a surface that is gone", i)
		}
	}
}
