// Package screen holds the picture of one phone: a private canvas that a Wayland server draws into and that encoders and
// screenshots read.
//
// The canvas is memory of this process alone. Pixels enter it only through Canvas, which compares what it is given with what
// is there while it copies, in tiles of 64x64 pixels, so that the damage a reader sees is what truly differs and not what the
// guest claims. Every reader has its own account of damage: the newest picture wins, and a slow reader loses frames but never
// pixels.
//
// One mutex guards the canvas and the accounts. Commit and Read run their callback under it, so a callback must not call the
// screen again, and must be short: a full copy or conversion of a 720x1280 picture takes a fraction of a millisecond. The
// package starts no goroutine. A panic in a callback (guest memory can fault while it is read) releases the mutex, keeps the
// damage that was done so that readers stay true to the canvas, and goes on to the caller.
package screen

import (
	"fmt"
	"image"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Limits of a screen's size in pixels, on either side.
const (
	MinSize = 16
	MaxSize = 8192
)

// Tile is the side of the squares in pixels by which damage is found.
const Tile = 64

// Screen is the picture of one phone. All methods may be called from any goroutine.
type Screen struct {
	width, height int
	stride        int // bytes from one row to the next
	cols, rows    int // tiles across and down

	mu       sync.Mutex
	canvas   Canvas
	readers  []*Reader
	frame    uint64    // number of the newest commit that changed a pixel
	at       time.Time // time of that commit
	counters Counters
	content  bool
	flipped  chan struct{} // closed and replaced when content changes
}

// Counters counts what a screen was given since it was made.
type Counters struct {
	// Committed counts frames that were committed.
	Committed uint64
	// Changed counts committed frames in which at least one pixel differed.
	Changed uint64
}

// New makes a black screen without content. Width and height are MinSize..MaxSize pixels; the error is of class
// InvalidArgument.
func New(width, height int) (*Screen, error) {
	if width < MinSize || width > MaxSize || height < MinSize || height > MaxSize {
		return nil, fmt.Errorf("screen of %dx%d pixels: each side is %d..%d: %w",
			width, height, MinSize, MaxSize, errdefs.ErrInvalidArgument)
	}
	s := &Screen{
		width: width, height: height, stride: width * 4,
		cols: (width + Tile - 1) / Tile, rows: (height + Tile - 1) / Tile,
		flipped: make(chan struct{}),
	}
	s.canvas = Canvas{
		width: width, height: height, stride: s.stride, cols: s.cols,
		pix:   make([]byte, s.stride*height),
		row:   make([]byte, s.stride),
		dirty: newTiles(s.cols * s.rows),
	}
	return s, nil
}

// Width is the screen's width in pixels.
func (s *Screen) Width() int { return s.width }

// Height is the screen's height in pixels.
func (s *Screen) Height() int { return s.height }

// Commit lets draw change the canvas, counts a committed frame and wakes the readers if a pixel differs. It reports whether
// one does. The time is when the guest committed. If draw panics, what it drew until then is damage that readers are woken
// for, but no frame is counted.
func (s *Screen) Commit(at time.Time, draw func(c *Canvas)) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.publish() // also when draw panics
	draw(&s.canvas)
	s.counters.Committed++
	if changed = !s.canvas.dirty.empty(); changed {
		s.counters.Changed++
		s.frame, s.at = s.counters.Committed, at
	}
	return changed
}

// publish moves the damage of the draw that just ended to the readers' accounts; s.mu is held.
func (s *Screen) publish() {
	if s.canvas.dirty.empty() {
		return
	}
	for _, r := range s.readers {
		r.pending.merge(s.canvas.dirty)
		r.wake()
	}
	s.canvas.dirty.clear()
}

// Counters returns what was counted.
func (s *Screen) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters
}

// SetContent tells whether a guest has mapped a window and drawn into it.
func (s *Screen) SetContent(content bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content == content {
		return
	}
	s.content = content
	close(s.flipped)
	s.flipped = make(chan struct{})
}

// HasContent tells whether a guest has mapped a window and drawn into it.
func (s *Screen) HasContent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.content
}

// ContentChanged returns a channel that is closed at the next change of HasContent. A caller that wants every change takes
// the channel first and asks HasContent second.
func (s *Screen) ContentChanged() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flipped
}

// Snapshot copies the picture and returns it as an RGBA image of its own, opaque.
func (s *Screen) Snapshot() *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, s.width, s.height))
	s.mu.Lock()
	copy(img.Pix, s.canvas.pix)
	s.mu.Unlock()
	swapRedBlue(img.Pix, img.Pix)
	for i := 3; i < len(img.Pix); i += 4 {
		img.Pix[i] = 0xff
	}
	return img
}
