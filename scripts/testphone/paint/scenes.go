package paint

import (
	"fmt"
	"image"
	"math/rand/v2"
	"strings"

	"github.com/phonehost/phonehost/scripts/testphone/barcode"
)

// layout is where the fixed parts of the picture are, from top to bottom.
type layout struct {
	margin                         int
	status, clock, counter, bottom int // tops
	body                           image.Rectangle
}

func (p *Painter) layout() layout {
	w, h, f := p.cfg.Width, p.cfg.Height, p.faces
	m := max(w/36, 4)
	l := layout{margin: m, status: barcode.Height(h) + m/2}
	l.clock = l.status + f.small.height() + m
	l.counter = l.clock + f.large.height() + m/2
	l.bottom = h - 3*(f.normal.height()+m/3) - m
	l.body = image.Rect(m, min(l.counter+f.large.height()+m, l.bottom-1), w-m, l.bottom-m)
	return l
}

// build makes the background and the elements of the scene.
func (p *Painter) build() {
	p.elements = nil
	if p.scene == "bars" {
		p.back.fill(p.back.bounds(), 0xff000000)
		for _, bar := range barcode.Bars(p.cfg.Width, p.cfg.Height) {
			p.back.fill(bar.Area, pixel(bar.Color))
		}
		return
	}
	l := p.layout()
	gradient(p.back)
	p.back.shade(p.back.bounds(), image.Rect(0, 0, p.cfg.Width, l.clock-l.margin/2), black, 150)
	p.back.shade(p.back.bounds(), image.Rect(0, l.bottom-l.margin/2, p.cfg.Width, p.cfg.Height), black, 150)
	switch p.scene {
	case "scroll":
		p.elements = append(p.elements, newFeed(p.faces, l.body))
	case "typing":
		p.elements = append(p.elements, newEditor(p.faces, l.body))
	default:
		p.elements = append(p.elements, p.bubbles()...)
	}
	p.elements = append(p.elements, p.texts(l)...)
	p.elements = append(p.elements, p.tiles, p.touches)
}

// bubbles are the moving discs of the scene motion.
func (p *Painter) bubbles() []element {
	w, h := p.cfg.Width, p.cfg.Height
	unit := float64(min(w, h)) / 720
	var list []element
	for i, b := range []struct {
		radius, dx, dy, x, y float64
		color                uint32
	}{
		{110, 190, 130, 0, 300, 0xff7c93b2}, {80, -150, 220, 900, 700, 0xffa898b8}, {95, 120, -170, 300, 1500, 0xff84a9a0},
		{60, 260, 240, 500, 100, 0xffb5a48a}, {70, -210, 150, 200, 900, 0xff9aa6c0},
	} {
		shape := disc(0, b.radius*unit, 1+float64(i%2)*6*unit)
		list = append(list, &bubble{shape: shape, color: b.color, strength: 150, path: func(s float64) image.Point {
			half := shape.width / 2
			top := barcode.Height(h)
			return image.Pt(
				half+bounce(s, abs(b.dx)*unit, b.x*unit, w-shape.width),
				top+half+bounce(s, abs(b.dy)*unit, b.y*unit, h-top-shape.height),
			)
		}})
	}
	return list
}

func abs(f float64) float64 { return max(f, -f) }

// texts are the lines of text that every scene but the bars has.
func (p *Painter) texts(l layout) []element {
	w, f := p.cfg.Width, p.faces
	about := fmt.Sprintf("%dx%d  %d fps  %d dpi", p.cfg.Width, p.cfg.Height, p.cfg.FPS, p.cfg.DPI)
	row := func(i int) image.Point { return image.Pt(l.margin, l.bottom+i*(f.normal.height()+l.margin/3)) }
	fixed := func(text string) func(moment) string { return func(moment) string { return text } }
	room := w - 2*l.margin
	return []element{
		&line{face: f.small, at: image.Pt(l.margin, l.status), color: bright, text: fixed(p.cfg.Name), room: room - f.small.width(about) - l.margin},
		&line{face: f.small, at: image.Pt(w-l.margin-f.small.width(about), l.status), color: dim, text: fixed(about)},
		&line{face: f.large, at: image.Pt(w/2, l.clock), color: white, centred: true, room: room,
			text: func(m moment) string { return m.now.Format("15:04:05.000") }},
		&line{face: f.large, at: image.Pt(w/2, l.counter), color: bright, centred: true, room: room,
			text: func(m moment) string { return fmt.Sprintf("#%08d", m.frame) }},
		&line{face: f.normal, at: row(0), color: bright, room: room, text: func(moment) string { return "text: " + p.typed }},
		&line{face: f.normal, at: row(1), color: bright, room: room, text: func(moment) string { return "key: " + p.key }},
		&line{face: f.normal, at: row(2), color: bright, room: room, text: func(moment) string {
			return fmt.Sprintf("wheel: %d    touches: %d    taps: %d", p.wheel, p.touches.down(), p.touches.totalTaps)
		}},
	}
}

