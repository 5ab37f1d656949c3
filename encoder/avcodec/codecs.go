package avcodec

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/h264"
)

// DefaultCodec is the encoder of a Config that names none.
const DefaultCodec = "libx264"

// Rate control. A frame in motion has quality normalCRF where one frame's share of the rate allows it, and so a screen that is
// easy to encode takes less than its rate. A fine frame has fineCRF and takes at most fineTime of the rate.
const (
	normalCRF = 20.0
	fineCRF   = 14.0
	fineTime  = 0.25 // seconds
	// lowestFPS is the frame rate below which a frame's share of the rate grows no more: what is slower than 15 frames per
	// second wants its rare frames early rather than fine.
	lowestFPS = 15
)

// codec is what this package knows of one encoder of libavcodec.
type codec struct {
	name    string
	options []string // the codec's own options: name, value, ...
}

// codecs are the encoders that this package can drive, best first. What each option does for latency: docs/display.md.
var codecs = []codec{
	{name: "libx264", options: []string{
		"preset", "ultrafast", // a third less time than superfast, for about 0.004 of SSIM (docs/display.md)
		"tune", "zerolatency", // no look-ahead, no B frames, and rate control that counts frames and not time
		"profile", "baseline", // x264 writes it as Constrained Baseline, which every decoder takes
		"forced-idr", "1",
		"x264-params", "sliced-threads=0:scenecut=0:keyint=infinite:annexb=1:repeat-headers=1:aud=0:vbv-init=1.0",
	}},
}

// Codecs are the names of the encoders that this package can drive, best first. Whether one is there, Probe tells.
func Codecs() []string {
	names := make([]string, len(codecs))
	for i, c := range codecs {
		names[i] = c.name
	}
	return names
}

// Libraries are the sonames that Open loads with dlopen, in order.
func Libraries() []string {
	return []string{C.GoString(C.ph_util_soname()), C.GoString(C.ph_codec_soname())}
}

// Version is the version of the libavcodec that is loaded, such as "59.37.100". It loads the libraries; the error is of class
// Unavailable.
func Version() (string, error) {
	msg := (*C.char)(C.calloc(1, C.PH_ERROR_SIZE))
	defer C.free(unsafe.Pointer(msg))
	if C.ph_load(msg) != 0 {
		return "", fmt.Errorf("load libavcodec: %s: %w", C.GoString(msg), errdefs.ErrUnavailable)
	}
	v := int(C.ph_version())
	return fmt.Sprintf("%d.%d.%d", v>>16, v>>8&0xff, v&0xff), nil
}

// Probe tells whether an encoder works: it opens it, encodes a real frame and looks at the stream. The error has the classes
// of Open.
func Probe(name string) error {
	e, err := Open(Config{Codec: name, Width: 320, Height: 240, FPS: 30, Kbps: 1000})
	if err != nil {
		return err
	}
	defer e.Close()
	au, key, err := e.Encode(nil, h264.Normal, true)
	if err != nil {
		return err
	}
	sps, err := h264.NewChecker(320, 240).Describe(au)
	switch {
	case err != nil:
		return fmt.Errorf("first frame of %s: %w: %w", name, err, errdefs.ErrUnavailable)
	case !key || sps.Width != 320 || sps.Height != 240:
		return fmt.Errorf("first frame of %s: key %v, %dx%d pixels; want an IDR of 320x240: %w",
			name, key, sps.Width, sps.Height, errdefs.ErrUnavailable)
	}
	return nil
}

func lookUp(name string) (codec, error) {
	i := slices.IndexFunc(codecs, func(c codec) bool { return c.name == name })
	if i < 0 {
		return codec{}, fmt.Errorf("encoder %q: this display knows %v: %w", name, Codecs(), errdefs.ErrNotFound)
	}
	return codecs[i], nil
}

// level is the H.264 level to signal for a configuration.
func (codec) level(c Config) (int, error) { return h264.LevelFor(c.Width, c.Height, c.FPS, 10000) }

// rate is the rate control of the next frame. The codec was opened for config.FPS and counts frames, not time, so another
// frame rate is a larger or smaller share per frame.
func (e *Encoder) rate(q h264.Quality) C.ph_rate {
	frame := float64(e.kbps) * 1000 / float64(max(e.fps, lowestFPS))
	crf, bits := normalCRF, frame
	if q != h264.Normal {
		bits = max(frame, float64(e.kbps)*1000*fineTime)
	}
	if q == h264.Fine {
		crf = fineCRF
	}
	// The buffer is refilled by one frame's share after each frame; a slack one at once.
	return C.ph_rate{crf: C.double(crf), max_rate: C.int64_t(bits * float64(e.config.FPS)), buffer: C.int(bits)}
}
