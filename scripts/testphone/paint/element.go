package paint

import "image"

// element is something on the picture.
type element interface {
	// update brings the element to a moment and returns the areas that look different from before, the old place and the new one.
	update(m moment) []image.Rectangle
	// draw draws the element as update left it, clipped.
	draw(c *Canvas, clip image.Rectangle)
}

// overhang is how far a character may reach out of its place, in pixels.
const overhang = 2

// line is a line of text that changes.
type line struct {
	face  *typeface
	at    image.Point
	color uint32
	// text returns what it says.
	text func(m moment) string
	// room is the greatest width in pixels, 0 for any; text that is longer loses its beginning.
	room int
	// centred says that at is the middle of the top.
	centred bool

	said string
	area image.Rectangle
}

func (l *line) update(m moment) []image.Rectangle {
	said := l.text(m)
	for l.room > 0 && said != "" && l.face.width(said) > l.room {
		said = said[1:]
	}
	if said == l.said {
		return nil
	}
	old, was := l.area, l.said
	l.said = said
	l.area = image.Rectangle{}
	if said != "" {
		l.area = image.Rect(0, 0, l.face.width(said), l.face.height()).Add(l.corner()).Inset(-overhang)
	}
	if len(was) == len(said) && old == l.area && l.face.width("i") == l.face.width("m") {
		return []image.Rectangle{l.changed(was)}
	}
	return []image.Rectangle{old, l.area}
}

// changed is the area from the first to the last different character of a text with characters of equal width.
func (l *line) changed(was string) image.Rectangle {
	first, last := 0, len(was)-1
	for first < last && was[first] == l.said[first] {
		first++
	}
	for last > first && was[last] == l.said[last] {
		last--
	}
	cell := l.face.width("0")
	r := l.area
	r.Min.X, r.Max.X = l.area.Min.X+first*cell, l.area.Min.X+(last+1)*cell+2*overhang
	return r
}

func (l *line) corner() image.Point {
	if l.centred {
		return l.at.Sub(image.Pt(l.face.width(l.said)/2, 0))
	}
	return l.at
}

func (l *line) draw(c *Canvas, clip image.Rectangle) {
	if l.area.Overlaps(clip) {
		l.face.write(c, clip, l.corner(), l.said, l.color, 256)
	}
}

// bubble is a pale disc that drifts and bounces.
type bubble struct {
	shape    *mask
	color    uint32
	path     func(seconds float64) image.Point
	strength uint32

	at    image.Point
	drawn bool
}

func (b *bubble) update(m moment) []image.Rectangle {
	at := b.path(m.seconds)
	if b.drawn && at == b.at {
		return nil
	}
	old := b.area()
	b.at, b.drawn = at, true
	// What overlaps is one rectangle, so that the background is restored once.
	if next := b.area(); next.Overlaps(old) {
		return []image.Rectangle{next.Union(old)}
	}
	return []image.Rectangle{old, b.area()}
}

func (b *bubble) area() image.Rectangle {
	if !b.drawn {
		return image.Rectangle{}
	}
	half := b.shape.width / 2
	return image.Rect(b.at.X-half, b.at.Y-half, b.at.X-half+b.shape.width, b.at.Y-half+b.shape.height)
}

func (b *bubble) draw(c *Canvas, clip image.Rectangle) {
	if area := b.area(); area.Overlaps(clip) {
		c.stamp(clip, b.shape, area.Min, b.color, b.strength)
	}
}

// bounce returns where something is that moves between 0 and length at a speed, both in pixels, starting at phase.
func bounce(seconds, speed, phase float64, length int) int {
	if length <= 0 {
		return 0
	}
	period := 2 * float64(length)
	d := phase + seconds*speed
	d -= period * float64(int(d/period))
	if d > float64(length) {
		d = period - d
	}
	return int(d)
}
