package screen

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// recorder is a display that answers as little as a composer needs and writes down every request.
type recorder struct {
	t         *testing.T
	conn      *wire.Conn
	objects   map[uint32]*wire.Interface
	toplevel  uint32
	xdg       uint32
	commits   int
	trace     []string
	milliHz   int32
	configure func(r *recorder) // sent before the answer to the sync after the first commit
}

// accept waits for the composer and returns its connection.
func accept(t *testing.T, dir string) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "new"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := renameInto(dir); err != nil {
		t.Fatal(err)
	}
	socket, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

func (r *recorder) send(id uint32, face *wire.Interface, opcode int, args ...wire.Value) {
	if err := r.conn.Send(id, face.Event(opcode), args...); err != nil {
		r.t.Errorf("%v: %v", face.Event(opcode), err)
	}
}

// serve answers until stop says that a request was the last, or the composer goes away.
func (r *recorder) serve(stop func(request string) bool) error {
	r.objects = map[uint32]*wire.Interface{1: protocol.WlDisplay}
	for {
		h, body, err := r.conn.Next()
		if err != nil {
			return err
		}
		face := r.objects[h.Object]
		if face == nil {
			return fmt.Errorf("request %d to unknown object %d", h.Opcode, h.Object)
		}
		m := face.Request(int(h.Opcode))
		args, err := r.conn.Decode(nil, m, body)
		if err != nil {
			return err
		}
		request := r.note(m, args)
		r.answer(h.Object, m, args)
		wire.CloseFDs(args)
		if err := r.conn.Flush(); err != nil {
			return err
		}
		if stop(request) {
			return nil
		}
	}
}

// note writes a request down, without the numbers of objects.
func (r *recorder) note(m *wire.Message, args []wire.Value) string {
	var words []string
	for i, p := range m.Params {
		switch p.Kind {
		case wire.KindNewID:
			name := p.Interface
			if name == "" {
				name = args[1].Text()
			}
			r.objects[args[i].ID()] = faceOf(name)
		case wire.KindInt:
			words = append(words, fmt.Sprint(args[i].Int()))
		case wire.KindUint:
			words = append(words, fmt.Sprint(args[i].Uint()))
		case wire.KindString:
			words = append(words, args[i].Text())
		case wire.KindObject:
			words = append(words, r.objects[args[i].ID()].Name)
		}
	}
	request := strings.TrimSpace(m.String() + " " + strings.Join(words, " "))
	r.trace = append(r.trace, request)
	return request
}

func faceOf(name string) *wire.Interface {
	for _, face := range []*wire.Interface{
		protocol.WlRegistry, protocol.WlCallback, protocol.WlCompositor, protocol.WlShm, protocol.WlShmPool, protocol.WlBuffer, protocol.WlSurface,
		protocol.WlOutput, protocol.WlSeat, protocol.WlPointer, protocol.WlKeyboard, protocol.WlTouch,
		protocol.XdgWmBase, protocol.XdgSurface, protocol.XdgToplevel,
	} {
		if face.Name == name {
			return face
		}
	}
	return nil
}

func (r *recorder) answer(object uint32, m *wire.Message, args []wire.Value) {
	switch m.String() {
	case "wl_display.get_registry":
		for i, g := range []struct {
			name    string
			version uint32
		}{{"wl_compositor", 6}, {"wl_shm", 2}, {"wl_subcompositor", 1}, {"wl_output", 4}, {"xdg_wm_base", 6}, {"wl_seat", 9}, {"wp_viewporter", 1}} {
			r.send(args[0].ID(), protocol.WlRegistry, protocol.WlRegistryEventGlobal, wire.Uint(uint32(i+1)), wire.String(g.name), wire.Uint(g.version))
		}
	case "wl_registry.bind":
		r.bound(args[1].Text(), args[3].ID())
	case "xdg_wm_base.get_xdg_surface":
		r.xdg = args[0].ID()
	case "xdg_surface.get_toplevel":
		r.toplevel = args[0].ID()
	case "wl_surface.commit":
		if r.commits++; r.commits == 1 && r.configure != nil {
			r.configure(r)
		}
	case "wl_display.sync":
		r.send(args[0].ID(), protocol.WlCallback, protocol.WlCallbackEventDone, wire.Uint(0))
		r.send(1, protocol.WlDisplay, protocol.WlDisplayEventDeleteId, wire.Uint(args[0].ID()))
	}
	if m.Destructor {
		r.send(1, protocol.WlDisplay, protocol.WlDisplayEventDeleteId, wire.Uint(object))
	}
}

