// Package keymap is the keyboard that a display gives its guest: one table of keys, from which both the xkb keymap that
// clients compile and the way text is typed are made, so that the two cannot disagree.
//
// The layout is that of a US PC keyboard. Everything here is a table or computed from it; nothing is ever written to, and all
// functions may be called from any goroutine.
package keymap

import (
	"fmt"
	"strings"
	"sync"
)

// MinCode and MaxCode bound the codes of Linux's input-event-codes.h that xkb can express.
const (
	MinCode = 1
	MaxCode = 247
)

// Codes of the modifier keys.
const (
	LeftControl  = 29
	LeftShift    = 42
	RightShift   = 54
	LeftAlt      = 56
	CapsLock     = 58
	NumLock      = 69
	RightControl = 97
	RightAlt     = 100
	LeftSuper    = 125
	RightSuper   = 126
)

// Modifiers as bits of the masks that wl_keyboard.modifiers carries: the real modifiers of xkb, in its order.
const (
	Shift   = 1 << 0
	Lock    = 1 << 1
	Control = 1 << 2
	Alt     = 1 << 3 // Mod1
	Num     = 1 << 4 // Mod2
	Super   = 1 << 6 // Mod4
)

// Key is one key.
type Key struct {
	// Code is its number in Linux's input-event-codes.h, MinCode..MaxCode. In xkb it is 8 higher.
	Code uint32
	// Name is its xkb name, at most four characters, without the angle brackets.
	Name string
	// Plain is the keysym without modifiers.
	Plain string
	// Shifted is the keysym with Shift; empty where it is the same.
	Shifted string
	// ASCII is the character that Plain types; 0 for none, or when another key is the one to type it with.
	ASCII byte
	// ShiftedASCII is the character that Shifted types; 0 for none.
	ShiftedASCII byte
}

// Stroke is how a character is typed.
type Stroke struct {
	// Code is the key.
	Code uint32
	// Shift tells whether Shift is held.
	Shift bool
	// Letter tells whether Caps Lock inverts Shift.
	Letter bool
}

var strokes = sync.OnceValue(func() (table [128]Stroke) {
	for _, k := range Keys {
		letter := k.ASCII >= 'a' && k.ASCII <= 'z'
		if k.ASCII != 0 {
			table[k.ASCII] = Stroke{Code: k.Code, Letter: letter}
		}
		if k.ShiftedASCII != 0 {
			table[k.ShiftedASCII] = Stroke{Code: k.Code, Shift: true, Letter: letter}
		}
	}
	return table
})

// Lookup returns how to type r: printable ASCII, tab and line feed. It returns false for everything else.
func Lookup(r rune) (Stroke, bool) {
	if r < 0 || r >= 128 {
		return Stroke{}, false
	}
	s := strokes()[r]
	return s, s.Code != 0
}

// Modifier returns the modifier that a key sets while it is down, and the one that it locks; both are 0 for other keys.
func Modifier(code uint32) (held, locked uint32) {
	switch code {
	case LeftShift, RightShift:
		return Shift, 0
	case LeftControl, RightControl:
		return Control, 0
	case LeftAlt, RightAlt:
		return Alt, 0
	case LeftSuper, RightSuper:
		return Super, 0
	case CapsLock:
		return 0, Lock
	case NumLock:
		return 0, Num
	}
	return 0, 0
}

// XKB returns the keymap in the text format that libxkbcommon compiles (XKB_KEYMAP_FORMAT_TEXT_V1), without a NUL byte.
func XKB() string {
	var b strings.Builder
	b.WriteString("xkb_keymap {\nxkb_keycodes \"phonehost\" {\n\tminimum = 8;\n\tmaximum = 255;\n")
	for _, k := range Keys {
		fmt.Fprintf(&b, "\t<%s> = %d;\n", k.Name, k.Code+8)
	}
	b.WriteString("\tindicator 1 = \"Caps Lock\";\n\tindicator 2 = \"Num Lock\";\n};\n")
	b.WriteString(types)
	b.WriteString(compat)
	b.WriteString("xkb_symbols \"phonehost\" {\n\tname[Group1] = \"English (US)\";\n")
	for _, k := range Keys {
		fmt.Fprintf(&b, "\tkey <%s> { type = \"%s\", [ %s", k.Name, k.xkbType(), k.Plain)
		if k.Shifted != "" {
			fmt.Fprintf(&b, ", %s", k.Shifted)
		}
		b.WriteString(" ] };\n")
	}
	b.WriteString(modifierMap)
	b.WriteString("};\n};\n")
	return b.String()
}

// xkbType is how modifiers choose between the key's two symbols.
func (k Key) xkbType() string {
	switch {
	case k.Shifted == "":
		return "ONE_LEVEL"
	case k.ASCII >= 'a' && k.ASCII <= 'z':
		return "ALPHABETIC"
	case strings.HasPrefix(k.Plain, "KP_"):
		return "KEYPAD"
	}
	return "TWO_LEVEL"
}

const types = `xkb_types "phonehost" {
	virtual_modifiers NumLock, Alt, Super;
	type "ONE_LEVEL" {
		modifiers = none;
		level_name[Level1] = "Any";
	};
	type "TWO_LEVEL" {
		modifiers = Shift;
		map[Shift] = Level2;
		level_name[Level1] = "Base";
		level_name[Level2] = "Shift";
	};
	type "ALPHABETIC" {
		modifiers = Shift+Lock;
		map[Shift] = Level2;
		map[Lock] = Level2;
		level_name[Level1] = "Base";
		level_name[Level2] = "Caps";
	};
	type "KEYPAD" {
		modifiers = Shift+NumLock;
		map[Shift] = Level2;
		map[NumLock] = Level2;
		level_name[Level1] = "Base";
		level_name[Level2] = "Number";
	};
};
`

const compat = `xkb_compatibility "phonehost" {
	virtual_modifiers NumLock, Alt, Super;
	interpret.useModMapMods = AnyLevel;
	interpret.repeat = False;
	interpret Num_Lock+AnyOf(all) {
		virtualModifier = NumLock;
		action = LockMods(modifiers=NumLock);
	};
	interpret Caps_Lock+AnyOfOrNone(all) {
		action = LockMods(modifiers=Lock);
	};
	interpret Alt_L+AnyOf(all) {
		virtualModifier = Alt;
		action = SetMods(modifiers=modMapMods,clearLocks);
	};
	interpret Alt_R+AnyOf(all) {
		virtualModifier = Alt;
		action = SetMods(modifiers=modMapMods,clearLocks);
	};
	interpret Super_L+AnyOf(all) {
		virtualModifier = Super;
		action = SetMods(modifiers=modMapMods,clearLocks);
	};
	interpret Super_R+AnyOf(all) {
		virtualModifier = Super;
		action = SetMods(modifiers=modMapMods,clearLocks);
	};
	interpret Any+AnyOf(all) {
		action = SetMods(modifiers=modMapMods,clearLocks);
	};
	indicator "Caps Lock" {
		!allowExplicit;
		whichModState = locked;
		modifiers = Lock;
	};
	indicator "Num Lock" {
		!allowExplicit;
		whichModState = locked;
		modifiers = NumLock;
	};
};
`

const modifierMap = `	modifier_map Shift { <LFSH>, <RTSH> };
	modifier_map Lock { <CAPS> };
	modifier_map Control { <LCTL>, <RCTL> };
	modifier_map Mod1 { <LALT>, <RALT> };
	modifier_map Mod2 { <NMLK> };
	modifier_map Mod4 { <LWIN>, <RWIN> };
`
