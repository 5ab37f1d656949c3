package wayland

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/encoder/keymap"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// inputs returns what a client was sent for its input devices, as text without serials and times.
func (p *peer) inputs() []string {
	var out []string
	for _, e := range p.events {
		dev, name, _ := strings.Cut(e.name, ".")
		if dev != "wl_touch" && dev != "wl_keyboard" && dev != "wl_pointer" {
			continue
		}
		line := strings.TrimPrefix(dev, "wl_") + " " + name
		m := p.message(e)
		for i, a := range e.args {
			switch m.Params[i].Kind {
			case wire.KindFixed:
				line += fmt.Sprintf(" %v", a.Fixed().Float())
			case wire.KindArray:
				line += fmt.Sprintf(" %v", a.Bytes())
			case wire.KindInt:
				line += fmt.Sprintf(" %d", a.Int())
			case wire.KindFD:
			default:
				if n := m.Params[i].Name; n != "serial" && n != "time" {
					line += fmt.Sprintf(" %d", a.Uint())
				}
			}
		}
		out = append(out, line)
	}
	p.events = nil
	return out
}

func (p *peer) message(e event) *wire.Message {
	for _, face := range []*wire.Interface{protocol.WlTouch, protocol.WlKeyboard, protocol.WlPointer} {
		for i := range face.Events {
			if face.Events[i].String() == e.name {
				return &face.Events[i]
			}
		}
	}
	p.t.Fatalf("unknown event %s", e.name)
	return nil
}

func wantInputs(t *testing.T, p *peer, want ...string) {
	t.Helper()
	p.roundtrip()
	if diff := cmp.Diff(want, p.inputs()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// shown makes a window that fills part of the screen.
func (p *peer) shown(width, height int) window {
	p.t.Helper()
	w := p.window()
	_, b := p.picture(width, height, 0xff808080)
	p.show(w.surface, b)
	p.roundtrip()
	return w
}

func TestTouch(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetTouch, protocol.WlTouch)
	w := p.shown(100, 40) // at 110,100
	p.inputs()
	for _, step := range []struct {
		id     int
		action TouchAction
		x, y   float64
	}{{0, TouchDown, 112.5, 103}, {9, TouchDown, 110, 100}, {0, TouchMove, 100, 90}, {9, TouchUp, 0, 0}, {0, TouchUp, 0, 0},
		{1, TouchDown, 5, 5}, {1, TouchMove, 120, 120}, {1, TouchUp, 0, 0}} {
		if err := s.Touch(step.id, step.action, step.x, step.y); err != nil {
			t.Fatalf("%+v: %v", step, err)
		}
	}
	wantInputs(t, p,
		fmt.Sprintf("touch down %d 0 2.5 3", w.surface), "touch frame",
		fmt.Sprintf("touch down %d 9 0 0", w.surface), "touch frame",
		"touch motion 0 -10 -10", "touch frame",
		"touch up 9", "touch frame",
		"touch up 0", "touch frame")
	for id := range 3 {
		if err := s.Touch(id, TouchDown, 120, 120); err != nil {
			t.Fatal(err)
		}
	}
	p.roundtrip()
	p.inputs()
	if err := s.Touch(0, TouchCancel, 0, 0); err != nil {
		t.Fatal(err)
	}
	wantInputs(t, p, "touch cancel")
	if err := s.Touch(0, TouchMove, 120, 120); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a cancelled point moves: %v", err)
	}
}

