package paint

import (
	"image"
	"slices"
	"strings"
)

// tileColumns is how many tiles are in a row; there are two rows at most.
const tileColumns = 4

// tiles shows the apps that run, each as a tile with the first letter and the label of the app.
type tiles struct {
	faces *faces
	area  image.Rectangle
	shape *mask
	size  int // of a tile

	wanted, shown []string
}

// newTiles puts the tiles at the top of the area.
func newTiles(f *faces, area image.Rectangle) *tiles {
	size := max(area.Dx()/tileColumns*5/8, 8)
	return &tiles{faces: f, area: area, size: size, shape: panel(size, size, size/4)}
}

// set changes the apps from the next frame on.
func (t *tiles) set(labels []string) { t.wanted = labels[:min(len(labels), 2*tileColumns)] }

// cell is the place of a tile and its label.
func (t *tiles) cell(i int) image.Rectangle {
	width, height := t.area.Dx()/tileColumns, t.size+t.faces.small.height()*3/2
	corner := t.area.Min.Add(image.Pt(i%tileColumns*width, i/tileColumns*height))
	return image.Rectangle{Min: corner, Max: corner.Add(image.Pt(width, height))}
}

func (t *tiles) update(moment) []image.Rectangle {
	if slices.Equal(t.wanted, t.shown) {
		return nil
	}
	var areas []image.Rectangle
	for i := range max(len(t.wanted), len(t.shown)) {
		areas = append(areas, t.cell(i).Inset(-overhang))
	}
	t.shown = slices.Clone(t.wanted)
	return areas
}

func (t *tiles) draw(c *Canvas, clip image.Rectangle) {
	for i, label := range t.shown {
		cell := t.cell(i)
		if !cell.Inset(-overhang).Overlaps(clip) {
			continue
		}
		centre := cell.Min.X + cell.Dx()/2
		c.stamp(clip, t.shape, image.Pt(centre-t.size/2, cell.Min.Y), tileColor(label), 256)
		first := strings.ToUpper(firstLetter(label))
		large := t.faces.large
		large.write(c, clip, image.Pt(centre-large.width(first)/2, cell.Min.Y+(t.size-large.height())/2), first, white, 256)
		small := t.faces.small
		for label != "" && small.width(label) > cell.Dx() {
			label = label[:len(label)-1]
		}
		small.write(c, clip, image.Pt(centre-small.width(label)/2, cell.Min.Y+t.size), label, bright, 256)
	}
}

func firstLetter(label string) string {
	for _, r := range label {
		return string(r)
	}
	return "?"
}

// tileColor is always the same for a label.
func tileColor(label string) uint32 {
	colors := []uint32{0xff2563eb, 0xff7c3aed, 0xffdb2777, 0xffdc2626, 0xffd97706, 0xff059669, 0xff0891b2, 0xff4f46e5}
	sum := 0
	for _, b := range []byte(label) {
		sum = sum*31 + int(b)
	}
	return colors[uint(sum)%uint(len(colors))]
}