// bound tells about an object that was bound.
func (r *recorder) bound(face string, id uint32) {
	switch face {
	case "wl_output":
		r.send(id, protocol.WlOutput, protocol.WlOutputEventMode, wire.Uint(protocol.WlOutputModeCurrent), wire.Int(640), wire.Int(480), wire.Int(r.milliHz))
		r.send(id, protocol.WlOutput, protocol.WlOutputEventDone)
	case "wl_seat":
		r.send(id, protocol.WlSeat, protocol.WlSeatEventCapabilities, wire.Uint(7))
		r.send(id, protocol.WlSeat, protocol.WlSeatEventCapabilities, wire.Uint(7))
	}
}

// record runs a composer against a recorder and returns the recorder when stop has said so.
func record(t *testing.T, props map[string]string, r *recorder, stop func(request string) bool) *recorder {
	t.Helper()
	p := newPhone(t, props)
	p.composer()
	conn, err := wire.NewConn(accept(t, p.dir), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	r.t, r.conn = t, conn
	t.Cleanup(func() { conn.Close(); conn.Release() })
	if err := r.serve(stop); err != nil {
		t.Fatalf("%v after %v; composer: %s", err, r.trace, p.out)
	}
	return r
}

// after stops at the n-th request of a name.
func after(n int, name string) func(string) bool {
	return func(request string) bool {
		if strings.HasPrefix(request, name) {
			n--
		}
		return n == 0
	}
}

func frame(width, height int, make bool) []string {
	var list []string
	if make {
		list = append(list, fmt.Sprintf("wl_shm.create_pool %d", width*height*4),
			fmt.Sprintf("wl_shm_pool.create_buffer 0 %d %d %d 0", width, height, width*4), "wl_shm_pool.destroy")
	}
	return append(list, "wl_surface.attach wl_buffer 0 0", fmt.Sprintf("wl_surface.damage_buffer 0 0 %d %d", width, height),
		"wl_surface.set_buffer_transform 0", "wl_surface.commit")
}

// TestRequestByRequest compares everything that is sent up to the fifth frame with what Waydroid's composer sends.
func TestRequestByRequest(t *testing.T) {
	r := record(t, nil, &recorder{milliHz: 240_000, configure: func(r *recorder) {
		r.send(r.toplevel, protocol.XdgToplevel, protocol.XdgToplevelEventConfigure, wire.Int(320), wire.Int(200), wire.Array(nil))
		r.send(r.xdg, protocol.XdgSurface, protocol.XdgSurfaceEventConfigure, wire.Uint(77))
	}}, after(7, "wl_surface.commit"))
	want := []string{
		"wl_display.get_registry", "wl_display.sync",
		"wl_registry.bind 1 wl_compositor 5", "wl_registry.bind 2 wl_shm 1", "wl_registry.bind 4 wl_output 3", "wl_display.sync",
		"wl_registry.bind 5 xdg_wm_base 1", "wl_registry.bind 6 wl_seat 5",
		"wl_compositor.create_surface", "xdg_wm_base.get_xdg_surface wl_surface", "xdg_surface.get_toplevel",
		"xdg_toplevel.set_maximized", "xdg_toplevel.set_title testphone", "xdg_toplevel.set_app_id testphone",
		"wl_surface.commit", "wl_display.sync",
		"wl_seat.get_pointer", "wl_seat.get_keyboard", "wl_seat.get_touch", "xdg_surface.ack_configure 77", "wl_surface.commit",
	}
	want = append(want, frame(320, 200, true)...)
	want = append(want, "wl_display.sync")
	want = append(want, frame(320, 200, true)...)
	want = append(want, frame(320, 200, true)...)
	want = append(want, frame(320, 200, false)...)
	want = append(want, frame(320, 200, false)...)
	if diff := cmp.Diff(want, r.trace); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestSizes(t *testing.T) {
	configure := func(width, height int32) func(*recorder) {
		return func(r *recorder) {
			r.send(r.toplevel, protocol.XdgToplevel, protocol.XdgToplevelEventConfigure, wire.Int(width), wire.Int(height), wire.Array(nil))
			r.send(r.toplevel, protocol.XdgToplevel, protocol.XdgToplevelEventConfigure, wire.Int(999), wire.Int(999), wire.Array(nil))
		}
	}
	for _, test := range []struct {
		title         string
		props         map[string]string
		configure     func(*recorder)
		width, height int
	}{
		{"properties win", map[string]string{"ro.boot.phonehost_width": "300", "ro.boot.phonehost_height": "400"}, configure(500, 600), 300, 400},
		{"else the first configure", nil, configure(500, 600), 500, 600},
		{"else the mode", nil, nil, 640, 480},
	} {
		t.Run(test.title, func(t *testing.T) {
			r := record(t, test.props, &recorder{milliHz: 60_000, configure: test.configure}, after(1, "wl_surface.damage_buffer"))
			want := fmt.Sprintf("wl_surface.damage_buffer 0 0 %d %d", test.width, test.height)
			if got := r.trace[len(r.trace)-1]; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

// TestStillCommitsNothing pings a composer that shows the scene still: pongs come, and no commit.
func TestStillCommitsNothing(t *testing.T) {
	var base uint32
	pings := 0
	r := &recorder{milliHz: 900_000}
	r = record(t, map[string]string{SceneProperty: "still"}, r, func(request string) bool {
		for id, face := range r.objects {
			if face == protocol.XdgWmBase {
				base = id
			}
		}
		// The first frame may have been of the scene motion; the scene arrives soon.
		if strings.HasPrefix(request, "wl_surface.commit") && r.commits > 3 || strings.HasPrefix(request, "xdg_wm_base.pong") {
			if pings++; pings > 20 {
				return true
			}
			r.send(base, protocol.XdgWmBase, protocol.XdgWmBaseEventPing, wire.Uint(uint32(pings)))
			if err := r.conn.Flush(); err != nil {
				t.Error(err)
			}
		}
		return false
	})
	if last := r.trace[len(r.trace)-1]; !strings.HasPrefix(last, "xdg_wm_base.pong") {
		t.Errorf("last request: %s", last)
	}
}

// TestDisplayThatDoesNotRead is served until the first frame and then never read again: the composer must not wait, but end.
func TestDisplayThatDoesNotRead(t *testing.T) {
	p := newPhone(t, nil)
	p.composer()
	conn, err := wire.NewConn(accept(t, p.dir), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); conn.Release() })
	r := &recorder{t: t, conn: conn, milliHz: 900_000}
	if err := r.serve(after(4, "wl_surface.commit")); err != nil {
		t.Fatal(err)
	}
	err = <-p.result
	if !errors.Is(err, wire.ErrQueueFull) {
		t.Errorf("Run = %v", err)
	}
	p.result <- err
}

func TestDisplayThatTalksRubbish(t *testing.T) {
	for title, bytes := range map[string]string{
		"unknown object":  "\xff\x00\x00\x00\x00\x00\x08\x00",
		"unknown event":   "\x01\x00\x00\x00\x09\x00\x08\x00",
		"impossible size": "\x01\x00\x00\x00\x00\x00\x03\x00",
		"protocol error":  "\x01\x00\x00\x00\x00\x00\x18\x00\x01\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00!\x00\x00\x00",
	} {
		t.Run(title, func(t *testing.T) {
			p := newPhone(t, nil)
			p.composer()
			socket := accept(t, p.dir)
			defer socket.Close()
			if _, err := io.WriteString(socket, bytes); err != nil {
				t.Fatal(err)
			}
			err := <-p.result
			if err == nil {
				t.Error("Run ended without an error")
			}
			p.result <- err
		})
	}
}
