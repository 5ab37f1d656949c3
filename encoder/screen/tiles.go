package screen

import "image"

// tiles is a set of tiles, one bit each, row by row.
type tiles []uint64

func newTiles(n int) tiles { return make(tiles, (n+63)/64) }

func (t tiles) has(i int) bool { return t[i>>6]>>(i&63)&1 != 0 }

func (t tiles) set(i int) { t[i>>6] |= 1 << (i & 63) }

func (t tiles) clear() { clear(t) }

func (t tiles) empty() bool {
	for _, w := range t {
		if w != 0 {
			return false
		}
	}
	return true
}

// merge adds the tiles of other.
func (t tiles) merge(other tiles) {
	for i, w := range other {
		t[i] |= w
	}
}

// rects appends the set as disjoint rectangles in pixels, clipped to bounds: runs of tiles within a row, joined with equal
// runs of the row above.
func (t tiles) rects(into []image.Rectangle, cols, rows int, bounds image.Rectangle) []image.Rectangle {
	above := len(into) // first rectangle that ends at the row above
	for row := range rows {
		start := len(into)
		for col := 0; col < cols; col++ {
			if !t.has(row*cols + col) {
				continue
			}
			first := col
			for col+1 < cols && t.has(row*cols+col+1) {
				col++
			}
			r := image.Rect(first*Tile, row*Tile, (col+1)*Tile, (row+1)*Tile).Intersect(bounds)
			into = append(into, r)
		}
		into, above = join(into, above, start)
	}
	return into
}

// join extends rectangles of the row above, into[above:start], downwards by those of the new row, into[start:], that have the
// same columns. It returns the list and where the rectangles begin that end at the new row.
func join(into []image.Rectangle, above, start int) ([]image.Rectangle, int) {
	if start == len(into) || len(into)-start != start-above {
		return into, start
	}
	for i := start; i < len(into); i++ {
		up := into[above+i-start]
		if up.Min.X != into[i].Min.X || up.Max.X != into[i].Max.X || up.Max.Y != into[i].Min.Y {
			return into, start
		}
	}
	for i := start; i < len(into); i++ {
		into[above+i-start].Max.Y = into[i].Max.Y
	}
	return into[:start], above
}
