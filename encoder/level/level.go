// Package level turns a screen into one stream of H.264: one open level is one encoder.
//
// It is pull-based. A level converts and encodes only when something changed (or a key frame was asked for) and its viewers
// have given credit, and no more often than its frame rate; what happened meanwhile is in the next frame, so the newest
// picture wins and frames are dropped before they are encoded, never after. The first frame is a key frame. A frame that
// comes when the last is long ago is encoded at once: the frame rate costs no latency. When motion has stopped for RefreshAfter
// the picture is sent once more at better quality, in two packets, and then there is silence: no timer runs.
//
// Each level has one goroutine, which owns the encoder, and which Close waits for. It converts under the screen's mutex and
// encodes outside it. It is not locked to a thread: an encoder that needs one brings its own. Callbacks are called on that goroutine, one at a time, and may block: that only delays the next frame.
package level

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/convert"
	"github.com/phonehost/phonehost/encoder/h264"
	"github.com/phonehost/phonehost/encoder/screen"
)

// RefreshAfter is how long nothing changes before the picture is sent again at better quality.
const RefreshAfter = 150 * time.Millisecond

// maxCredit bounds what a client can save up.
const maxCredit = 1024

// Encoder makes H.264 of pictures, one access unit per picture, without delay. It is used by one goroutine at a time.
type Encoder interface {
	// Name names the encoder.
	Name() string
	// Picture is where the next frame is drawn; it holds what the last one held, undefined at first.
	Picture() (convert.Picture, error)
	// Encode appends the picture's access unit, Annex B, to dst and tells whether it is an IDR.
	Encode(dst []byte, quality h264.Quality, key bool) (au []byte, isKey bool, err error)
	// SetRate changes rate and frame rate from the next frame on, without a key frame.
	SetRate(kbps, fps int)
	// Close frees the encoder.
	Close()
}

// Config tells what to encode and for whom. Screen, Open, Opened, Packet and Failed are required.
type Config struct {
	// Screen is what is encoded. Odd sizes lose their last column or row.
	Screen *screen.Screen
	// Open opens the encoder, for video of width x height pixels; it may take long, such as for loading libraries.
	Open func(width, height, fps, kbps int) (Encoder, error)
	// Kbps is the rate in kbit/s, 100..10000.
	Kbps int
	// FPS is the highest frame rate, 1..120.
	FPS int
	// Opened is called once, first: with what was opened, or with Open's error, after which nothing is called.
	Opened func(Info, error)
	// Packet takes a packet, whose Data is valid until it returns.
	Packet func(Packet)
	// Failed is called when the level ends by itself, last.
	Failed func(error)
}

// Info is what an open level is.
type Info struct {
	Encoder       string
	Width, Height int
}

// Packet is one access unit.
type Packet struct {
	// Key tells whether it is an IDR, before which its parameter sets lie.
	Key bool
	// Data is the access unit, Annex B.
	Data []byte
	// Frame is the number of the committed frame that it shows.
	Frame uint64
	// CommitTime is when the guest committed that frame; zero for a screen on which nothing was drawn yet.
	CommitTime time.Time
	// EncodeStart and EncodeEnd are when conversion began and encoding ended.
	EncodeStart, EncodeEnd time.Time
}

// Level is one running encoder. Its methods may be called from any goroutine.
type Level struct {
	config Config
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{} // holds a token when orders changed

	converted, encoded atomic.Uint64

	mu     sync.Mutex
	orders orders
}

// orders is what callers asked for and the goroutine has not yet taken.
type orders struct {
	credit    int
	key       bool
	rate      bool
	kbps, fps int
}

// Start starts a level. The error is of class InvalidArgument; whether the encoder opens, Config.Opened tells.
func Start(config Config) (*Level, error) {
	if err := checkRate(config.Kbps, config.FPS); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Level{config: config, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	l.orders.kbps, l.orders.fps = config.Kbps, config.FPS
	go func() {
		defer close(l.done)
		defer cancel()
		l.run(ctx)
	}()
	return l, nil
}

func checkRate(kbps, fps int) error {
	switch {
	case kbps < 100 || kbps > 10000:
		return fmt.Errorf("bitrate of %d kbit/s: 100..10000: %w", kbps, errdefs.ErrInvalidArgument)
	case fps < 1 || fps > 120:
		return fmt.Errorf("frame rate of %d per second: 1..120: %w", fps, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Credit allows n more packets.
func (l *Level) Credit(n int) {
	l.order(func(o *orders) { o.credit = min(o.credit+max(n, 0), maxCredit) })
}

// ForceKeyFrame makes the next packet a key frame, and makes one of the last frame if nothing changes.
func (l *Level) ForceKeyFrame() { l.order(func(o *orders) { o.key = true }) }

// SetRate changes the rate in kbit/s, and the highest frame rate unless fps is 0. The error is of class InvalidArgument.
func (l *Level) SetRate(kbps, fps int) error {
	if err := checkRate(kbps, max(fps, 1)); err != nil {
		return err
	}
	l.order(func(o *orders) {
		o.rate, o.kbps = true, kbps
		if fps != 0 {
			o.fps = fps
		}
	})
	return nil
}

func (l *Level) order(change func(*orders)) {
	l.mu.Lock()
	change(&l.orders)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Counters are the pictures that were converted, in whole or in part, and the frames that were encoded.
func (l *Level) Counters() (converted, encoded uint64) { return l.converted.Load(), l.encoded.Load() }

// Close ends the level and waits for it. It must not be called from a callback.
func (l *Level) Close() {
	l.cancel()
	<-l.done
}
