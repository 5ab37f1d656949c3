package paint

import (
	"fmt"
	"image"
	"math/bits"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/testphone/barcode"
)

const (
	white  = 0xffffffff
	black  = 0xff0b0f14
	bright = 0xffe2e8f0
	dim    = 0xff94a3b8
)

// Scenes are the pictures that can be shown: motion, scroll, typing move in their ways, still is motion stopped after its first frame,
// bars is colour bars.
func Scenes() []string { return []string{"motion", "scroll", "typing", "still", "bars"} }

// Config is what a Painter needs.
type Config struct {
	// Width and Height of the picture in pixels, at least 64.
	Width, Height int
	// FPS and DPI are printed in the status bar.
	FPS, DPI int
	// Name of the phone, printed in the status bar.
	Name string
}

// moment is what elements are told for a frame.
type moment struct {
	now     time.Time
	seconds float64 // since the first frame
	frame   uint32
}

// Painter draws the frames.
type Painter struct {
	cfg    Config
	faces  *faces
	canvas *Canvas
	back   *Canvas // what lies under the elements

	scene    string
	fresh    bool // everything is to be drawn
	elements []element
	touches  *touches
	tiles    *tiles
	first    time.Time
	frame    uint32
	damage   []image.Rectangle

	typed string
	key   string
	wheel int
}

// New returns a painter that shows the scene motion. Error: errdefs.ErrInvalidArgument for a size out of range.
func New(cfg Config) (*Painter, error) {
	if cfg.Width < 64 || cfg.Height < 64 || cfg.Width > 8192 || cfg.Height > 8192 {
		return nil, fmt.Errorf("picture of %dx%d: %w", cfg.Width, cfg.Height, errdefs.ErrInvalidArgument)
	}
	f, err := newFaces(cfg.Width, cfg.Height)
	if err != nil {
		return nil, err
	}
	p := &Painter{cfg: cfg, faces: f, canvas: newCanvas(cfg.Width, cfg.Height), back: newCanvas(cfg.Width, cfg.Height)}
	p.touches = newTouches(f, cfg.Width, cfg.Height)
	p.tiles = newTiles(f, p.layout().body)
	return p, p.SetScene("motion")
}

// SetScene changes the scene from the next frame on. Error: errdefs.ErrInvalidArgument for a name that is not one of Scenes.
func (p *Painter) SetScene(name string) error {
	if !slices.Contains(Scenes(), name) {
		return fmt.Errorf("scene %.40q is none of %v: %w", name, Scenes(), errdefs.ErrInvalidArgument)
	}
	p.scene, p.fresh = name, true
	p.build()
	return nil
}

// SetApps changes which apps are shown, by their labels, from the next frame on; the first eight are.
func (p *Painter) SetApps(labels []string) { p.tiles.set(labels) }

// Canvas returns the picture as the last Frame left it. It stays the same memory.
func (p *Painter) Canvas() *Canvas { return p.canvas }

// Frame draws the next frame, with the next number in its strip, and returns the areas that changed, valid until the next call. Without
// any there is no new frame and the number stays: the scene stands still.
func (p *Painter) Frame(now time.Time) []image.Rectangle {
	if p.scene == "still" && !p.fresh {
		return nil
	}
	if p.first.IsZero() {
		p.first = now
	}
	p.frame++
	m := moment{now, now.Sub(p.first).Seconds(), p.frame}
	p.damage = p.damage[:0]
	for _, e := range p.elements {
		p.damage = append(p.damage, e.update(m)...)
	}
	if p.fresh {
		p.fresh = false
		p.damage = append(p.damage[:0], p.canvas.bounds())
	}
	p.simplify()
	for _, r := range p.damage {
		p.canvas.copyFrom(p.back, r)
		for _, e := range p.elements {
			e.draw(p.canvas, r)
		}
	}
	p.damage = append(p.damage, p.strip())
	return p.damage
}

// simplify clips the damage to the screen, drops what is empty, and merges rectangles whose union is hardly larger than they are.
func (p *Painter) simplify() {
	list := p.damage
	for i := range list {
		list[i] = list[i].Intersect(p.canvas.bounds())
	}
	list = slices.DeleteFunc(list, image.Rectangle.Empty)
	for i := 0; i < len(list); i++ {
		for j := i + 1; j < len(list); j++ {
			union := list[i].Union(list[j])
			if area(union) <= area(list[i])+area(list[j]) {
				list[i] = union
				list = slices.Delete(list, j, j+1)
				j = i
			}
		}
	}
	p.damage = list
}

func area(r image.Rectangle) int { return r.Dx() * r.Dy() }

// strip draws the frame's number for machines.
func (p *Painter) strip() image.Rectangle {
	cells := bits.Reverse64(barcode.Encode(p.frame)) >> (64 - barcode.Cells)
	for i := range barcode.Cells {
		color := uint32(0xff000000)
		if cells>>i&1 != 0 {
			color = white
		}
		p.canvas.fill(barcode.Cell(i, p.cfg.Width, p.cfg.Height), color)
	}
	return image.Rect(0, 0, p.cfg.Width, barcode.Height(p.cfg.Height))
}

// FrameNumber returns the number of the last frame, 0 before the first.
func (p *Painter) FrameNumber() uint32 { return p.frame }
