package screen

import (
	"fmt"
	"time"

	"github.com/phonehost/phonehost/encoder/keymap"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
)

// axisStep is how much of wl_pointer.axis is one step of a wheel that tells no steps, as Waydroid takes it.
const axisStep = 10

// keyState is what is known of the keys.
type keyState struct {
	modifiers uint32 // as in package keymap
	keys      map[uint32]keymap.Key
}

func newKeyState() keyState {
	k := keyState{keys: make(map[uint32]keymap.Key, len(keymap.Keys))}
	for _, key := range keymap.Keys {
		k.keys[key.Code] = key
	}
	return k
}

// character returns what a key types, 0 for nothing.
func (k *keyState) character(code uint32) byte {
	key, ok := k.keys[code]
	if key.Plain == "BackSpace" {
		return '\b'
	}
	if !ok || k.modifiers&(keymap.Control|keymap.Alt|keymap.Super) != 0 {
		return 0
	}
	shifted := k.modifiers&keymap.Shift != 0
	if letter := key.ASCII >= 'a' && key.ASCII <= 'z'; letter && k.modifiers&keymap.Lock != 0 {
		shifted = !shifted
	}
	if shifted && key.ShiftedASCII != 0 {
		return key.ShiftedASCII
	}
	return key.ASCII
}

// name says which key it is: its symbol and its evdev code.
func (k *keyState) name(code uint32) string {
	if key, ok := k.keys[code]; ok && key.Plain != "" {
		return fmt.Sprintf("%s (%d)", key.Plain, code)
	}
	return fmt.Sprintf("code %d", code)
}

// handleInput hands input to the picture, once there is one.
func (s *composer) handleInput(e event) {
	switch e.face {
	case protocol.WlTouch:
		s.handleTouch(e)
	case protocol.WlKeyboard:
		s.handleKeyboard(e)
	case protocol.WlPointer:
		s.handlePointer(e)
	}
}

func (s *composer) handleTouch(e event) {
	now := time.Now()
	switch e.opcode {
	case protocol.WlTouchEventDown: // serial, time, surface, id, x, y
		s.picture.Press(int(e.args[3].Int()), e.args[4].Fixed().Float(), e.args[5].Fixed().Float())
		s.fingers[e.args[3].Int()] = struct{}{}
	case protocol.WlTouchEventMotion: // time, id, x, y
		s.picture.Move(int(e.args[1].Int()), e.args[2].Fixed().Float(), e.args[3].Fixed().Float(), now)
	case protocol.WlTouchEventUp: // serial, time, id
		s.picture.Lift(int(e.args[2].Int()), now)
		delete(s.fingers, e.args[2].Int())
	case protocol.WlTouchEventCancel:
		for id := range s.fingers {
			s.picture.Lift(int(id), now)
		}
		clear(s.fingers)
	}
}

func (s *composer) handleKeyboard(e event) {
	switch e.opcode {
	case protocol.WlKeyboardEventModifiers: // serial, depressed, latched, locked, group
		s.keys.modifiers = e.args[1].Uint() | e.args[2].Uint() | e.args[3].Uint()
	case protocol.WlKeyboardEventKey: // serial, time, key, state
		if e.args[3].Uint() != protocol.WlKeyboardKeyStatePressed {
			return
		}
		code := e.args[2].Uint()
		s.picture.Key(s.keys.name(code))
		if c := s.keys.character(code); c != 0 {
			s.picture.Type(c)
		}
	}
}

// handlePointer counts vertical steps of the wheel: whole ones where the display tells them, else parts by the distance.
func (s *composer) handlePointer(e event) {
	switch e.opcode {
	case protocol.WlPointerEventAxisDiscrete: // axis, steps; wl_pointer.axis follows
		if e.args[0].Uint() == protocol.WlPointerAxisVerticalScroll {
			s.picture.Wheel(int(e.args[1].Int()))
			s.counted = true
		}
	case protocol.WlPointerEventAxis: // time, axis, distance
		if e.args[1].Uint() != protocol.WlPointerAxisVerticalScroll {
			return
		}
		if s.counted {
			s.counted = false
			return
		}
		s.wheel += e.args[2].Fixed().Float() / axisStep
		steps := int(s.wheel)
		s.wheel -= float64(steps)
		s.picture.Wheel(steps)
	}
}
