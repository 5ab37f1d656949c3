package apk

import (
	"encoding/binary"
	"unicode/utf16"
	"unicode/utf8"
)

// The kinds of chunk, from Android's ResourceTypes.h.
const (
	chunkStringPool   = 0x0001
	chunkTable        = 0x0002
	chunkXML          = 0x0003
	chunkStartElement = 0x0102
	chunkEndElement   = 0x0103
	chunkResourceMap  = 0x0180
	chunkPackage      = 0x0200
	chunkType         = 0x0201
)

const (
	maxString  = 64 << 10
	maxStrings = 16 << 20

	noString = 0xffffffff
)

// chunk is a piece of a binary XML or a resource table.
type chunk struct {
	kind uint16
	head []byte // the header, the first 8 bytes included
	body []byte
}

// cut takes the first chunk off b. Its sizes are checked as Android's validate_chunk does; so a chunk is never empty and a loop over
// chunks ends.
func cut(b []byte) (c chunk, rest []byte, err error) {
	if len(b) < 8 {
		return chunk{}, nil, invalid("a chunk's header is cut off")
	}
	head, size := int64(binary.LittleEndian.Uint16(b[2:])), int64(binary.LittleEndian.Uint32(b[4:]))
	if head < 8 || size < head || size > int64(len(b)) || (head|size)&3 != 0 {
		return chunk{}, nil, invalid("a chunk says that it has %d bytes, %d of them header, and %d are there", size, head, len(b))
	}
	return chunk{binary.LittleEndian.Uint16(b), b[:head], b[head:size]}, b[size:], nil
}

// u16 and u32 read at an offset, 0 past the end.
func u16(b []byte, at int) uint16 {
	if at < 0 || at+2 > len(b) {
		return 0
	}
	return binary.LittleEndian.Uint16(b[at:])
}

func u32(b []byte, at int) uint32 {
	if at < 0 || at+4 > len(b) {
		return 0
	}
	return binary.LittleEndian.Uint32(b[at:])
}

// pool is a string pool. Strings are decoded when they are asked for, each once.
type pool struct {
	offsets []byte
	data    []byte
	utf8    bool
	decoded map[uint32]string
	left    int // bytes that may still be decoded
}

// newPool reads the header of a string pool.
func newPool(c chunk) (*pool, error) {
	if len(c.head) < 28 {
		return nil, invalid("the string pool's header has %d bytes", len(c.head))
	}
	count, flags, start := int64(u32(c.head, 8)), u32(c.head, 16), int64(u32(c.head, 20))-int64(len(c.head))
	if start < 0 || count*4 > int64(len(c.body)) || (count > 0 && start > int64(len(c.body))) {
		return nil, invalid("the string pool says that it has %d strings, and has %d bytes", count, len(c.body))
	}
	p := &pool{offsets: c.body[:count*4], utf8: flags&0x100 != 0, decoded: map[uint32]string{}, left: maxStrings}
	if count > 0 {
		p.data = c.body[start:]
	}
	return p, nil
}

// at returns a string, "" for noString.
func (p *pool) at(i uint32) (string, error) {
	if i == noString {
		return "", nil
	}
	if p == nil || uint64(i)*4 >= uint64(len(p.offsets)) {
		return "", invalid("string %d is not in the string pool", i)
	}
	if s, ok := p.decoded[i]; ok {
		return s, nil
	}
	offset := u32(p.offsets, int(i)*4)
	if uint64(offset) >= uint64(len(p.data)) {
		return "", invalid("string %d lies outside of the string pool", i)
	}
	decode := decodeUTF16
	if p.utf8 {
		decode = decodeUTF8
	}
	s, err := decode(p.data[offset:])
	if err != nil {
		return "", invalid("string %d of the string pool %v", i, err)
	}
	if p.left -= len(s) + 1; p.left < 0 {
		return "", invalid("the strings in use have more than %d bytes", maxStrings)
	}
	p.decoded[i] = s
	return s, nil
}

// fault is a plain reason, which the caller puts into its error.
type fault string

func (f fault) Error() string { return string(f) }

const (
	errCutOff  fault = "is cut off"
	errTooLong fault = "is longer than 64 KiB"
)

// decodeUTF8 reads a string with its two lengths: in UTF-16 units, and in bytes.
func decodeUTF8(b []byte) (string, error) {
	_, b, ok := shortLength(b)
	if !ok {
		return "", errCutOff
	}
	n, b, ok := shortLength(b)
	if !ok || n > len(b) {
		return "", errCutOff
	}
	if utf8.Valid(b[:n]) {
		return string(b[:n]), nil
	}
	return fromModified(b[:n]), nil
}

// shortLength reads a length of one byte, or of two if the first has its upper bit set.
func shortLength(b []byte) (n int, rest []byte, ok bool) {
	switch {
	case len(b) >= 1 && b[0]&0x80 == 0:
		return int(b[0]), b[1:], true
	case len(b) >= 2:
		return int(b[0]&0x7f)<<8 | int(b[1]), b[2:], true
	}
	return 0, nil, false
}

// fromModified decodes Java's modified UTF-8, in which a character beyond the first plane is two surrogates of three bytes each.
func fromModified(b []byte) string {
	var units []uint16
	for len(b) > 0 {
		if len(b) >= 3 && b[0] == 0xed && b[1]&0xc0 == 0x80 && b[2]&0xc0 == 0x80 {
			units = append(units, 0xd000|uint16(b[1]&0x3f)<<6|uint16(b[2]&0x3f))
			b = b[3:]
			continue
		}
		r, n := utf8.DecodeRune(b)
		units = utf16.AppendRune(units, r)
		b = b[n:]
	}
	return string(utf16.Decode(units))
}

// decodeUTF16 reads a string with its length in units of two bytes, in one such unit or in two.
func decodeUTF16(b []byte) (string, error) {
	if len(b) < 2 {
		return "", errCutOff
	}
	n, b := uint32(u16(b, 0)), b[2:]
	if n&0x8000 != 0 {
		if len(b) < 2 {
			return "", errCutOff
		}
		n, b = n&0x7fff<<16|uint32(u16(b, 0)), b[2:]
	}
	switch {
	case n > maxString/2:
		return "", errTooLong
	case int(n)*2 > len(b):
		return "", errCutOff
	}
	units := make([]uint16, n)
	for i := range units {
		units[i] = u16(b, 2*i)
	}
	return string(utf16.Decode(units)), nil
}
