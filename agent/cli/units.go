package cli

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// size is a number of bytes on the command line: "512MiB", "4GiB", "1g", "64m", "1048576".
type size uint64

// sizeUnits are the units of sizes. One-letter units are binary, as memory and disks of machines are sized.
var sizeUnits = map[string]uint64{
	"": 1, "b": 1,
	"k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30, "t": 1 << 40, "tib": 1 << 40,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
}

var sizePattern = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)$`)

// Decode makes size a kong value.
func (s *size) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("size", &text); err != nil {
		return err
	}
	n, err := parseSize(text)
	*s = size(n)
	return err
}

// parseSize reads a size.
func parseSize(text string) (uint64, error) {
	m := sizePattern.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return 0, fmt.Errorf("%q is not a size: give a number and a unit, such as 512MiB or 4GiB", text)
	}
	unit, ok := sizeUnits[strings.ToLower(m[2])]
	if !ok {
		return 0, fmt.Errorf("size %q has an unknown unit %q: use KiB, MiB, GiB or TiB", text, m[2])
	}
	if n, err := strconv.ParseUint(m[1], 10, 64); err == nil {
		if n > math.MaxUint64/unit {
			return 0, fmt.Errorf("size %q is too large", text)
		}
		return n * unit, nil
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil || n*float64(unit) >= 1<<63 {
		return 0, fmt.Errorf("size %q is too large", text)
	}
	return uint64(n * float64(unit)), nil
}

// bandwidth is a number of bits per second on the command line: "10Mbit", "512kbit", "1.5Gbit", "0" for no limit.
type bandwidth uint64

// bitUnits are the units of bandwidths, which are decimal as those of networks are.
var bitUnits = map[string]uint64{
	"": 1, "bit": 1, "k": 1e3, "kbit": 1e3, "m": 1e6, "mbit": 1e6, "g": 1e9, "gbit": 1e9,
}

// Decode makes bandwidth a kong value.
func (b *bandwidth) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("bandwidth", &text); err != nil {
		return err
	}
	n, err := parseBandwidth(text)
	*b = bandwidth(n)
	return err
}

// parseBandwidth reads a bandwidth. Whether it is in range is the agent's to say.
func parseBandwidth(text string) (uint64, error) {
	m := sizePattern.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return 0, fmt.Errorf("%q is not a bandwidth: give a number and a unit, such as 10Mbit or 512kbit, or 0 for no limit", text)
	}
	unit, ok := bitUnits[strings.ToLower(m[2])]
	if !ok {
		return 0, fmt.Errorf("bandwidth %q has an unknown unit %q: use kbit, Mbit or Gbit", text, m[2])
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil || n*float64(unit) >= 1<<53 {
		return 0, fmt.Errorf("bandwidth %q is too large", text)
	}
	return uint64(math.Round(n * float64(unit))), nil
}

// screen is a display on the command line: "720x1280", "720x1280@30", "720x1280@30/320dpi".
type screen struct{ spec *phonehostv1.DisplaySpec }

var screenPattern = regexp.MustCompile(`^([0-9]{1,5})x([0-9]{1,5})(?:@([0-9]{1,4}))?(?:/([0-9]{1,4})dpi)?$`)

// Decode makes screen a kong value.
func (s *screen) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("display", &text); err != nil {
		return err
	}
	spec, err := parseScreen(text)
	s.spec = spec
	return err
}

// parseScreen reads a display. Whether the figures are in range is the agent's to say, but for zeros: to the agent they
// would mean defaults, and nobody who writes 0 means that.
func parseScreen(text string) (*phonehostv1.DisplaySpec, error) {
	m := screenPattern.FindStringSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("%q is not a display: give WIDTHxHEIGHT, WIDTHxHEIGHT@FPS or WIDTHxHEIGHT@FPS/DPIdpi, such as 720x1280@30/320dpi", text)
	}
	var n [4]uint32
	for i, digits := range m[1:] {
		if digits == "" {
			continue
		}
		v, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || v == 0 {
			return nil, fmt.Errorf("display %q: %q must be greater than 0", text, digits)
		}
		n[i] = uint32(v)
	}
	return &phonehostv1.DisplaySpec{Width: n[0], Height: n[1], MaxFps: n[2], Dpi: n[3]}, nil
}
