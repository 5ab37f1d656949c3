package paint

import "math"

// disc returns the mask of a ring between two radii, smooth at its edges; inner 0 gives a full disc. soft is how many pixels the outer
// edge takes to fade, at least 1. The mask is 2*outer+2 wide and high, its centre at outer+1.
func disc(inner, outer, soft float64) *mask {
	size := 2*int(math.Ceil(outer)) + 2
	m := &mask{make([]uint8, size*size), size, size}
	centre := float64(size) / 2
	for y := range size {
		for x := range size {
			d := math.Hypot(float64(x)+0.5-centre, float64(y)+0.5-centre)
			cover := min(max((outer-d+0.5)/soft, 0), 1)
			if inner > 0 {
				cover *= min(max(d-inner+0.5, 0), 1)
			}
			m.alpha[y*size+x] = uint8(math.Round(255 * cover))
		}
	}
	return m
}

// panel returns the mask of a rectangle with round corners.
func panel(width, height, radius int) *mask {
	m := &mask{make([]uint8, width*height), width, height}
	r := float64(radius)
	for y := range height {
		for x := range width {
			dx := max(r-float64(x)-0.5, float64(x)+0.5-float64(width)+r, 0)
			dy := max(r-float64(y)-0.5, float64(y)+0.5-float64(height)+r, 0)
			m.alpha[y*width+x] = uint8(math.Round(255 * min(max(r-math.Hypot(dx, dy)+0.5, 0), 1)))
		}
	}
	return m
}

// gradient fills a canvas with the background: a dark diagonal from one blue to another with a faint grid.
func gradient(c *Canvas) {
	const from, to, line = 0xff1b2433, 0xff334155, 0xff475569
	step := max(c.Width/12, 8)
	for y := range c.Height {
		row := c.row(y, 0, c.Width)
		for x := range row {
			a := uint32((x*c.Height + y*c.Width) * 128 / (c.Width * c.Height))
			row[x] = mix(from, to, a)
			if x%step == step/2 || y%step == step/2 {
				row[x] = mix(row[x], line, 60)
			}
		}
	}
}
