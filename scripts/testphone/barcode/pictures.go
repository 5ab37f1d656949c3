package barcode

import (
	"fmt"
	"image"
	"image/color"

	"github.com/containerd/errdefs"
)

// RGB24 is a picture as ffmpeg writes it with -f rawvideo -pix_fmt rgb24: three bytes a pixel, no padding.
type RGB24 struct {
	// Pix holds the pixels, row by row.
	Pix []byte
	// Width and Height are in pixels.
	Width, Height int
}

// Frames cuts raw video into its pictures, which share its memory. Error: errdefs.ErrInvalidArgument when it is not a whole number of them.
func Frames(video []byte, width, height int) ([]RGB24, error) {
	size := width * height * 3
	if size <= 0 || len(video)%size != 0 {
		return nil, fmt.Errorf("raw video of %d bytes is not a number of %dx%d frames: %w", len(video), width, height, errdefs.ErrInvalidArgument)
	}
	list := make([]RGB24, 0, len(video)/size)
	for ; len(video) > 0; video = video[size:] {
		list = append(list, RGB24{video[:size:size], width, height})
	}
	return list, nil
}

// ColorModel implements image.Image.
func (p RGB24) ColorModel() color.Model { return color.RGBAModel }

// Bounds implements image.Image.
func (p RGB24) Bounds() image.Rectangle { return image.Rect(0, 0, p.Width, p.Height) }

// At implements image.Image.
func (p RGB24) At(x, y int) color.Color {
	i := (y*p.Width + x) * 3
	return color.RGBA{p.Pix[i], p.Pix[i+1], p.Pix[i+2], 255}
}

// Bar is one area of the colour bars.
type Bar struct {
	Area  image.Rectangle
	Color color.RGBA
}

// Bars returns the areas of the scene "bars" on a screen of that size: below the strip seven bars of 75 % colour over two thirds of the
// height, the same reversed with black between, and black, white and three near-blacks, after SMPTE EG 1.
func Bars(width, height int) []Bar {
	const p = 191 // 75 %
	gray, yellow, cyan, green := color.RGBA{p, p, p, 255}, color.RGBA{p, p, 0, 255}, color.RGBA{0, p, p, 255}, color.RGBA{0, p, 0, 255}
	magenta, red, blue, black := color.RGBA{p, 0, p, 255}, color.RGBA{p, 0, 0, 255}, color.RGBA{0, 0, p, 255}, color.RGBA{19, 19, 19, 255}
	top := Height(height)
	first, second := top+(height-top)*2/3, top+(height-top)*3/4
	var bars []Bar
	row := func(y0, y1 int, colors ...color.RGBA) {
		for i, c := range colors {
			bars = append(bars, Bar{image.Rect(i*width/len(colors), y0, (i+1)*width/len(colors), y1), c})
		}
	}
	row(top, first, gray, yellow, cyan, green, magenta, red, blue)
	row(first, second, blue, black, magenta, black, cyan, black, gray)
	row(second, height, color.RGBA{0, 33, 76, 255}, color.RGBA{255, 255, 255, 255}, color.RGBA{50, 0, 106, 255}, black,
		color.RGBA{9, 9, 9, 255}, color.RGBA{29, 29, 29, 255}, black)
	return bars
}
