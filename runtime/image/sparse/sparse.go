// Package sparse reads Android's sparse images: file-system images that leave out what is empty, as img2simg makes them and fastboot
// takes them (system/core/libsparse/sparse_format.h).
//
// An image is read once, front to back, in bounded memory, and trusted in nothing: what its headers say is checked before it is used,
// and it is whole or refused. A file is
//
//	header  28 bytes or more: magic, version, sizes of the two kinds of header, block size, numbers of blocks and of chunks
//	chunk   12 bytes or more: kind, number of blocks it stands for, its bytes with this header; then its data
//	...
package sparse

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

const (
	// Magic is how a sparse image begins, as a little-endian number.
	Magic = 0xed26ff3a

	headerSize = 28
	chunkSize  = 12

	// maxHeader bounds the headers of later minor versions, whose additions are passed over.
	maxHeader = 4096
	// maxBlock bounds a block; images have 4096.
	maxBlock = 1 << 20
)

// The kinds of chunks.
const (
	kindRaw      = 0xcac1 // its data
	kindFill     = 0xcac2 // four bytes, again and again
	kindDontCare = 0xcac3 // whatever was there: nothing
	kindCRC      = 0xcac4 // a checksum of what came before
)

// Target takes the image that a sparse image stands for. What is not written is zero.
type Target interface {
	io.WriterAt
	Truncate(size int64) error
}

// Expand writes the image that src stands for to target, which is empty, and returns its size in bytes, at most limit. Of target only
// blocks that hold something are written. The checksums that an image may carry are not looked at: the programs that write them do not
// agree whether they count blocks of nothing.
//
// Errors: errdefs.ErrInvalidArgument for what is no sparse image, is not whole, or stands for more than limit; an error of src or target
// comes back as it is.
func Expand(target Target, src io.Reader, limit int64) (size int64, err error) {
	e := &expander{src: bufio.NewReaderSize(src, 1<<20), target: target}
	h, err := e.header()
	if err != nil {
		return 0, err
	}
	size = int64(h.blocks) * int64(h.block)
	if size > limit {
		return 0, invalid("it stands for %d bytes, more than %d", size, limit)
	}
	if err := target.Truncate(size); err != nil {
		return 0, err
	}
	for i := range h.chunks {
		if err := e.chunk(h); err != nil {
			return 0, fmt.Errorf("chunk %d of %d: %w", i+1, h.chunks, err)
		}
	}
	if e.at != uint64(h.blocks) {
		return 0, invalid("its chunks are %d blocks, its header says %d", e.at, h.blocks)
	}
	if _, err := e.src.ReadByte(); err == nil {
		return 0, invalid("there are bytes after its last chunk")
	} else if !errors.Is(err, io.EOF) {
		return 0, err
	}
	return size, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("sparse image: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// header is what the file's header says.
type header struct {
	chunkHeader uint16 // bytes of a chunk's header
	block       uint32 // bytes of a block
	blocks      uint32
	chunks      uint32
}

// expander reads one image.
type expander struct {
	src    *bufio.Reader
	target Target
	at     uint64 // the block that comes next
	buf    []byte
}

// read fills buf. A file that ends in between is cut off.
func (e *expander) read(buf []byte) error {
	_, err := io.ReadFull(e.src, buf)
	return cut(err)
}

// cut words the end of a file that should go on.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("the file ends too early: it is cut off")
	}
	return err
}

func (e *expander) skip(n int64) error {
	_, err := io.CopyN(io.Discard, e.src, n)
	return cut(err)
}

