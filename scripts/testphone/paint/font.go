package paint

import (
	"fmt"
	"image"
	"image/draw"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gomedium"
	"golang.org/x/image/font/gofont/gomonobold"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// typeface is a font at one size. Glyphs are rendered when they are first needed, ASCII only; anything else is drawn as a question mark.
type typeface struct {
	face            font.Face
	ascent, descent int
	glyphs          [128]*glyph
}

// glyph is a character ready to be stamped.
type glyph struct {
	mask
	offset  image.Point // from the pen on the base line to the mask's corner
	advance int
}

func newTypeface(ttf []byte, pixels float64) (*typeface, error) {
	parsed, err := opentype.Parse(ttf)
	if err != nil {
		return nil, fmt.Errorf("parse font: %w", err)
	}
	face, err := opentype.NewFace(parsed, &opentype.FaceOptions{Size: pixels, DPI: 72, Hinting: font.HintingFull})
	if err != nil {
		return nil, fmt.Errorf("font at %g pixels: %w", pixels, err)
	}
	m := face.Metrics()
	return &typeface{face: face, ascent: m.Ascent.Ceil(), descent: m.Descent.Ceil()}, nil
}

func (t *typeface) height() int { return t.ascent + t.descent }

func (t *typeface) glyph(r rune) *glyph {
	if r < ' ' || r > '~' {
		r = '?'
	}
	if g := t.glyphs[r]; g != nil {
		return g
	}
	box, src, corner, advance, ok := t.face.Glyph(fixed.Point26_6{}, r)
	g := &glyph{advance: advance.Round()}
	if ok && !box.Empty() {
		alpha := image.NewAlpha(image.Rect(0, 0, box.Dx(), box.Dy()))
		draw.DrawMask(alpha, alpha.Rect, image.Opaque, image.Point{}, src, corner, draw.Src)
		g.mask = mask{alpha.Pix, box.Dx(), box.Dy()}
		g.offset = box.Min
	}
	t.glyphs[r] = g
	return g
}

// width returns how far the pen moves for a text.
func (t *typeface) width(text string) int {
	w := 0
	for _, r := range text {
		w += t.glyph(r).advance
	}
	return w
}

// write draws a text with the top left corner of its line at p.
func (t *typeface) write(c *Canvas, clip image.Rectangle, p image.Point, text string, over, strength uint32) {
	pen := image.Pt(p.X, p.Y+t.ascent)
	for _, r := range text {
		g := t.glyph(r)
		if g.width > 0 {
			c.stamp(clip, &g.mask, pen.Add(g.offset), over, strength)
		}
		pen.X += g.advance
	}
}

// faces are the sizes that the screen uses.
type faces struct {
	small, normal, large *typeface // proportional, proportional, of equal widths
	digits               *typeface // of equal widths, inside marks
}

// newFaces scales the fonts to the screen.
func newFaces(width, height int) (*faces, error) {
	unit := float64(min(width, height)) / 720
	var f faces
	for _, want := range []struct {
		to   **typeface
		ttf  []byte
		size float64
	}{
		{&f.small, gomedium.TTF, max(10, 24*unit)},
		{&f.normal, gomedium.TTF, max(12, 32*unit)},
		{&f.large, gomonobold.TTF, max(18, 84*unit)},
		{&f.digits, gomonobold.TTF, max(10, 36*unit)},
	} {
		face, err := newTypeface(want.ttf, want.size)
		if err != nil {
			return nil, err
		}
		*want.to = face
	}
	return &f, nil
}