// feed is a list that scrolls up and down without end, like the feed of an app: everything in its area moves.
type feed struct {
	area  image.Rectangle
	strip *Canvas // the whole list, as wide as the area
	top   int
	drawn bool
}

func newFeed(f *faces, area image.Rectangle) *feed {
	card := 5 * f.normal.height()
	cards := 2*area.Dy()/max(card, 1) + 3
	strip := newCanvas(max(area.Dx(), 1), cards*card)
	strip.fill(strip.bounds(), 0xff1e293b)
	shape := panel(max(strip.Width, 1), card*9/10, card/8)
	photo := disc(0, float64(card)/4, 1)
	rng := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua")
	for i := range cards {
		y := i * card
		strip.stamp(strip.bounds(), shape, image.Pt(0, y), 0xff334155, 256)
		strip.stamp(strip.bounds(), photo, image.Pt(card/8, y+card/5), 0xff000000|mix(0xff64748b, 0xffd6c9b8, rng.Uint32N(256)), 256)
		f.normal.write(strip, strip.bounds(), image.Pt(card*3/4, y+card/20), fmt.Sprintf("Message %d", i+1), bright, 256)
		for k := range 3 {
			var text []string
			for range 5 {
				text = append(text, words[rng.IntN(len(words))])
			}
			f.small.write(strip, strip.bounds(), image.Pt(card*3/4, y+card*(3+2*k)/10), strings.Join(text, " "), dim, 256)
		}
	}
	return &feed{area: area, strip: strip}
}

func (f *feed) update(m moment) []image.Rectangle {
	top := bounce(m.seconds, float64(f.area.Dy())/2, 0, f.strip.Height-f.area.Dy())
	if f.drawn && top == f.top {
		return nil
	}
	f.top, f.drawn = top, true
	return []image.Rectangle{f.area}
}

func (f *feed) draw(c *Canvas, clip image.Rectangle) {
	r := f.area.Intersect(clip)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		x0 := r.Min.X - f.area.Min.X
		copy(c.row(y, r.Min.X, r.Max.X), f.strip.row(f.top+y-f.area.Min.Y, x0, x0+r.Dx()))
	}
}

// editor types a text, twelve characters a second, with a cursor that blinks.
type editor struct {
	faces *faces
	area  image.Rectangle
	paper *mask
	lines []string
	total int // characters in lines

	shown  int
	cursor bool
	drawn  bool
}

const prose = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. " +
	"Sphinx of black quartz, judge my vow! How vexingly quick daft zebras jump; 0123456789. "

func newEditor(f *faces, area image.Rectangle) *editor {
	e := &editor{faces: f, area: area, paper: panel(max(area.Dx(), 1), max(area.Dy(), 1), area.Dx()/32)}
	columns := max((area.Dx()-area.Dx()/8)/f.digits.width("0"), 1)
	rows := max((area.Dy()-area.Dx()/8)/f.digits.height(), 1)
	text := strings.Repeat(prose, rows*columns/len(prose)+1)[:rows*columns]
	for ; len(text) > 0; text = text[columns:] {
		e.lines = append(e.lines, text[:columns])
	}
	e.total = rows * columns
	return e
}

func (e *editor) cell(i int) image.Rectangle {
	columns := len(e.lines[0])
	w, h := e.faces.digits.width("0"), e.faces.digits.height()
	corner := e.area.Min.Add(image.Pt(e.area.Dx()/16+i%columns*w, e.area.Dx()/16+i/columns*h))
	return image.Rect(corner.X, corner.Y, corner.X+w, corner.Y+h)
}

func (e *editor) update(m moment) []image.Rectangle {
	shown, cursor := int(m.seconds*12)%e.total, int(m.seconds*2)%2 == 0
	if e.drawn && shown == e.shown && cursor == e.cursor {
		return nil
	}
	all := !e.drawn || shown < e.shown || shown-e.shown > 4
	old := e.shown
	e.shown, e.cursor, e.drawn = shown, cursor, true
	if all {
		return []image.Rectangle{e.area}
	}
	var areas []image.Rectangle
	for i := old; i <= shown; i++ {
		areas = append(areas, e.cell(i))
	}
	return areas
}

func (e *editor) draw(c *Canvas, clip image.Rectangle) {
	if !e.area.Overlaps(clip) {
		return
	}
	c.stamp(clip, e.paper, e.area.Min, 0xffe7e5e4, 256)
	columns := len(e.lines[0])
	for row, text := range e.lines {
		n := min(max(e.shown-row*columns, 0), columns)
		band := image.Rectangle{Min: e.cell(row * columns).Min, Max: e.cell(row*columns + columns - 1).Max}
		if n > 0 && band.Overlaps(clip) {
			e.faces.digits.write(c, clip, band.Min, text[:n], black, 256)
		}
	}
	if e.cursor {
		r := e.cell(e.shown)
		r.Max.X = r.Min.X + max(r.Dx()/8, 2)
		c.shade(clip, r, black, 256)
	}
}
