package wayland

import (
	"image"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

func TestWindowShowsAndGoes(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	w := p.window()
	conf := p.take("xdg_toplevel.configure")
	if len(conf) != 1 || conf[0].args[0].Int() != testWidth || conf[0].args[1].Int() != testHeight {
		t.Fatalf("first configure is %v", conf)
	}
	_, red := p.picture(testWidth, testHeight, 0xffff0000)
	p.show(w.surface, red)
	p.roundtrip()
	if got := len(p.take("wl_buffer.release")); got != 1 {
		t.Errorf("%d releases, want 1", got)
	}
	if got := p.take("wl_surface.enter"); len(got) != 1 {
		t.Errorf("%d enters, want 1", len(got))
	}
	wantPixels(t, s, map[image.Point]uint32{{}: 0xff0000, {X: testWidth - 1, Y: testHeight - 1}: 0xff0000})
	if !s.cfg.Screen.HasContent() {
		t.Error("the screen has no content")
	}
	p.send(w.toplevel, protocol.XdgToplevel, protocol.XdgToplevelRequestDestroy)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{}: 0, {X: 100, Y: 100}: 0})
	if s.cfg.Screen.HasContent() {
		t.Error("the screen has content")
	}
}

func TestFormats(t *testing.T) {
	tests := map[string]struct{ format, want uint32 }{
		"argb": {protocol.WlShmFormatArgb8888, 0x102030},
		"xrgb": {protocol.WlShmFormatXrgb8888, 0x102030},
		"abgr": {protocol.WlShmFormatAbgr8888, 0x302010},
		"xbgr": {protocol.WlShmFormatXbgr8888, 0x302010},
	}
	for name, tt := range tests {
		for kind, flags := range map[string]int{"sealable": unix.MFD_ALLOW_SEALING, "unsealable": 0} {
			t.Run(name+" "+kind, func(t *testing.T) {
				s := serve(t, Config{})
				p := connect(t, s)
				w := p.window()
				m := newMemory(t, testWidth*testHeight*4, flags)
				m.fill(0xff102030)
				b := p.buffer(p.pool(m), 0, testWidth, testHeight, testWidth*4, tt.format)
				p.show(w.surface, b)
				p.roundtrip()
				wantPixels(t, s, map[image.Point]uint32{{X: 5, Y: 7}: tt.want})
				m.fill(0xff000000 | 0x405060)
				p.show(w.surface, b) // now straight to the screen
				p.roundtrip()
				if tt.want == 0x102030 {
					wantPixels(t, s, map[image.Point]uint32{{X: 5, Y: 7}: 0x405060, {X: 319, Y: 239}: 0x405060})
				} else {
					wantPixels(t, s, map[image.Point]uint32{{X: 5, Y: 7}: 0x605040, {X: 319, Y: 239}: 0x605040})
				}
			})
		}
	}
}

func TestOnlyDamageIsTaken(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	w := p.window()
	m, b := p.picture(testWidth, testHeight, 0xff0000ff)
	p.show(w.surface, b)
	p.roundtrip()
	m.fill(0xff00ff00)
	p.send(w.surface, protocol.WlSurface, protocol.WlSurfaceRequestAttach, wire.Object(b), wire.Int(0), wire.Int(0))
	p.send(w.surface, protocol.WlSurface, protocol.WlSurfaceRequestDamage, wire.Int(10), wire.Int(10), wire.Int(20), wire.Int(20))
	p.commit(w.surface)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{X: 9, Y: 10}: 0xff, {X: 10, Y: 10}: 0xff00, {X: 29, Y: 29}: 0xff00, {X: 30, Y: 29}: 0xff})
}

func TestSmallWindowIsInTheMiddle(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	w := p.window()
	_, b := p.picture(100, 40, 0xffffffff)
	p.show(w.surface, b)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{{X: 110, Y: 100}: 0xffffff, {X: 209, Y: 139}: 0xffffff,
		{X: 109, Y: 100}: 0, {X: 210, Y: 139}: 0, {X: 110, Y: 99}: 0, {X: 110, Y: 140}: 0})
}

func TestNewestWindowIsOnTopAndTheOneBeneathComesBack(t *testing.T) {
	s := serve(t, Config{})
	p, q := connect(t, s), connect(t, s)
	a, b := p.window(), q.window()
	ma, red := p.picture(testWidth, testHeight, 0xffff0000)
	p.show(a.surface, red)
	p.roundtrip()
	_, blue := q.picture(testWidth/2, testHeight, 0xff0000ff)
	q.show(b.surface, blue)
	q.roundtrip()
	middle, left := image.Pt(testWidth/2, 10), image.Pt(1, 10)
	wantPixels(t, s, map[image.Point]uint32{middle: 0xff, left: 0})
	ma.fill(0xff00ff00)
	p.send(a.surface, protocol.WlSurface, protocol.WlSurfaceRequestAttach, wire.Object(red), wire.Int(0), wire.Int(0))
	p.send(a.surface, protocol.WlSurface, protocol.WlSurfaceRequestDamage, wire.Int(0), wire.Int(0), wire.Int(50), wire.Int(50))
	p.commit(a.surface)
	p.roundtrip()
	wantPixels(t, s, map[image.Point]uint32{middle: 0xff, left: 0})
	q.conn.Close()
	q.wantGone(s, 1)
	wantPixels(t, s, map[image.Point]uint32{left: 0xff00, {X: 60, Y: 60}: 0xff0000, middle: 0xff0000})
}

// wantGone waits until the server has n clients, asking it through one more.
func (p *peer) wantGone(s *Server, n int) {
	p.t.Helper()
	other := dial(p.t, s)
	for other.roundtrip(); s.Clients() > n+1; {
		other.roundtrip()
	}
	other.conn.Close()
}
