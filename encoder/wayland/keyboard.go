package wayland

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/keymap"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// maxText is the longest text that is typed at once, in bytes.
const maxText = 4096

// keymapFile is the keymap as a sealed file that clients map.
type keymapFile struct {
	file *os.File
	size int // bytes, the NUL byte included
}

// make writes and seals the file. Clients get a descriptor that cannot be written through, so that those that map it shared
// can, too.
func (k *keymapFile) make() error {
	fd, err := unix.MemfdCreate("xkb-keymap", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("make keymap file: %w", err)
	}
	k.file = os.NewFile(uintptr(fd), "xkb-keymap")
	text := append([]byte(keymap.XKB()), 0)
	k.size = len(text)
	if _, err = k.file.Write(text); err == nil {
		_, err = unix.FcntlInt(k.file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL)
	}
	if err != nil {
		k.file.Close()
		return fmt.Errorf("write keymap file: %w", err)
	}
	if readable, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil {
		k.file.Close()
		k.file = readable
	}
	return nil
}

func (k *keymapFile) close() { k.file.Close() }

// introduce sends a keyboard that was just made what it must know, and that it has the focus if it has.
func (st *seat) introduce(k *object) {
	k.send(protocol.WlKeyboardEventKeymap, wire.Uint(protocol.WlKeyboardKeymapFormatXkbV1),
		wire.FD(int(st.keymap.file.Fd())), wire.Uint(uint32(st.keymap.size)))
	k.send(protocol.WlKeyboardEventRepeatInfo, wire.Int(0), wire.Int(0))
	if st.focus != nil && st.focus.o.c == k.c {
		st.sendKeyboardEnter(k, st.s.nextSerial())
	}
}

func (st *seat) sendKeyboardEnter(k *object, serial uint32) {
	keys := make([]byte, 0, 64)
	for _, code := range st.pressed {
		keys = binary.NativeEndian.AppendUint32(keys, code)
	}
	k.send(protocol.WlKeyboardEventEnter, wire.Uint(serial), wire.Object(st.focus.o.id), wire.Array(keys))
	st.sendModifiers(k, serial)
}

func (st *seat) sendModifiers(k *object, serial uint32) {
	k.send(protocol.WlKeyboardEventModifiers, wire.Uint(serial), wire.Uint(st.held), wire.Uint(0), wire.Uint(st.locked), wire.Uint(0))
}

// keyboardEnter tells the focused surface that it has the keyboard.
func (st *seat) keyboardEnter() {
	if st.focus == nil {
		return
	}
	serial := st.s.nextSerial()
	for _, k := range st.focus.o.c.keyboards {
		st.sendKeyboardEnter(k, serial)
	}
	st.s.clipboard.offerTo(st.focus.o.c)
}

// keyboardLeave tells it that it has not.
func (st *seat) keyboardLeave() {
	if st.focus == nil {
		return
	}
	serial := st.s.nextSerial()
	for _, k := range st.focus.o.c.keyboards {
		k.send(protocol.WlKeyboardEventLeave, wire.Uint(serial), wire.Object(st.focus.o.id))
	}
}

// Key presses or lifts a key by its code in Linux's input-event-codes.h, 1..247. A key that is as asked already is left so.
// Errors are of class InvalidArgument for a code that does not exist, and FailedPrecondition when no window takes keys.
func (s *Server) Key(code uint32, down bool) error {
	if code < keymap.MinCode || code > keymap.MaxCode {
		return fmt.Errorf("key %d: %d..%d: %w", code, keymap.MinCode, keymap.MaxCode, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.unlock()
	if down && !s.seat.listening() {
		return errNoWindow
	}
	if slices.Contains(s.seat.pressed, code) != down {
		s.seat.key(code, down)
	}
	return nil
}

// listening tells whether a client would hear of keys.
func (st *seat) listening() bool { return st.focus != nil && len(st.focus.o.c.keyboards) > 0 }

// key changes a key and tells the focused client, modifiers included.
func (st *seat) key(code uint32, down bool) {
	held, locked := st.held, st.locked
	if down {
		st.pressed = append(st.pressed, code)
	} else {
		st.pressed = without(st.pressed, code)
	}
	st.held = 0
	for _, k := range st.pressed {
		h, _ := keymap.Modifier(k)
		st.held |= h
	}
	if _, l := keymap.Modifier(code); down {
		st.locked ^= l
	}
	if st.focus == nil {
		return
	}
	state := uint32(protocol.WlKeyboardKeyStateReleased)
	if down {
		state = protocol.WlKeyboardKeyStatePressed
	}
	serial, now := st.s.nextSerial(), st.s.millis()
	for _, k := range st.focus.o.c.keyboards {
		k.send(protocol.WlKeyboardEventKey, wire.Uint(serial), wire.Uint(now), wire.Uint(code), wire.Uint(state))
		if st.held != held || st.locked != locked {
			st.sendModifiers(k, serial)
		}
	}
}

// Text types text, at most 4096 bytes of printable ASCII, tab and line feed, as strokes of keys. Nothing is typed on error,
// which is of class InvalidArgument for other characters or longer text, and FailedPrecondition when no window takes keys.
func (s *Server) Text(text string) error {
	if len(text) > maxText {
		return fmt.Errorf("text of %d bytes: at most %d: %w", len(text), maxText, errdefs.ErrInvalidArgument)
	}
	for _, r := range text {
		if _, ok := keymap.Lookup(r); !ok {
			return fmt.Errorf("character %q is on no key: %w", r, errdefs.ErrInvalidArgument)
		}
	}
	s.mu.Lock()
	defer s.unlock()
	if !s.seat.listening() {
		return errNoWindow
	}
	s.seat.typeText(text)
	return nil
}

// typeText types characters that Lookup knows. Shift keys that are down are lifted where they are in the way, and pressed
// again at the end.
func (st *seat) typeText(text string) {
	var lifted []uint32
	pressed := false
	for _, r := range text {
		stroke, _ := keymap.Lookup(r)
		shift := stroke.Shift != (stroke.Letter && st.locked&keymap.Lock != 0)
		switch {
		case shift && st.held&keymap.Shift == 0:
			st.key(keymap.LeftShift, true)
			pressed = true
		case !shift && pressed:
			st.key(keymap.LeftShift, false)
			pressed = false
		case !shift:
			for _, code := range []uint32{keymap.LeftShift, keymap.RightShift} {
				if slices.Contains(st.pressed, code) {
					st.key(code, false)
					lifted = append(lifted, code)
				}
			}
		}
		if slices.Contains(st.pressed, stroke.Code) {
			st.key(stroke.Code, false)
		}
		st.key(stroke.Code, true)
		st.key(stroke.Code, false)
	}
	if pressed {
		st.key(keymap.LeftShift, false)
	}
	for _, code := range lifted {
		st.key(code, true)
	}
}
