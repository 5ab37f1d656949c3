// Package h264 reads as much of H.264 (ITU-T H.264) as a sender of video must: it splits Annex B streams into NAL units,
// parses sequence parameter sets, chooses levels, and sees to it that what an encoder made is what a viewer can join.
//
// Bytes may come from drivers and firmware, so every parser takes anything and returns an error instead of panicking. Nothing
// is decoded. The package has no state but Checker's and starts no goroutine.
package h264

import (
	"bytes"
	"iter"
)

// NALType is the type of a NAL unit (table 7-1).
type NALType uint8

// Types that matter here.
const (
	Slice    NALType = 1 // of a picture that is not an IDR
	SliceIDR NALType = 5
	SEI      NALType = 6
	TypeSPS  NALType = 7
	TypePPS  NALType = 8
	AUD      NALType = 9 // access unit delimiter
)

// VCL tells whether units of the type carry a part of a picture.
func (t NALType) VCL() bool { return t >= 1 && t <= 5 }

// NAL is a NAL unit without its start code.
type NAL []byte

// Type is the unit's type; 0 for an empty unit.
func (n NAL) Type() NALType {
	if len(n) == 0 {
		return 0
	}
	return NALType(n[0] & 0x1f)
}

var startCode = []byte{0, 0, 1}

// Split yields the NAL units of an Annex B stream in order, as slices of it. Bytes before the first start code are skipped,
// and so are empty units.
func Split(stream []byte) iter.Seq[NAL] {
	return func(yield func(NAL) bool) {
		i := bytes.Index(stream, startCode)
		for i >= 0 {
			rest := stream[i+len(startCode):]
			next := bytes.Index(rest, startCode)
			unit := rest
			if next >= 0 {
				unit = rest[:next]
				next += i + len(startCode)
			}
			// Zeros before the next start code belong to it, or trail (B.1.1).
			if unit = bytes.TrimRight(unit, "\x00"); len(unit) > 0 && !yield(NAL(unit)) {
				return
			}
			i = next
		}
	}
}

// appendNAL appends a unit with a four-byte start code.
func appendNAL(dst []byte, n NAL) []byte {
	dst = append(dst, 0, 0, 0, 1)
	return append(dst, n...)
}
