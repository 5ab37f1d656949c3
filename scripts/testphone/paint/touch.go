package paint

import (
	"image"
	"strconv"
	"time"

	"github.com/phonehost/phonehost/scripts/testphone/barcode"
)

const (
	// holdTime is how long a mark keeps its full colour after the finger has left, fadeTime how long it then fades.
	holdTime = time.Second
	fadeTime = 500 * time.Millisecond
	// trailTime is how long a dot of the trail is seen.
	trailTime = 1500 * time.Millisecond
	maxTrail  = 256
)

// finger is a mark on the screen.
type finger struct {
	id     int
	at     image.Point
	down   bool
	lifted time.Time
}

// dot is a place where a finger was.
type dot struct {
	at   image.Point
	when time.Time
}

// touches draws the marks and the trails behind them.
type touches struct {
	faces              *faces
	rim, inside, speck *mask
	fingers            []*finger
	trail              []dot
	areas              []image.Rectangle // as drawn
	moved              bool
	now                time.Time
	width, height      int
	totalTaps          int
}

func newTouches(f *faces, width, height int) *touches {
	outer, inner := barcode.Radius(width, height), barcode.DiscRadius(width, height)
	return &touches{
		faces: f, width: width, height: height,
		rim: disc(float64(inner), float64(outer), 1), inside: disc(0, float64(inner), 1), speck: disc(0, float64(outer)/4, 1),
	}
}

func (t *touches) find(id int) *finger {
	for _, f := range t.fingers {
		if f.id == id {
			return f
		}
	}
	return nil
}

// press puts a finger down. A mark that still fades under the same id is taken over.
func (t *touches) press(id int, at image.Point) {
	f := t.find(id)
	if f == nil {
		f = &finger{id: id}
		t.fingers = append(t.fingers, f)
	}
	f.at, f.down = at, true
	t.totalTaps++
	t.moved = true
}

func (t *touches) move(id int, at image.Point, now time.Time) {
	f := t.find(id)
	if f == nil || !f.down || f.at == at {
		return
	}
	if len(t.trail) < maxTrail {
		t.trail = append(t.trail, dot{f.at, now})
	}
	f.at = at
	t.moved = true
}

func (t *touches) lift(id int, now time.Time) {
	if f := t.find(id); f != nil && f.down {
		f.down, f.lifted = false, now
	}
}

func (t *touches) down() int {
	n := 0
	for _, f := range t.fingers {
		if f.down {
			n++
		}
	}
	return n
}

// update drops what has faded and returns what was and what is, if anything moves or fades.
func (t *touches) update(m moment) []image.Rectangle {
	t.now = m.now
	fading := len(t.trail) > 0
	fingers := t.fingers[:0]
	for _, f := range t.fingers {
		since := m.now.Sub(f.lifted)
		if !f.down && since >= holdTime+fadeTime {
			t.moved = true
			continue
		}
		fading = fading || !f.down && since > holdTime
		fingers = append(fingers, f)
	}
	t.fingers = fingers
	for len(t.trail) > 0 && m.now.Sub(t.trail[0].when) >= trailTime {
		t.trail = t.trail[1:]
	}
	if !t.moved && !fading {
		return nil
	}
	t.moved = false
	old := t.areas
	t.areas = nil
	for _, d := range t.trail {
		t.areas = append(t.areas, centred(t.speck, d.at))
	}
	for _, f := range t.fingers {
		t.areas = append(t.areas, centred(t.rim, f.at))
	}
	return append(old, t.areas...)
}

func centred(m *mask, at image.Point) image.Rectangle {
	corner := at.Sub(image.Pt(m.width/2, m.height/2))
	return image.Rect(corner.X, corner.Y, corner.X+m.width, corner.Y+m.height)
}

func (t *touches) draw(c *Canvas, clip image.Rectangle) {
	for _, d := range t.trail {
		if area := centred(t.speck, d.at); area.Overlaps(clip) {
			c.stamp(clip, t.speck, area.Min, white, remaining(t.now.Sub(d.when), 0, trailTime)*3/4)
		}
	}
	for _, f := range t.fingers {
		if centred(t.rim, f.at).Overlaps(clip) {
			t.drawMark(c, clip, f)
		}
	}
}

func (t *touches) drawMark(c *Canvas, clip image.Rectangle, f *finger) {
	strength := uint32(256)
	if !f.down {
		strength = remaining(t.now.Sub(f.lifted), holdTime, fadeTime)
	}
	c.stamp(clip, t.rim, centred(t.rim, f.at).Min, white, strength)
	c.stamp(clip, t.inside, centred(t.inside, f.at).Min, pixel(barcode.Color(f.id)), strength)
	number, face := strconv.Itoa(f.id), t.faces.digits
	corner := f.at.Sub(image.Pt(face.width(number)/2, face.height()/2))
	face.write(c, clip, corner, number, black, strength)
}

// remaining is what is left, of 256, of something that holds for a time and then fades.
func remaining(since, hold, fade time.Duration) uint32 {
	if since <= hold {
		return 256
	}
	return uint32(256 * max(0, hold+fade-since) / fade)
}
