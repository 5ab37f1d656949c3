package h264

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// level is a row of table A-1: what a decoder of the level must manage.
type level struct {
	idc       int
	perSecond int // macroblocks
	perFrame  int // macroblocks
	kbps      int // for Baseline, Main and Extended
}

var levels = []level{
	{10, 1485, 99, 64},
	{11, 3000, 396, 192},
	{12, 6000, 396, 384},
	{13, 11880, 396, 768},
	{20, 11880, 396, 2000},
	{21, 19800, 792, 4000},
	{22, 20250, 1620, 4000},
	{30, 40500, 1620, 10000},
	{31, 108000, 3600, 14000},
	{32, 216000, 5120, 20000},
	{40, 245760, 8192, 20000},
	{42, 522240, 8704, 50000},
	{50, 589824, 22080, 135000},
	{51, 983040, 36864, 240000},
	{52, 2073600, 36864, 240000},
}

// LevelFor is the lowest level, as level_idc, that takes pictures of width x height pixels at fps frames per second and kbps
// kbit/s (table A-1). A rate of macroblocks that equals a level's limit takes the next level, so that a frame that comes a
// little early breaks nothing. The error is of class InvalidArgument when no level is high enough.
func LevelFor(width, height, fps, kbps int) (int, error) {
	w, h := (width+15)/16, (height+15)/16
	for _, l := range levels {
		// A.3.1: neither side is longer than the root of eight times the size.
		if w*h <= l.perFrame && w*w <= 8*l.perFrame && h*h <= 8*l.perFrame && w*h*fps < l.perSecond && kbps <= l.kbps {
			return l.idc, nil
		}
	}
	return 0, fmt.Errorf("video of %dx%d pixels at %d frames per second and %d kbit/s is beyond H.264 level 5.2: %w",
		width, height, fps, kbps, errdefs.ErrInvalidArgument)
}
