package wayland

import (
	"image"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// raw sends bytes as they are.
func (p *peer) raw(b []byte, fds ...int) {
	p.t.Helper()
	if err := p.conn.Flush(); err != nil {
		p.t.Fatal(err)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := p.sock.WriteMsgUnix(b, oob, nil); err != nil {
		p.t.Fatal(err)
	}
}

func words(v ...uint32) []byte {
	var b []byte
	for _, w := range v {
		b = append(b, byte(w), byte(w>>8), byte(w>>16), byte(w>>24))
	}
	return b
}

// TestProtocolErrors has clients do what they must not. Each is told the protocol's own error and disconnected, and an honest
// client that was there before goes on.
func TestProtocolErrors(t *testing.T) {
	const (
		invalidObject = protocol.WlDisplayErrorInvalidObject
		invalidMethod = protocol.WlDisplayErrorInvalidMethod
		noMemory      = protocol.WlDisplayErrorNoMemory
	)
	tests := map[string]func(p *peer) (object, code uint32){
		"rubbish": func(p *peer) (uint32, uint32) {
			p.raw([]byte(strings.Repeat("rubbish!", 100)))
			return 1, invalidMethod
		},
		"length zero": func(p *peer) (uint32, uint32) {
			p.raw(words(1, 0))
			return 1, invalidMethod
		},
		"length beyond the limit": func(p *peer) (uint32, uint32) {
			p.raw(words(1, 5000<<16))
			return 1, invalidMethod
		},
		"unknown object": func(p *peer) (uint32, uint32) {
			p.raw(words(999, 8<<16))
			return 1, invalidObject
		},
		"object of the server's range": func(p *peer) (uint32, uint32) {
			p.raw(words(0xff000000, 8<<16))
			return 1, invalidObject
		},
		"null object": func(p *peer) (uint32, uint32) {
			p.raw(words(0, 8<<16))
			return 1, invalidObject
		},
		"unknown opcode": func(p *peer) (uint32, uint32) {
			p.raw(words(1, 8<<16|7))
			return 1, invalidMethod
		},
		"arguments missing": func(p *peer) (uint32, uint32) {
			p.raw(words(1, 8<<16))
			return 1, invalidMethod
		},
		"arguments left over": func(p *peer) (uint32, uint32) {
			p.raw(words(1, 16<<16, p.next, 7))
			return 1, invalidMethod
		},
		"new id in use": func(p *peer) (uint32, uint32) {
			p.raw(words(1, 12<<16, p.registry))
			return 1, invalidMethod
		},
		"new id zero": func(p *peer) (uint32, uint32) {
			p.raw(words(1, 12<<16, 0))
			return 1, invalidMethod
		},
		"new id leaves a gap": func(p *peer) (uint32, uint32) {
			p.raw(words(1, 12<<16, p.next+1000))
			return 1, invalidMethod
		},
		"new id of the server's range": func(p *peer) (uint32, uint32) {
			p.raw(words(1, 12<<16, 0xff000000))
			return 1, invalidMethod
		},
		"destroyed object": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			p.send(sf, protocol.WlSurface, protocol.WlSurfaceRequestDestroy)
			p.commit(sf)
			return 1, invalidObject
		},
		"object of the wrong interface": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			p.send(sf, protocol.WlSurface, protocol.WlSurfaceRequestAttach, wire.Object(p.seat), wire.Int(0), wire.Int(0))
			return 1, invalidMethod
		},
		"request of a later version": func(p *peer) (uint32, uint32) {
			old := p.bind(protocol.WlOutput, 1)
			p.send(old, protocol.WlOutput, protocol.WlOutputRequestRelease)
			return 1, invalidMethod
		},
		"global that is not there": func(p *peer) (uint32, uint32) {
			p.send(p.registry, protocol.WlRegistry, protocol.WlRegistryRequestBind, wire.Uint(99), wire.String("wl_shm"), wire.Uint(1), wire.NewID(p.next))
			return p.registry, invalidObject
		},
		"global of another interface": func(p *peer) (uint32, uint32) {
			p.send(p.registry, protocol.WlRegistry, protocol.WlRegistryRequestBind, wire.Uint(1), wire.String("wl_shm"), wire.Uint(1), wire.NewID(p.next))
			return p.registry, invalidObject
		},
		"global of version 0": func(p *peer) (uint32, uint32) {
			p.bind(protocol.WlShm, 0)
			return p.registry, invalidObject
		},
		"global of a version too high": func(p *peer) (uint32, uint32) {
			p.bind(protocol.WlSeat, 6)
			return p.registry, invalidObject
		},
		"descriptor missing": func(p *peer) (uint32, uint32) {
			p.raw(words(p.shm, 16<<16, p.next, 4096))
			return 1, invalidMethod
		},
		"descriptor flood": func(p *peer) (uint32, uint32) {
			fds := make([]int, 200)
			p.raw(words(1, 12<<16, p.next), fds...)
			return 1, invalidMethod
		},
		"descriptors nobody asked for": func(p *peer) (uint32, uint32) {
			for range 4 {
				p.raw(words(1, 12<<16, p.id(protocol.WlCallback)), make([]int, 20)...)
			}
			return 1, invalidMethod
		},
		"object flood": func(p *peer) (uint32, uint32) {
			for range maxObjects {
				p.make(p.compositor, protocol.WlCompositor, protocol.WlCompositorRequestCreateRegion, protocol.WlRegion)
			}
			return 1, noMemory
		},
		"surface flood": func(p *peer) (uint32, uint32) {
			for range maxSurfaces + 1 {
				p.surface()
			}
			return 1, noMemory
		},
		"frame callback flood": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			for range maxCallbacks + 1 {
				p.make(sf, protocol.WlSurface, protocol.WlSurfaceRequestFrame, protocol.WlCallback)
			}
			return 1, noMemory
		},
		"region flood": func(p *peer) (uint32, uint32) {
			r := p.make(p.compositor, protocol.WlCompositor, protocol.WlCompositorRequestCreateRegion, protocol.WlRegion)
			for i := range maxRegionOps + 1 {
				p.send(r, protocol.WlRegion, protocol.WlRegionRequestAdd, wire.Int(int32(i)), wire.Int(0), wire.Int(1), wire.Int(1))
			}
			return 1, noMemory
		},
		"pool flood": func(p *peer) (uint32, uint32) {
			m := newMemory(p.t, 4096, 0)
			for range maxPools + 1 {
				p.pool(m)
				if err := p.conn.Flush(); err != nil {
					p.t.Fatal(err)
				}
			}
			return 1, noMemory
		},
		"picture too large": func(p *peer) (uint32, uint32) {
			w := p.window()
			m := newMemory(p.t, 8192*8192*4, 0)
			p.show(w.surface, p.buffer(p.pool(m), 0, 8192, 8192, 8192*4, 0))
			return 1, noMemory
		},
		"pool of no size": func(p *peer) (uint32, uint32) {
			p.make(p.shm, protocol.WlShm, protocol.WlShmRequestCreatePool, protocol.WlShmPool, newMemory(p.t, 4096, 0).fd(), wire.Int(0))
			return p.shm, protocol.WlShmErrorInvalidStride
		},
		"pool of negative size": func(p *peer) (uint32, uint32) {
			p.make(p.shm, protocol.WlShm, protocol.WlShmRequestCreatePool, protocol.WlShmPool, newMemory(p.t, 4096, 0).fd(), wire.Int(-4096))
			return p.shm, protocol.WlShmErrorInvalidStride
		},
		"pool larger than its file": func(p *peer) (uint32, uint32) {
			p.make(p.shm, protocol.WlShm, protocol.WlShmRequestCreatePool, protocol.WlShmPool, newMemory(p.t, 4096, 0).fd(), wire.Int(8192))
			return p.shm, protocol.WlShmErrorInvalidFd
		},
		"pool of a pipe": func(p *peer) (uint32, uint32) {
			r, w, err := os.Pipe()
			if err != nil {
				p.t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			p.make(p.shm, protocol.WlShm, protocol.WlShmRequestCreatePool, protocol.WlShmPool, wire.FD(int(r.Fd())), wire.Int(4096))
			return p.shm, protocol.WlShmErrorInvalidFd
		},
		"pool of a directory": func(p *peer) (uint32, uint32) {
			fd, err := unix.Open("/dev/shm", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				p.t.Fatal(err)
			}
			defer unix.Close(fd)
			p.make(p.shm, protocol.WlShm, protocol.WlShmRequestCreatePool, protocol.WlShmPool, wire.FD(fd), wire.Int(1))
			return p.shm, protocol.WlShmErrorInvalidFd
		},
		"pool of another file system": func(p *peer) (uint32, uint32) {
			f, err := os.Open("/proc/self/maps")
			if err != nil {
				p.t.Fatal(err)
			}
			defer f.Close()
			p.make(p.shm, protocol.WlShm, protocol.WlShmRequestCreatePool, protocol.WlShmPool, wire.FD(int(f.Fd())), wire.Int(1))
			return p.shm, protocol.WlShmErrorInvalidFd
		},
		"pool that cannot be read": func(p *peer) (uint32, uint32) {
			fd, err := unix.Open("/dev/shm", unix.O_WRONLY|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
			if err != nil {
				p.t.Fatal(err)
			}
			defer unix.Close(fd)
			if err := unix.Ftruncate(fd, 4096); err != nil {
				p.t.Fatal(err)
			}
			p.make(p.shm, protocol.WlShm, protocol.WlShmRequestCreatePool, protocol.WlShmPool, wire.FD(fd), wire.Int(4096))
			return p.shm, protocol.WlShmErrorInvalidFd
		},
		"pool that shrinks": func(p *peer) (uint32, uint32) {
			pool := p.pool(newMemory(p.t, 8192, 0))
			p.send(pool, protocol.WlShmPool, protocol.WlShmPoolRequestResize, wire.Int(4096))
			return pool, protocol.WlShmErrorInvalidFd
		},
		"pool that grows beyond its file": func(p *peer) (uint32, uint32) {
			pool := p.pool(newMemory(p.t, 8192, 0))
			p.send(pool, protocol.WlShmPool, protocol.WlShmPoolRequestResize, wire.Int(math.MaxInt32))
			return pool, protocol.WlShmErrorInvalidFd
		},
		"format unknown": func(p *peer) (uint32, uint32) {
			pool := p.pool(newMemory(p.t, 4096, 0))
			p.buffer(pool, 0, 8, 8, 32, protocol.WlShmFormatNv12)
			return pool, protocol.WlShmErrorInvalidFormat
		},
		"buffer truncated, sealed against shrinking": func(p *peer) (uint32, uint32) {
			w := p.window()
			m := newMemory(p.t, testWidth*testHeight*4, unix.MFD_ALLOW_SEALING)
			b := p.buffer(p.pool(m), 0, testWidth, testHeight, testWidth*4, 0)
			p.roundtrip()
			if err := m.file.Truncate(4096); err == nil {
				p.t.Error("the pool could be truncated")
			}
			p.show(w.surface, b)
			p.roundtrip()
			p.raw(words(1, 0))
			return 1, invalidMethod
		},
		"role twice": func(p *peer) (uint32, uint32) {
			w := p.window()
			p.make(w.xdg, protocol.XdgSurface, protocol.XdgSurfaceRequestGetToplevel, protocol.XdgToplevel)
			return w.xdg, protocol.XdgSurfaceErrorAlreadyConstructed
		},
		"xdg_surface twice": func(p *peer) (uint32, uint32) {
			w := p.window()
			p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestGetXdgSurface, protocol.XdgSurface, wire.Object(w.surface))
			return p.base, protocol.XdgWmBaseErrorRole
		},
		"xdg_surface with a buffer": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			_, b := p.picture(8, 8, 0)
			p.show(sf, b)
			p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestGetXdgSurface, protocol.XdgSurface, wire.Object(sf))
			return p.base, protocol.XdgWmBaseErrorInvalidSurfaceState
		},
		"commit without a role object": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			x := p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestGetXdgSurface, protocol.XdgSurface, wire.Object(sf))
			p.commit(sf)
			return x, protocol.XdgSurfaceErrorNotConstructed
		},
		"buffer before configure": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			x := p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestGetXdgSurface, protocol.XdgSurface, wire.Object(sf))
			p.make(x, protocol.XdgSurface, protocol.XdgSurfaceRequestGetToplevel, protocol.XdgToplevel)
			_, b := p.picture(8, 8, 0)
			p.show(sf, b)
			return x, protocol.XdgSurfaceErrorUnconfiguredBuffer
		},
		"acknowledgement of nothing": func(p *peer) (uint32, uint32) {
			w := p.window()
			p.send(w.xdg, protocol.XdgSurface, protocol.XdgSurfaceRequestAckConfigure, wire.Uint(12345678))
			return w.xdg, protocol.XdgSurfaceErrorInvalidSerial
		},
		"wm_base gone before its surfaces": func(p *peer) (uint32, uint32) {
			p.window()
			p.send(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestDestroy)
			return p.base, protocol.XdgWmBaseErrorDefunctSurfaces
		},
		"xdg_surface gone before its role": func(p *peer) (uint32, uint32) {
			w := p.window()
			p.send(w.xdg, protocol.XdgSurface, protocol.XdgSurfaceRequestDestroy)
			return w.xdg, protocol.XdgSurfaceErrorDefunctRoleObject
		},
		"window geometry of nothing": func(p *peer) (uint32, uint32) {
			w := p.window()
			p.send(w.xdg, protocol.XdgSurface, protocol.XdgSurfaceRequestSetWindowGeometry, wire.Int(0), wire.Int(0), wire.Int(0), wire.Int(5))
			return w.xdg, protocol.XdgSurfaceErrorInvalidSize
		},
		"scale 0": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			p.send(sf, protocol.WlSurface, protocol.WlSurfaceRequestSetBufferScale, wire.Int(0))
			return sf, protocol.WlSurfaceErrorInvalidScale
		},
		"transform unknown": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			p.send(sf, protocol.WlSurface, protocol.WlSurfaceRequestSetBufferTransform, wire.Int(8))
			return sf, protocol.WlSurfaceErrorInvalidTransform
		},
		"buffer no multiple of its scale": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			_, b := p.picture(9, 8, 0)
			p.send(sf, protocol.WlSurface, protocol.WlSurfaceRequestSetBufferScale, wire.Int(2))
			p.show(sf, b)
			return sf, protocol.WlSurfaceErrorInvalidSize
		},
		"attach at an offset": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			p.send(sf, protocol.WlSurface, protocol.WlSurfaceRequestAttach, wire.Object(0), wire.Int(1), wire.Int(0))
			return sf, protocol.WlSurfaceErrorInvalidOffset
		},
		"cursor that is a window": func(p *peer) (uint32, uint32) {
			w := p.window()
			ptr := p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetPointer, protocol.WlPointer)
			p.send(ptr, protocol.WlPointer, protocol.WlPointerRequestSetCursor, wire.Uint(1), wire.Object(w.surface), wire.Int(0), wire.Int(0))
			return ptr, protocol.WlPointerErrorRole
		},
		"popup without a parent": func(p *peer) (uint32, uint32) {
			sf := p.surface()
			x := p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestGetXdgSurface, protocol.XdgSurface, wire.Object(sf))
			pos := p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestCreatePositioner, protocol.XdgPositioner)
			p.make(x, protocol.XdgSurface, protocol.XdgSurfaceRequestGetPopup, protocol.XdgPopup, wire.Object(0), wire.Object(pos))
			return p.base, protocol.XdgWmBaseErrorInvalidPopupParent
		},
		"popup with half a positioner": func(p *peer) (uint32, uint32) {
			w := p.window()
			sf := p.surface()
			x := p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestGetXdgSurface, protocol.XdgSurface, wire.Object(sf))
			pos := p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestCreatePositioner, protocol.XdgPositioner)
			p.make(x, protocol.XdgSurface, protocol.XdgSurfaceRequestGetPopup, protocol.XdgPopup, wire.Object(w.xdg), wire.Object(pos))
			return p.base, protocol.XdgWmBaseErrorInvalidPositioner
		},
		"positioner of no size": func(p *peer) (uint32, uint32) {
			pos := p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestCreatePositioner, protocol.XdgPositioner)
			p.send(pos, protocol.XdgPositioner, protocol.XdgPositionerRequestSetSize, wire.Int(0), wire.Int(1))
			return pos, protocol.XdgPositionerErrorInvalidInput
		},
	}
	s := serve(t, Config{})
	honest := connect(t, s)
	win := honest.window()
	m, buffer := honest.picture(testWidth, testHeight, 0xff00ff00)
	honest.show(win.surface, buffer)
	honest.roundtrip()
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			p := connect(t, s)
			object, code := do(p)
			p.wantError(object, code)
			honest.t = t
			honest.wantGone(s, 1)
			colour := uint32(0xff000000) | uint32(len(name)*77)
			m.fill(colour)
			honest.show(win.surface, buffer)
			honest.roundtrip()
			wantPixels(t, s, map[image.Point]uint32{{X: 5, Y: 5}: colour & 0xffffff, {X: 300, Y: 200}: colour & 0xffffff})
		})
	}
	if len(s.pools) != 1 {
		t.Errorf("%d pools are left, want the honest client's", len(s.pools))
	}
}

