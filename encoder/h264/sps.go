package h264

import (
	"errors"
	"fmt"
)

// ErrMalformed says that bytes are not what H.264 allows.
var ErrMalformed = errors.New("malformed H.264")

// Matrix coefficients (table E-5) that a converter of screens may signal.
const (
	MatrixBT709      = 1
	MatrixUnspecific = 2
	MatrixBT601PAL   = 5
	MatrixBT601      = 6
)

// SPS is what a sequence parameter set says (7.3.2.1.1 and E.1.1), as far as a sender cares.
type SPS struct {
	// Profile, Constraints and Level are the three bytes after the unit's header.
	Profile, Constraints, Level uint8
	// ID is the set's number.
	ID uint32
	// Width and Height are the size in pixels after cropping.
	Width, Height int
	// POCType tells how order of output is coded; 2 says that it is the order of decoding.
	POCType uint32
	// RefFrames is the most frames that are referred to.
	RefFrames uint32
	// VUI tells whether usability information is there; what follows is zero without it, and Matrix MatrixUnspecific.
	VUI bool
	// FullRange tells whether luma goes from 0 to 255 and not from 16 to 235.
	FullRange bool
	// Primaries, Transfer and Matrix are the colour description; 2 says unspecified.
	Primaries, Transfer, Matrix uint8
	// TicksPerFrame and TimeScale give the frame rate as TimeScale / (2*TicksPerFrame); zero when not there.
	TicksPerFrame, TimeScale uint32
	// Restricted tells whether bitstream restrictions are there, which Reorder and DecBuffering belong to.
	Restricted bool
	// Reorder is the most frames that come before another in decoding and after it in output.
	Reorder uint32
	// DecBuffering is the most frames that a decoder must hold.
	DecBuffering uint32
}

// Codec is the name of the stream as browsers take it (RFC 6381), such as "avc1.42C01F".
func (s SPS) Codec() string {
	return fmt.Sprintf("avc1.%02X%02X%02X", s.Profile, s.Constraints, s.Level)
}

// ParseSPS parses a sequence parameter set with its header byte. The error is ErrMalformed.
func ParseSPS(nal NAL) (SPS, error) {
	if nal.Type() != TypeSPS || len(nal) < 5 {
		return SPS{}, fmt.Errorf("sequence parameter set of %d bytes, type %d: %w", len(nal), nal.Type(), ErrMalformed)
	}
	s := SPS{Profile: nal[1], Constraints: nal[2], Level: nal[3], Primaries: 2, Transfer: 2, Matrix: MatrixUnspecific}
	r := &bitReader{data: unescape(nal[4:])}
	s.ID = r.ue()
	chroma := s.readHigh(r)
	r.ue() // log2_max_frame_num_minus4
	s.readOrder(r)
	s.RefFrames = r.ue()
	r.bit() // gaps_in_frame_num_value_allowed_flag
	s.readSize(r, chroma)
	if s.VUI = r.bit(); s.VUI {
		s.readVUI(r)
	}
	switch {
	case r.overrun:
		return SPS{}, fmt.Errorf("sequence parameter set ends early: %w", ErrMalformed)
	case s.ID > 31:
		return SPS{}, fmt.Errorf("sequence parameter set %d: %w", s.ID, ErrMalformed)
	case s.Width <= 0 || s.Height <= 0:
		return SPS{}, fmt.Errorf("sequence parameter set of %dx%d pixels: %w", s.Width, s.Height, ErrMalformed)
	}
	return s, nil
}

// readHigh reads what only the high profiles have, and returns chroma_format_idc.
func (s *SPS) readHigh(r *bitReader) uint32 {
	switch s.Profile {
	case 100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135:
	default:
		return 1
	}
	chroma := r.ue()
	if chroma == 3 {
		r.bit() // separate_colour_plane_flag
	}
	r.ue()       // bit_depth_luma_minus8
	r.ue()       // bit_depth_chroma_minus8
	r.bit()      // qpprime_y_zero_transform_bypass_flag
	if r.bit() { // seq_scaling_matrix_present_flag
		lists := 8
		if chroma == 3 {
			lists = 12
		}
		for i := range lists {
			if r.bit() {
				size := 64
				if i < 6 {
					size = 16
				}
				skipScalingList(r, size)
			}
		}
	}
	return chroma
}

// skipScalingList follows 7.3.2.1.1.1.
func skipScalingList(r *bitReader, size int) {
	last, next := int32(8), int32(8)
	for range size {
		if next != 0 {
			next = (last + r.se() + 256) % 256
		}
		if next != 0 {
			last = next
		}
	}
}

// readOrder reads how the order of output is coded.
func (s *SPS) readOrder(r *bitReader) {
	switch s.POCType = r.ue(); s.POCType {
	case 0:
		r.ue() // log2_max_pic_order_cnt_lsb_minus4
	case 1:
		r.bit()
		r.se()
		r.se()
		for n := r.ue(); n > 0 && !r.overrun; n-- {
			r.se()
		}
	}
}

// readSize reads the size in macroblocks and the cropping.
func (s *SPS) readSize(r *bitReader, chroma uint32) {
	const most = 1 << 16 // macroblocks on a side; far beyond every level
	w, h := min(r.ue(), most), min(r.ue(), most)
	fields := 1
	if !r.bit() { // frame_mbs_only_flag
		fields = 2
		r.bit()
	}
	r.bit() // direct_8x8_inference_flag
	s.Width, s.Height = (int(w)+1)*16, (int(h)+1)*16*fields
	if !r.bit() { // frame_cropping_flag
		return
	}
	unitX, unitY := 1, fields
	if chroma == 1 || chroma == 2 {
		unitX = 2
	}
	if chroma == 1 {
		unitY *= 2
	}
	crop := func() int { return int(min(r.ue(), most*16)) }
	s.Width -= (crop() + crop()) * unitX
	s.Height -= (crop() + crop()) * unitY
}

// readVUI follows E.1.1.
func (s *SPS) readVUI(r *bitReader) {
	if r.bit() { // aspect_ratio_info_present_flag
		if r.bits(8) == 255 {
			r.bits(32)
		}
	}
	if r.bit() { // overscan_info_present_flag
		r.bit()
	}
	if r.bit() { // video_signal_type_present_flag
		r.bits(3)
		s.FullRange = r.bit()
		if r.bit() {
			s.Primaries, s.Transfer, s.Matrix = uint8(r.bits(8)), uint8(r.bits(8)), uint8(r.bits(8))
		}
	}
	if r.bit() { // chroma_loc_info_present_flag
		r.ue()
		r.ue()
	}
	if r.bit() { // timing_info_present_flag
		s.TicksPerFrame, s.TimeScale = r.bits(32), r.bits(32)
		r.bit()
	}
	nal := r.bit()
	if nal {
		skipHRD(r)
	}
	vcl := r.bit()
	if vcl {
		skipHRD(r)
	}
	if nal || vcl {
		r.bit() // low_delay_hrd_flag
	}
	r.bit() // pic_struct_present_flag
	if s.Restricted = r.bit(); s.Restricted {
		r.bit()
		for range 4 {
			r.ue()
		}
		s.Reorder, s.DecBuffering = r.ue(), r.ue()
	}
}

// skipHRD follows E.1.2.
func skipHRD(r *bitReader) {
	n := min(r.ue(), 31)
	r.bits(8)
	for range n + 1 {
		r.ue()
		r.ue()
		r.bit()
	}
	r.bits(20)
}
