package paint

import (
	"image"
	"time"
)

// maxTyped bounds what is kept of the typed text, in bytes.
const maxTyped = 256

// Press, Move and Lift report a finger; positions are in pixels of the picture and may lie outside of it.
func (p *Painter) Press(id int, x, y float64) { p.touches.press(id, image.Pt(int(x), int(y))) }

// Move reports that a finger which is down is somewhere else now. Other ids are left out.
func (p *Painter) Move(id int, x, y float64, now time.Time) {
	p.touches.move(id, image.Pt(int(x), int(y)), now)
}

// Lift reports that a finger has left; its mark stays for about a second and a half.
func (p *Painter) Lift(id int, now time.Time) { p.touches.lift(id, now) }

// Key reports the name of a key that went down.
func (p *Painter) Key(name string) { p.key = name }

// Type adds a character to the typed text; backspace (8) removes the last one and a line feed or carriage return empties it.
func (p *Painter) Type(c byte) {
	switch {
	case c == '\b' && p.typed != "":
		p.typed = p.typed[:len(p.typed)-1]
	case c == '\n' || c == '\r':
		p.typed = ""
	case c >= ' ' && c <= '~':
		p.typed += string(rune(c))
		p.typed = p.typed[max(0, len(p.typed)-maxTyped):]
	}
}

// Wheel reports steps of the wheel, positive towards the user.
func (p *Painter) Wheel(steps int) { p.wheel += steps }