// TestClientThatNeverReads is disconnected, and the server serves others meanwhile.
func TestClientThatNeverReads(t *testing.T) {
	s := serve(t, Config{})
	honest := connect(t, s)
	p := connect(t, s)
	// Every registry answers with far more than it takes to ask.
	var flood []byte
	for range 4000 {
		flood = append(flood, words(1, 12<<16|1, p.id(protocol.WlRegistry))...)
	}
	for len(flood) > 0 {
		n := min(len(flood), 12*500)
		if _, err := p.sock.Write(flood[:n]); err != nil {
			break // the server has hung up
		}
		flood = flood[n:]
		honest.roundtrip()
	}
	for range 20000 {
		if s.Clients() == 1 {
			break
		}
		if _, err := p.sock.Write(words(1, 12<<16|1, p.id(protocol.WlRegistry))); err != nil {
			break
		}
	}
	honest.wantGone(s, 1)
	honest.roundtrip()
}

// TestReconnectLoop connects, maps a window and vanishes again and again; nothing may be left of it.
func TestReconnectLoop(t *testing.T) {
	s := serve(t, Config{})
	for i := range 200 {
		p := connect(t, s)
		w := p.window()
		_, b := p.picture(64, 64, 0xffffffff)
		p.show(w.surface, b)
		if i%2 == 0 {
			p.roundtrip()
		} else if err := p.conn.Flush(); err != nil {
			t.Fatal(err)
		}
		p.conn.Close()
		p.wantGone(s, 0)
	}
	wantPixels(t, s, map[image.Point]uint32{{X: testWidth / 2, Y: testHeight / 2}: 0})
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pools) != 0 || len(s.scene.stack) != 0 || len(s.scene.layers) != 0 || s.scene.direct != nil || len(s.pace.waiting) != 0 {
		t.Errorf("left behind: %d pools, %d windows, %d layers, %d callbacks", len(s.pools), len(s.scene.stack), len(s.scene.layers), len(s.pace.waiting))
	}
}

// TestTooManyClients refuses connections beyond the limit and takes new ones when some have gone.
func TestTooManyClients(t *testing.T) {
	s := serve(t, Config{})
	var peers []*peer
	for range maxClients {
		p := connect(t, s)
		peers = append(peers, p)
	}
	extra := dial(t, s)
	extra.wantClosed()
	peers[0].conn.Close()
	for s.Clients() >= maxClients {
		peers[1].roundtrip()
	}
	connect(t, s).window()
}
