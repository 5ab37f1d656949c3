package barcode

import (
	"fmt"
	"image"
	"image/color"

	"github.com/containerd/errdefs"
)

// Cells is the number of cells in the strip.
const Cells = 48

const (
	startCells = 0b1100
	endCells   = 0b0101
	// leastContrast is how far white and black must lie apart, of 255.
	leastContrast = 64
)

// Height returns how many rows the strip takes on a screen of that height.
func Height(height int) int { return max(8, height/80) }

// Cell returns where a cell lies on a screen of that size, 0 <= i < Cells.
func Cell(i, width, height int) image.Rectangle {
	return image.Rect(i*width/Cells, 0, (i+1)*width/Cells, Height(height))
}

// Encode returns the cells of a frame number; the leftmost is bit Cells-1.
func Encode(frame uint32) uint64 {
	return startCells<<44 | uint64(frame)<<12 | uint64(crc(frame))<<4 | endCells
}

// crc is CRC-8 with the polynomial x^8+x^2+x+1.
func crc(n uint32) uint8 {
	var c uint8
	for shift := 24; shift >= 0; shift -= 8 {
		c ^= uint8(n >> shift)
		for range 8 {
			high := c & 0x80
			c <<= 1
			if high != 0 {
				c ^= 0x07
			}
		}
	}
	return c
}

// Read returns the frame number in the strip of a picture of the whole screen, which may have been scaled. Error: errdefs.ErrNotFound when
// there is no strip that can be read.
func Read(img image.Image) (uint32, error) {
	bounds := img.Bounds()
	if bounds.Dx() < Cells || bounds.Dy() < 8 {
		return 0, fmt.Errorf("frame number: picture of %v is too small: %w", bounds.Size(), errdefs.ErrNotFound)
	}
	var level [Cells]int
	for i := range level {
		level[i] = brightness(img, middle(Cell(i, bounds.Dx(), bounds.Dy())).Add(bounds.Min))
	}
	white := (level[0] + level[1] + level[Cells-3] + level[Cells-1]) / 4
	black := (level[2] + level[3] + level[Cells-4] + level[Cells-2]) / 4
	if white-black < leastContrast {
		return 0, fmt.Errorf("frame number: no strip (white %d, black %d): %w", white, black, errdefs.ErrNotFound)
	}
	var cells uint64
	for _, l := range level {
		cells <<= 1
		if l > (white+black)/2 {
			cells |= 1
		}
	}
	frame := uint32(cells >> 12)
	if cells != Encode(frame) {
		return 0, fmt.Errorf("frame number: cells %048b do not agree: %w", cells, errdefs.ErrNotFound)
	}
	return frame, nil
}

// middle returns the inner half of a cell in both directions, at least a pixel.
func middle(r image.Rectangle) image.Rectangle {
	dx, dy := r.Dx()/4, r.Dy()/4
	return image.Rect(r.Min.X+dx, r.Min.Y+dy, r.Max.X-dx, r.Max.Y-dy)
}

// brightness is the mean luma of a part of a picture, 0..255.
func brightness(img image.Image, r image.Rectangle) int {
	sum, n := 0, 0
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			sum += int(color.GrayModel.Convert(img.At(x, y)).(color.Gray).Y)
			n++
		}
	}
	return sum / max(n, 1)
}
