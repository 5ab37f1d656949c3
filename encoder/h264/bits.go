package h264

import "bytes"

// bitReader reads a raw byte sequence payload bit by bit. Reading past its end gives zeros and sets overrun.
type bitReader struct {
	data    []byte
	pos     int // in bits
	overrun bool
}

func (r *bitReader) bit() bool {
	if r.pos >= len(r.data)*8 {
		r.overrun = true
		return false
	}
	b := r.data[r.pos/8] >> (7 - r.pos%8) & 1
	r.pos++
	return b != 0
}

// bits reads an unsigned number of n bits, n at most 32.
func (r *bitReader) bits(n int) uint32 {
	var v uint32
	for range n {
		v <<= 1
		if r.bit() {
			v |= 1
		}
	}
	return v
}

// ue reads an unsigned Exp-Golomb number (9.1).
func (r *bitReader) ue() uint32 {
	zeros := 0
	for !r.bit() {
		if zeros++; zeros > 31 || r.overrun {
			r.overrun = true
			return 0
		}
	}
	return 1<<zeros - 1 + r.bits(zeros)
}

// se reads a signed Exp-Golomb number (9.1.1).
func (r *bitReader) se() int32 {
	v := r.ue()
	if v&1 != 0 {
		return int32(v/2 + 1)
	}
	return -int32(v / 2)
}

// unescape removes emulation prevention bytes (7.3.1): the 3 of every 0, 0, 3.
func unescape(in []byte) []byte {
	if !bytes.Contains(in, []byte{0, 0, 3}) {
		return in
	}
	out := make([]byte, 0, len(in))
	zeros := 0
	for _, b := range in {
		if zeros >= 2 && b == 3 {
			zeros = 0
			continue
		}
		out = append(out, b)
		if zeros++; b != 0 {
			zeros = 0
		}
	}
	return out
}
