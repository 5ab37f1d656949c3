package h264

import (
	"bytes"
	"fmt"
)

// Checker looks at the access units of one encoder before they are sent. It keeps the parameter sets and puts them before an
// IDR that lacks them, because not every driver repeats them and a viewer can only join where they are. It is for one
// goroutine at a time.
type Checker struct {
	width, height int
	sps, pps      []byte
}

// NewChecker makes a checker for video of width x height pixels.
func NewChecker(width, height int) *Checker { return &Checker{width: width, height: height} }

// Check looks at an access unit and returns it, with parameter sets before it if it is an IDR that lacks them, and whether it
// is an IDR. An error says what a viewer could not decode: no picture, parameter sets that never came, another size, or
// reordering; it wraps ErrMalformed.
func (c *Checker) Check(au []byte) (out []byte, key bool, err error) {
	var sps, pps, picture bool
	for n := range Split(au) {
		switch t := n.Type(); {
		case t == TypeSPS:
			if err := c.keepSPS(n); err != nil {
				return nil, false, err
			}
			sps = true
		case t == TypePPS:
			if !bytes.Equal(c.pps, n) {
				c.pps = bytes.Clone(n)
			}
			pps = true
		case t.VCL():
			picture, key = true, t == SliceIDR
		}
		if picture {
			break // the rest are slices, in which nothing is of interest
		}
	}
	switch {
	case !picture:
		return nil, false, fmt.Errorf("access unit of %d bytes has no picture: %w", len(au), ErrMalformed)
	case !key || sps && pps:
		return au, key, nil
	case c.sps == nil || c.pps == nil:
		return nil, false, fmt.Errorf("key frame without parameter sets, and none came before: %w", ErrMalformed)
	}
	out = make([]byte, 0, len(c.sps)+len(c.pps)+8+len(au))
	return append(appendNAL(appendNAL(out, c.sps), c.pps), au...), true, nil
}

// keepSPS keeps a sequence parameter set after looking at it.
func (c *Checker) keepSPS(n NAL) error {
	if bytes.Equal(c.sps, n) {
		return nil
	}
	s, err := ParseSPS(n)
	switch {
	case err != nil:
		return err
	case s.Width != c.width || s.Height != c.height:
		return fmt.Errorf("video is %dx%d pixels and should be %dx%d: %w", s.Width, s.Height, c.width, c.height, ErrMalformed)
	case s.Restricted && s.Reorder > 0:
		return fmt.Errorf("video is reordered over %d frames: %w", s.Reorder, ErrMalformed)
	}
	c.sps = bytes.Clone(n)
	return nil
}

// Describe checks an access unit that must be an IDR and returns its sequence parameter set.
func (c *Checker) Describe(au []byte) (SPS, error) {
	_, key, err := c.Check(au)
	if err != nil {
		return SPS{}, err
	}
	if !key {
		return SPS{}, fmt.Errorf("access unit is not a key frame: %w", ErrMalformed)
	}
	return ParseSPS(c.sps)
}
