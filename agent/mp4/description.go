package mp4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/encoder/h264"
)

// parameterSets are the parameter sets of one access unit, as slices of it.
type parameterSets struct {
	sps, pps []h264.NAL
}

// empty says that there is nothing to decode with: either kind is of no use without the other.
func (p parameterSets) empty() bool { return len(p.sps) == 0 || len(p.pps) == 0 }

// description is what a decoder must know before a sample.
type description struct {
	sps    h264.SPS
	config []byte // AVCDecoderConfigurationRecord
}

// The profiles that are known to be 4:2:0 with 8 bits a sample.
const (
	profileBaseline = 66
	profileMain     = 77
	profileHigh     = 100
)

// newDescription makes the decoder's configuration (ISO/IEC 14496-15, 5.3.3.1) out of parameter sets.
func newDescription(sets parameterSets) (description, error) {
	sps, err := h264.ParseSPS(sets.sps[0])
	if err != nil {
		return description{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !slices.Contains([]uint8{profileBaseline, profileMain, profileHigh}, sps.Profile) {
		return description{}, fmt.Errorf("profile %d is not Baseline, Main or High: %w", sps.Profile, errdefs.ErrInvalidArgument)
	}
	if len(sets.sps) > 31 || len(sets.pps) > 255 || sps.Width > 0xffff || sps.Height > 0xffff {
		return description{}, fmt.Errorf("more parameter sets or pixels than MP4 can name: %w", errdefs.ErrInvalidArgument)
	}
	var b bytes.Buffer
	b.Write([]byte{1, sps.Profile, sps.Constraints, sps.Level, 0xfc | 3}) // lengths of 4 bytes
	if err := writeSets(&b, 0xe0|byte(len(sets.sps)), sets.sps); err != nil {
		return description{}, err
	}
	if err := writeSets(&b, byte(len(sets.pps)), sets.pps); err != nil {
		return description{}, err
	}
	if sps.Profile == profileHigh {
		b.Write([]byte{0xfc | 1, 0xf8, 0xf8, 0}) // 4:2:0, 8 bits, 8 bits, no extension
	}
	return description{sps: sps, config: b.Bytes()}, nil
}

func writeSets(b *bytes.Buffer, count byte, sets []h264.NAL) error {
	b.WriteByte(count)
	for _, set := range sets {
		if len(set) > 0xffff {
			return fmt.Errorf("parameter set of %d bytes: %w", len(set), errdefs.ErrInvalidArgument)
		}
		b.Write(binary.BigEndian.AppendUint16(nil, uint16(len(set))))
		b.Write(set)
	}
	return nil
}

// entry is the description as an avc1 box in stsd.
func (d description) entry() []byte {
	width, height := uint16(d.sps.Width), uint16(d.sps.Height)
	return box("avc1",
		make([]byte, 6), u16(1), // reserved, the only data reference
		make([]byte, 16), u16(width), u16(height),
		u32(0x00480000), u32(0x00480000), u32(0), u16(1), // 72 dpi, one frame a sample
		make([]byte, 32),       // compressor's name
		u16(0x18), u16(0xffff), // depth, no colour table
		box("avcC", d.config),
		d.colour(),
	)
}

// colour is the colr box: the same words as in the sequence parameter set, for players that do not look there.
func (d description) colour() []byte {
	fullRange := byte(0)
	if d.sps.FullRange {
		fullRange = 0x80
	}
	return box("colr", []byte("nclx"), u16(uint16(d.sps.Primaries)), u16(uint16(d.sps.Transfer)),
		u16(uint16(d.sps.Matrix)), []byte{fullRange})
}
