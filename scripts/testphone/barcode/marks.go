package barcode

import (
	"cmp"
	"image"
	"image/color"
	"math"
	"slices"
)

// Fingers is how many ids have a colour of their own.
const Fingers = 10

// Mark is a finger seen on a picture.
type Mark struct {
	// ID is the finger's id modulo Fingers.
	ID int
	// X and Y are its centre in pixels of the picture.
	X, Y float64
	// Radius is half the extent of the coloured disc, in pixels of the picture.
	Radius float64
}

// Radius returns the outer radius of a mark on a screen of that size, in pixels.
func Radius(width, height int) int { return max(12, min(width, height)/16) }

// DiscRadius returns the radius of the coloured disc inside a mark's ring, in pixels.
func DiscRadius(width, height int) int { return Radius(width, height) * 3 / 4 }

// Color returns the colour of the disc for a finger.
func Color(id int) color.RGBA {
	hue := float64((id%Fingers+Fingers)%Fingers) * 360 / Fingers
	channel := func(n float64) uint8 {
		k := math.Mod(n+hue/60, 6)
		return uint8(math.Round(255 * (1 - max(0, min(k, 4-k, 1)))))
	}
	return color.RGBA{channel(5), channel(3), channel(1), 255}
}

// FindMarks returns the marks on a picture of the whole screen, which may have been scaled, sorted by id. Marks that have begun to fade
// are found or not, depending on how far they are.
func FindMarks(img image.Image) []Mark {
	bounds := img.Bounds()
	const step = 2
	w, h := bounds.Dx()/step, bounds.Dy()/step
	top := (Height(bounds.Dy()) + 2*step) / step
	grid := make([]int8, w*h) // 1 + id, 0 for anything else
	for y := top; y < h; y++ {
		for x := range w {
			grid[y*w+x] = int8(1 + finger(img.At(bounds.Min.X+x*step, bounds.Min.Y+y*step)))
		}
	}
	want := float64(DiscRadius(bounds.Dx(), bounds.Dy())) / step
	var marks []Mark
	for i, id := range grid {
		if id == 0 {
			continue
		}
		part := flood(grid, w, h, i)
		rx, ry := float64(part.box.Dx())/2, float64(part.box.Dy())/2
		round := rx > 0.7*want && rx < 1.35*want && ry > 0.7*want && ry < 1.35*want
		if !round || float64(part.area) < 0.45*math.Pi*rx*ry {
			continue
		}
		marks = append(marks, Mark{
			ID:     int(id) - 1,
			X:      float64(bounds.Min.X) + step*(float64(part.box.Min.X)+rx),
			Y:      float64(bounds.Min.Y) + step*(float64(part.box.Min.Y)+ry),
			Radius: step * (rx + ry) / 2,
		})
	}
	slices.SortStableFunc(marks, func(a, b Mark) int { return cmp.Compare(a.ID, b.ID) })
	return marks
}

// part is a connected area of one colour.
type part struct {
	box  image.Rectangle
	area int
}

// flood collects the area that a cell belongs to and clears it.
func flood(grid []int8, w, h, start int) part {
	id := grid[start]
	grid[start] = 0
	queue := []int{start}
	var p part
	for len(queue) > 0 {
		i := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		x, y := i%w, i/w
		p.area++
		p.box = p.box.Union(image.Rect(x, y, x+1, y+1))
		for _, n := range [4]image.Point{{x - 1, y}, {x + 1, y}, {x, y - 1}, {x, y + 1}} {
			if n.X >= 0 && n.X < w && n.Y >= 0 && n.Y < h && grid[n.Y*w+n.X] == id {
				grid[n.Y*w+n.X] = 0
				queue = append(queue, n.Y*w+n.X)
			}
		}
	}
	return p
}

// finger returns the id whose colour a pixel has, -1 for none: it must be strong, bright, and near the hue.
func finger(c color.Color) int {
	r16, g16, b16, _ := c.RGBA()
	r, g, b := float64(r16>>8), float64(g16>>8), float64(b16>>8)
	high, low := max(r, g, b), min(r, g, b)
	if high < 120 || high-low < 0.6*high {
		return -1
	}
	var hue float64
	switch high {
	case r:
		hue = (g - b) / (high - low)
	case g:
		hue = 2 + (b-r)/(high-low)
	default:
		hue = 4 + (r-g)/(high-low)
	}
	const apart = 360.0 / Fingers
	hue = math.Mod(hue*60+360, 360)
	id := int(math.Round(hue / apart))
	if math.Abs(hue-float64(id)*apart) > 15 {
		return -1
	}
	return id % Fingers
}
