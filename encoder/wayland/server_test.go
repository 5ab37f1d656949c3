package wayland

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

func TestConfigRefused(t *testing.T) {
	sc, err := screen.New(64, 64)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tests := map[string]Config{
		"no screen":      {Dir: dir},
		"no directory":   {Screen: sc},
		"fps":            {Screen: sc, Dir: dir, FPS: 241},
		"fps negative":   {Screen: sc, Dir: dir, FPS: -1},
		"dpi":            {Screen: sc, Dir: dir, DPI: 2001},
		"unknown global": {Screen: sc, Dir: dir, Globals: []string{"wl_shell"}},
	}
	for name, cfg := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := New(cfg); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v, want InvalidArgument", err)
			}
		})
	}
	if _, err := New(Config{Screen: sc, Dir: filepath.Join(dir, "none")}); err == nil {
		t.Error("a directory that does not exist is taken")
	}
}

func TestSocket(t *testing.T) {
	sc, err := screen.New(64, 64)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "wayland-0")
	if err := os.WriteFile(path, nil, 0o600); err != nil { // something of the same name is replaced
		t.Fatal(err)
	}
	s, err := New(Config{Screen: sc, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o666 || st.Mode().Type() != os.ModeSocket {
		t.Errorf("the socket is %v, %v", st.Mode(), err)
	}
	p := dial(t, s) // before Serve: existence means that a client can connect
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	p.roundtrip()
	if got := s.Clients(); got != 1 {
		t.Errorf("%d clients", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	p.wantClosed()
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

func TestGlobals(t *testing.T) {
	tests := map[string]struct {
		optional []string
		want     map[string]bool
	}{
		"as Waydroid wants them": {nil, map[string]bool{}},
		"one more":               {[]string{"wp_viewporter"}, map[string]bool{"wp_viewporter": true}},
		"all":                    {OptionalGlobals(), map[string]bool{"wl_subcompositor": true, "wl_data_device_manager": true, "wp_viewporter": true}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := connect(t, serve(t, Config{Globals: tt.optional}))
			for _, always := range []string{"wl_compositor", "wl_shm", "wl_output", "wl_seat", "xdg_wm_base"} {
				if p.globals[always] == 0 {
					t.Errorf("%s is not offered", always)
				}
			}
			if len(p.globals) != 5+len(tt.want) {
				t.Errorf("offered are %v", p.globals)
			}
			for extra := range tt.want {
				if p.globals[extra] == 0 {
					t.Errorf("%s is not offered", extra)
				}
			}
		})
	}
}

func TestOutput(t *testing.T) {
	s := serve(t, Config{FPS: 30, DPI: 254})
	p := connect(t, s)
	mode, geometry := p.take("wl_output.mode"), p.take("wl_output.geometry")
	if len(mode) != 1 || mode[0].args[0].Uint() != 3 || mode[0].args[1].Int() != testWidth || mode[0].args[2].Int() != testHeight || mode[0].args[3].Int() != 30000 {
		t.Errorf("mode is %v", mode)
	}
	if len(geometry) != 1 || geometry[0].args[2].Int() != testWidth/10 || geometry[0].args[3].Int() != testHeight/10 {
		t.Errorf("geometry is %v", geometry)
	}
	if len(p.take("wl_output.scale")) != 1 || len(p.take("wl_output.done")) != 1 {
		t.Error("scale or done is missing")
	}
}

// TestComposerOfWaydroid follows the requests of its composer: the first configure comes before the answer to the sync after
// the first commit, and frames are committed without ever reading an event, asking for a callback or waiting for a release.
func TestComposerOfWaydroid(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	sf := p.surface()
	x := p.make(p.base, protocol.XdgWmBase, protocol.XdgWmBaseRequestGetXdgSurface, protocol.XdgSurface, wire.Object(sf))
	top := p.make(x, protocol.XdgSurface, protocol.XdgSurfaceRequestGetToplevel, protocol.XdgToplevel)
	p.send(top, protocol.XdgToplevel, protocol.XdgToplevelRequestSetMaximized)
	p.send(top, protocol.XdgToplevel, protocol.XdgToplevelRequestSetAppId, wire.String("Waydroid"))
	p.commit(sf)
	p.events = nil
	p.roundtrip()
	var order []string
	for _, e := range p.events {
		if e.name != "wl_display.delete_id" {
			order = append(order, e.name)
		}
	}
	if len(order) < 3 || order[0] != "xdg_toplevel.configure" || order[1] != "xdg_surface.configure" || order[2] != "wl_callback.done" {
		t.Fatalf("events came as %v", order)
	}
	p.ack(x)
	m, b := p.picture(testWidth, testHeight, 0xff000000)
	const frames = 500
	for i := range frames {
		m.fill(0xff000000 | uint32(i))
		p.send(sf, protocol.WlSurface, protocol.WlSurfaceRequestAttach, wire.Object(b), wire.Int(0), wire.Int(0))
		p.send(sf, protocol.WlSurface, protocol.WlSurfaceRequestDamageBuffer, wire.Int(0), wire.Int(0), wire.Int(testWidth), wire.Int(testHeight))
		p.send(sf, protocol.WlSurface, protocol.WlSurfaceRequestSetBufferTransform, wire.Int(0))
		p.commit(sf)
		if err := p.conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	p.roundtrip()
	if got := s.cfg.Screen.Counters().Committed; got != frames {
		t.Errorf("%d frames were committed, want %d", got, frames)
	}
	if got := pixel(s, 3, 3); got != rgb(frames-1) {
		t.Errorf("the last frame is %v", got)
	}
}

func TestClipboard(t *testing.T) {
	s := serve(t, Config{Globals: []string{"wl_data_device_manager"}})
	p, q := connect(t, s), connect(t, s)
	device := func(p *peer) (manager, device uint32) {
		p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetKeyboard, protocol.WlKeyboard)
		manager = p.bind(protocol.WlDataDeviceManager, 3)
		return manager, p.make(manager, protocol.WlDataDeviceManager, protocol.WlDataDeviceManagerRequestGetDataDevice, protocol.WlDataDevice, wire.Object(p.seat))
	}
	manager, pd := device(p)
	_, _ = device(q)
	p.shown(testWidth, testHeight)
	src := p.make(manager, protocol.WlDataDeviceManager, protocol.WlDataDeviceManagerRequestCreateDataSource, protocol.WlDataSource)
	p.send(src, protocol.WlDataSource, protocol.WlDataSourceRequestOffer, wire.String("text/plain"))
	p.send(pd, protocol.WlDataDevice, protocol.WlDataDeviceRequestSetSelection, wire.Object(src), wire.Uint(1))
	p.roundtrip()
	if len(p.take("wl_data_device.data_offer")) != 1 {
		t.Error("the client that has the keyboard is offered nothing")
	}
	q.shown(testWidth, testHeight)
	selection := q.take("wl_data_device.selection")
	if len(selection) == 0 || selection[len(selection)-1].args[0].ID() < wire.MinServerID {
		t.Fatalf("selection is %v", selection)
	}
	offer := selection[len(selection)-1].args[0].ID()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	q.send(offer, protocol.WlDataOffer, protocol.WlDataOfferRequestReceive, wire.String("text/plain"), wire.FD(int(w.Fd())))
	q.roundtrip()
	w.Close()
	p.roundtrip()
	sent := p.take("wl_data_source.send")
	if len(sent) != 1 || sent[0].args[0].Text() != "text/plain" {
		t.Fatalf("send is %v", sent)
	}
	f := os.NewFile(uintptr(sent[0].args[1].FD()), "pipe")
	if _, err := f.WriteString("copied"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "copied" {
		t.Errorf("pasted %q, %v", got, err)
	}
	p.send(src, protocol.WlDataSource, protocol.WlDataSourceRequestDestroy)
	p.roundtrip()
	q.roundtrip()
	if selection = q.take("wl_data_device.selection"); len(selection) != 1 || selection[0].args[0].ID() != 0 {
		t.Errorf("after its source is gone the selection is %v", selection)
	}
	q.send(offer, protocol.WlDataOffer, protocol.WlDataOfferRequestDestroy)
	q.roundtrip()
}