func TestInputRefused(t *testing.T) {
	s := serve(t, Config{})
	tests := map[string]struct {
		do   func() error
		want func(error) bool
	}{
		"no window, touch":   {func() error { return s.Touch(0, TouchDown, 1, 1) }, errdefs.IsFailedPrecondition},
		"no window, key":     {func() error { return s.Key(30, true) }, errdefs.IsFailedPrecondition},
		"no window, text":    {func() error { return s.Text("a") }, errdefs.IsFailedPrecondition},
		"no window, wheel":   {func() error { return s.Wheel(1, 1, 0, 1) }, errdefs.IsFailedPrecondition},
		"point 10":           {func() error { return s.Touch(10, TouchDown, 1, 1) }, errdefs.IsInvalidArgument},
		"point -1":           {func() error { return s.Touch(-1, TouchDown, 1, 1) }, errdefs.IsInvalidArgument},
		"action 0":           {func() error { return s.Touch(0, 0, 1, 1) }, errdefs.IsInvalidArgument},
		"off the screen":     {func() error { return s.Touch(0, TouchDown, testWidth, 1) }, errdefs.IsInvalidArgument},
		"up but not down":    {func() error { return s.Touch(0, TouchUp, 1, 1) }, errdefs.IsFailedPrecondition},
		"key 0":              {func() error { return s.Key(0, true) }, errdefs.IsInvalidArgument},
		"key 248":            {func() error { return s.Key(248, true) }, errdefs.IsInvalidArgument},
		"text beyond ASCII":  {func() error { return s.Text("naïve") }, errdefs.IsInvalidArgument},
		"text with a bell":   {func() error { return s.Text("\a") }, errdefs.IsInvalidArgument},
		"text too long":      {func() error { return s.Text(strings.Repeat("x", maxText+1)) }, errdefs.IsInvalidArgument},
		"wheel of a million": {func() error { return s.Wheel(1, 1, 0, 1e6) }, errdefs.IsInvalidArgument},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := tt.do(); !tt.want(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestKeyboard(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	k := p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetKeyboard, protocol.WlKeyboard)
	p.roundtrip()
	km := p.take("wl_keyboard.keymap")
	if len(km) != 1 {
		t.Fatalf("%d keymaps", len(km))
	}
	f := os.NewFile(uintptr(km[0].args[1].FD()), "keymap")
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, int64(km[0].args[2].Uint())))
	if err != nil || string(text) != keymap.XKB()+"\x00" {
		t.Errorf("the keymap that was sent is not the package's (%v)", err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the keymap can be written")
	}
	rep := p.take("wl_keyboard.repeat_info")
	if len(rep) != 1 || rep[0].args[0].Int() != 0 {
		t.Errorf("repeat info is %v", rep)
	}
	w := p.shown(testWidth, testHeight)
	enter := p.take("wl_keyboard.enter")
	if len(enter) != 1 || enter[0].id != k || enter[0].args[1].ID() != w.surface {
		t.Fatalf("enter is %v", enter)
	}
	p.inputs()
	if err := s.Text("aB"); err != nil {
		t.Fatal(err)
	}
	wantInputs(t, p, "keyboard key 30 1", "keyboard key 30 0",
		"keyboard key 42 1", "keyboard modifiers 1 0 0 0",
		"keyboard key 48 1", "keyboard key 48 0",
		"keyboard key 42 0", "keyboard modifiers 0 0 0 0")
	for _, k := range []struct {
		code uint32
		down bool
	}{{58, true}, {58, false}, {54, true}, {116, true}, {116, true}} {
		if err := s.Key(k.code, k.down); err != nil {
			t.Fatal(err)
		}
	}
	wantInputs(t, p, "keyboard key 58 1", "keyboard modifiers 0 0 2 0", "keyboard key 58 0",
		"keyboard key 54 1", "keyboard modifiers 1 0 2 0", "keyboard key 116 1")
	// With Caps Lock on and right Shift and Power held: A needs no Shift, a does.
	if err := s.Text("Aa"); err != nil {
		t.Fatal(err)
	}
	wantInputs(t, p, "keyboard key 54 0", "keyboard modifiers 0 0 2 0", "keyboard key 30 1", "keyboard key 30 0",
		"keyboard key 42 1", "keyboard modifiers 1 0 2 0", "keyboard key 30 1", "keyboard key 30 0",
		"keyboard key 42 0", "keyboard modifiers 0 0 2 0", "keyboard key 54 1", "keyboard modifiers 1 0 2 0")
	// A window that comes to the front takes the keyboard, with the keys that are down.
	q := connect(t, s)
	q.make(q.seat, protocol.WlSeat, protocol.WlSeatRequestGetKeyboard, protocol.WlKeyboard)
	other := q.shown(testWidth, testHeight)
	wantInputs(t, p, fmt.Sprintf("keyboard leave %d", w.surface))
	enter = q.take("wl_keyboard.enter")
	if len(enter) != 1 || enter[0].args[1].ID() != other.surface {
		t.Fatalf("enter is %v", enter)
	}
	keys := enter[0].args[2].Bytes()
	if len(keys) != 8 || binary.NativeEndian.Uint32(keys) != 116 || binary.NativeEndian.Uint32(keys[4:]) != 54 {
		t.Errorf("keys that are down are %v", keys)
	}
	q.send(other.toplevel, protocol.XdgToplevel, protocol.XdgToplevelRequestDestroy)
	q.roundtrip()
	p.roundtrip()
	if enter = p.take("wl_keyboard.enter"); len(enter) != 1 {
		t.Errorf("the keyboard did not come back: %v", enter)
	}
}

func TestWheel(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetPointer, protocol.WlPointer)
	w := p.shown(100, 40)
	p.inputs()
	if err := s.Wheel(120, 110, 0, -2); err != nil {
		t.Fatal(err)
	}
	if err := s.Wheel(121, 111, 0.5, 0); err != nil {
		t.Fatal(err)
	}
	wantInputs(t, p, fmt.Sprintf("pointer enter %d 10 10", w.surface), "pointer frame",
		"pointer axis_source 0", "pointer axis_discrete 0 -2", "pointer axis 0 -30", "pointer frame",
		"pointer motion 11 11", "pointer frame", "pointer axis_source 0", "pointer axis 1 7.5", "pointer frame")
	if err := s.Wheel(5, 5, 0, 1); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the wheel turns on nothing: %v", err)
	}
	wantInputs(t, p, fmt.Sprintf("pointer leave %d", w.surface), "pointer frame")
}

func TestTouchAsPointer(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetPointer, protocol.WlPointer)
	w := p.shown(testWidth, testHeight)
	p.inputs()
	for i, a := range []TouchAction{TouchDown, TouchMove, TouchUp} {
		if err := s.Touch(0, a, float64(10+i), 20); err != nil {
			t.Fatal(err)
		}
	}
	wantInputs(t, p, fmt.Sprintf("pointer enter %d 10 20", w.surface), "pointer frame",
		"pointer button 272 1", "pointer frame", "pointer motion 11 20", "pointer frame", "pointer button 272 0", "pointer frame")
}

func TestTouchOutlivesNothing(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	p.make(p.seat, protocol.WlSeat, protocol.WlSeatRequestGetTouch, protocol.WlTouch)
	w := p.shown(testWidth, testHeight)
	if err := s.Touch(0, TouchDown, 10, 10); err != nil {
		t.Fatal(err)
	}
	p.send(w.toplevel, protocol.XdgToplevel, protocol.XdgToplevelRequestDestroy)
	p.send(w.xdg, protocol.XdgSurface, protocol.XdgSurfaceRequestDestroy)
	p.send(w.surface, protocol.WlSurface, protocol.WlSurfaceRequestDestroy)
	p.roundtrip()
	p.inputs()
	if err := s.Touch(0, TouchMove, 11, 11); err != nil {
		t.Error(err)
	}
	if err := s.Touch(0, TouchUp, 11, 11); err != nil {
		t.Error(err)
	}
	wantInputs(t, p)
}