func (e *expander) header() (header, error) {
	var raw [headerSize]byte
	if err := e.read(raw[:]); err != nil {
		return header{}, err
	}
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(raw[at:]) }
	half := func(at int) uint16 { return binary.LittleEndian.Uint16(raw[at:]) }
	if word(0) != Magic {
		return header{}, invalid("it begins with %#x and not with %#x", word(0), uint32(Magic))
	}
	if half(4) != 1 {
		return header{}, invalid("it is of version %d.%d, known is 1", half(4), half(6))
	}
	h := header{chunkHeader: half(10), block: word(12), blocks: word(16), chunks: word(20)}
	size := half(8)
	switch {
	case size < headerSize || size > maxHeader || h.chunkHeader < chunkSize || h.chunkHeader > maxHeader:
		return header{}, invalid("its headers are %d and %d bytes, want at least %d and %d", size, h.chunkHeader, headerSize, chunkSize)
	case h.block == 0 || h.block%4 != 0 || h.block > maxBlock:
		return header{}, invalid("its blocks are %d bytes, want a multiple of 4 up to %d", h.block, maxBlock)
	}
	e.buf = make([]byte, max(h.block, 1<<16))
	return h, e.skip(int64(size) - headerSize)
}

// chunk reads one chunk and writes what it stands for.
func (e *expander) chunk(h header) error {
	var raw [chunkSize]byte
	if err := e.read(raw[:]); err != nil {
		return err
	}
	if err := e.skip(int64(h.chunkHeader) - chunkSize); err != nil {
		return err
	}
	kind := binary.LittleEndian.Uint16(raw[0:])
	blocks, total := binary.LittleEndian.Uint32(raw[4:]), binary.LittleEndian.Uint32(raw[8:])
	if e.at+uint64(blocks) > uint64(h.blocks) {
		return invalid("it goes on to block %d of %d", e.at+uint64(blocks), h.blocks)
	}
	size := uint64(blocks) * uint64(h.block)
	var data uint64 // bytes that must come
	switch kind {
	case kindRaw:
		data = size
	case kindFill, kindCRC:
		data = 4
	case kindDontCare:
	default:
		return invalid("it is of the unknown kind %#x", kind)
	}
	if uint64(total) != uint64(h.chunkHeader)+data {
		return invalid("it is %d bytes, but %d blocks of kind %#x are %d", total, blocks, kind, uint64(h.chunkHeader)+data)
	}
	if kind == kindCRC && blocks != 0 {
		return invalid("a checksum stands for %d blocks", blocks)
	}
	offset := int64(e.at) * int64(h.block)
	e.at += uint64(blocks)
	switch kind {
	case kindRaw:
		return e.copy(offset, int64(size))
	case kindFill:
		return e.fill(offset, int64(size))
	case kindCRC:
		return e.skip(4)
	}
	return nil
}

// copy writes data as it comes, but for blocks of zeros.
func (e *expander) copy(offset, size int64) error {
	for size > 0 {
		part := e.buf[:min(size, int64(len(e.buf)))]
		if err := e.read(part); err != nil {
			return err
		}
		if err := WriteNonZero(e.target, part, offset); err != nil {
			return err
		}
		offset, size = offset+int64(len(part)), size-int64(len(part))
	}
	return nil
}

// fill writes four bytes until size is full.
func (e *expander) fill(offset, size int64) error {
	var pattern [4]byte
	if err := e.read(pattern[:]); err != nil {
		return err
	}
	if pattern == [4]byte{} {
		return nil
	}
	for i := range e.buf {
		e.buf[i] = pattern[i%4]
	}
	for size > 0 {
		part := e.buf[:min(size, int64(len(e.buf)))]
		if _, err := e.target.WriteAt(part, offset); err != nil {
			return err
		}
		offset, size = offset+int64(len(part)), size-int64(len(part))
	}
	return nil
}

// page is the least that a file system keeps or leaves out.
const page = 4096

// WriteNonZero writes data at offset but for pages of zeros, so that a file that was empty stays sparse.
func WriteNonZero(w io.WriterAt, data []byte, offset int64) error {
	start := -1 // of what is to be written
	for at := 0; ; at += page {
		end := min(at+page, len(data))
		if at < len(data) && !zero(data[at:end]) {
			if start < 0 {
				start = at
			}
			continue
		}
		if start >= 0 {
			if _, err := w.WriteAt(data[start:min(at, len(data))], offset+int64(start)); err != nil {
				return err
			}
			start = -1
		}
		if at >= len(data) {
			return nil
		}
	}
}

func zero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
