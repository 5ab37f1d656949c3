// Package avcodec encodes H.264 with the encoders of libavcodec (FFmpeg 5.1 to 8).
//
// The libraries are opened when the first encoder is, so an idle display does not carry them, and a missing library is an
// error and nothing worse. C reads pictures from memory that it allocated itself: see encoder/convert for who writes it.
//
// An Encoder belongs to one goroutine at a time; different encoders may work at once. Each has a thread in C that encodes,
// which Close waits for, while the goroutine waits for an eventfd as it would for a socket: a call into C that lasted the
// milliseconds of a frame would hold one of the runtime's processors and keep its monitor polling. Opening and closing are
// calls into C, serialised by a mutex there. The package starts no goroutine.
package avcodec

/*
#cgo CFLAGS: -std=gnu11 -Wall
#cgo LDFLAGS: -ldl -lpthread
#cgo noescape ph_begin
#cgo nocallback ph_begin
#cgo noescape ph_finish
#cgo nocallback ph_finish
#cgo noescape ph_picture_of
#cgo nocallback ph_picture_of
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/convert"
	"github.com/phonehost/phonehost/encoder/h264"
	"github.com/phonehost/phonehost/encoder/internal/codepages"
)

// settledAfter is the number of frames after which an encoder has bound the functions that it calls. Each is looked for in a
// hundred libraries, which maps the tables of them all; hardly anything of them is used again, so their pages are given back.
const settledAfter = 3

// Encoder is an open encoder. Its methods are for one goroutine at a time, and none may be called after Close.
type Encoder struct {
	config Config
	handle *C.ph_encoder
	kbps   int
	fps    int
	out    *C.ph_packet // in memory of C, so that calls allocate nothing
	err    *C.char
	done   *os.File // readable when a frame is encoded
	word   [8]byte  // what is read from done
	frames int      // encoded, up to settledAfter
}

// Config tells how to open an Encoder.
type Config struct {
	// Codec is libavcodec's name of the encoder, one of Codecs; empty means DefaultCodec.
	Codec string
	// Width and Height are the size in pixels, even, 16..8192.
	Width, Height int
	// FPS is the highest frame rate to expect, 1..120: it sizes the buffer and is written into the stream.
	FPS int
	// Kbps is the rate in kbit/s, 100..10000.
	Kbps int
}

// validate fills defaults in; its errors are of class InvalidArgument.
func (c *Config) validate() error {
	if c.Codec == "" {
		c.Codec = DefaultCodec
	}
	switch {
	case c.Width < 16 || c.Width > 8192 || c.Height < 16 || c.Height > 8192 || c.Width%2 != 0 || c.Height%2 != 0:
		return fmt.Errorf("video of %dx%d pixels: both are even, 16..8192: %w", c.Width, c.Height, errdefs.ErrInvalidArgument)
	case c.FPS < 1 || c.FPS > 120:
		return fmt.Errorf("%d frames per second: 1..120: %w", c.FPS, errdefs.ErrInvalidArgument)
	case c.Kbps < 100 || c.Kbps > 10000:
		return fmt.Errorf("rate of %d kbit/s: 100..10000: %w", c.Kbps, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Open opens an encoder. The error is of class InvalidArgument for a bad Config, NotFound for a codec that is not in Codecs,
// and Unavailable when the libraries or the codec are missing or do not work.
func Open(config Config) (*Encoder, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	codec, err := lookUp(config.Codec)
	if err != nil {
		return nil, err
	}
	level, err := codec.level(config)
	if err != nil {
		return nil, err
	}
	e := &Encoder{config: config, kbps: config.Kbps, fps: config.FPS}
	e.out = (*C.ph_packet)(C.calloc(1, C.sizeof_ph_packet))
	e.err = (*C.char)(C.calloc(1, C.PH_ERROR_SIZE))
	options, free := cStrings(codec.options)
	defer free()
	name := C.CString(codec.name)
	defer C.free(unsafe.Pointer(name))
	c := (*C.ph_config)(C.calloc(1, C.sizeof_ph_config))
	defer C.free(unsafe.Pointer(c))
	c.codec, c.option = name, options
	c.width, c.height, c.fps, c.level = C.int(config.Width), C.int(config.Height), C.int(config.FPS), C.int(level)
	if C.ph_open(c, e.rate(h264.Normal), &e.handle, e.err) != 0 {
		defer e.free()
		return nil, fmt.Errorf("encoder %s: %s: %w", codec.name, C.GoString(e.err), errdefs.ErrUnavailable)
	}
	e.done = os.NewFile(uintptr(C.ph_done_fd(e.handle)), "encoder")
	return e, nil
}

// Name is libavcodec's name of the encoder.
func (e *Encoder) Name() string { return e.config.Codec }

// Picture is where the next frame is drawn. It holds the last frame until then, so that only what changed need be drawn; at
// first what it holds is undefined. It is valid until the next call of Encode or Close; the error is of class Unavailable.
func (e *Encoder) Picture() (convert.Picture, error) {
	var p C.ph_picture
	if C.ph_picture_of(e.handle, &p, e.err) != 0 {
		return convert.Picture{}, fmt.Errorf("picture of %s: %s: %w", e.Name(), C.GoString(e.err), errdefs.ErrUnavailable)
	}
	w, h := e.config.Width, e.config.Height
	plane := func(i, rows int) []byte {
		return unsafe.Slice((*byte)(p.plane[i]), int(p.stride[i])*rows)
	}
	return convert.Picture{
		Width: w, Height: h, Y: plane(0, h), U: plane(1, h/2), V: plane(2, h/2),
		YStride: int(p.stride[0]), CStride: int(p.stride[1]),
	}, nil
}

// Encode encodes the picture and appends the access unit to dst: Annex B, as the codec writes it. With key it is an IDR. The
// error is of class Unavailable, and the encoder is of no more use then.
func (e *Encoder) Encode(dst []byte, quality h264.Quality, key bool) (au []byte, isKey bool, err error) {
	k := C.int(0)
	if key {
		k = 1
	}
	C.ph_begin(e.handle, k, e.rate(quality))
	if _, err := e.done.Read(e.word[:]); err != nil {
		return dst, false, fmt.Errorf("wait for %s: %w: %w", e.Name(), err, errdefs.ErrUnavailable)
	}
	if C.ph_finish(e.handle, e.out, e.err) != 0 {
		return dst, false, fmt.Errorf("encode by %s: %s: %w", e.Name(), C.GoString(e.err), errdefs.ErrUnavailable)
	}
	if e.frames < settledAfter {
		if e.frames++; e.frames == settledAfter {
			codepages.Forget()
		}
	}
	data := unsafe.Slice((*byte)(e.out.data), int(e.out.size))
	return append(dst, data...), e.out.key != 0, nil
}

// SetRate changes rate and frame rate from the next frame on, without a key frame. Values are clipped to the ranges of Config.
func (e *Encoder) SetRate(kbps, fps int) {
	e.kbps, e.fps = min(max(kbps, 100), 10000), min(max(fps, 1), 120)
}

// Close frees the encoder and returns its memory to the system.
func (e *Encoder) Close() {
	C.ph_close(e.handle)
	e.handle = nil
	e.done.Close()
	e.free()
}

func (e *Encoder) free() {
	C.free(unsafe.Pointer(e.out))
	C.free(unsafe.Pointer(e.err))
	e.out, e.err = nil, nil
}

// cStrings makes a list of strings for C that NULL ends.
func cStrings(list []string) (**C.char, func()) {
	mem := C.calloc(C.size_t(len(list)+1), C.size_t(unsafe.Sizeof((*C.char)(nil))))
	out := unsafe.Slice((**C.char)(mem), len(list)+1)
	for i, s := range list {
		out[i] = C.CString(s)
	}
	return (**C.char)(mem), func() {
		for _, s := range out[:len(list)] {
			C.free(unsafe.Pointer(s))
		}
		C.free(mem)
	}
}
