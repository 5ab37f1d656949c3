package screen

import (
	"context"
	"image"
	"slices"
	"time"
)

// Reader sees a screen's changes at its own pace. Its methods may be called from any goroutine.
type Reader struct {
	screen  *Screen
	changed chan struct{} // holds a token when something is pending and nobody was told

	// Guarded by screen.mu.
	pending tiles
	rects   []image.Rectangle // memory for View.Damage
}

// View is what a reader sees, valid only inside the callback of Read.
type View struct {
	// Pix is the canvas: B, G, R and a byte without meaning per pixel. It must not be written.
	Pix []byte
	// Stride is the distance of rows in bytes.
	Stride int
	// Damage is what may differ since this reader's last Read: disjoint rectangles whose edges are multiples of Tile or the
	// screen's own. Everything at first; empty when nothing differs.
	Damage []image.Rectangle
	// Frame is the number of the newest committed frame that changed a pixel; the first is 1, and 0 says there was none.
	Frame uint64
	// CommitTime is when that frame was committed; zero when there was none.
	CommitTime time.Time
}

// NewReader makes a reader for which everything is damaged. The caller closes it.
func (s *Screen) NewReader() *Reader {
	r := &Reader{screen: s, changed: make(chan struct{}, 1), pending: newTiles(s.cols * s.rows)}
	for i := range s.cols * s.rows {
		r.pending.set(i)
	}
	r.wake()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readers = append(s.readers, r)
	return r
}

// Close ends the reader's account. It may be called more than once.
func (r *Reader) Close() {
	r.screen.mu.Lock()
	defer r.screen.mu.Unlock()
	r.screen.readers = slices.DeleteFunc(r.screen.readers, func(o *Reader) bool { return o == r })
}

// Changed delivers one token after something changed since the last Read; at first it holds one. Who takes it owes a Read:
// no second token comes before the next commit that changes a pixel.
func (r *Reader) Changed() <-chan struct{} { return r.changed }

// Wait returns when something changed since the last Read, at once if it has, or with the context's error.
func (r *Reader) Wait(ctx context.Context) error {
	for {
		if r.Pending() {
			return nil
		}
		select {
		case <-r.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Pending tells whether something changed since the last Read.
func (r *Reader) Pending() bool {
	r.screen.mu.Lock()
	defer r.screen.mu.Unlock()
	return !r.pending.empty()
}

// Read calls look with the picture as it is and settles the account, unless look panics. Look runs under the screen's mutex.
func (r *Reader) Read(look func(v View)) {
	s := r.screen
	s.mu.Lock()
	defer s.mu.Unlock()
	r.rects = r.pending.rects(r.rects[:0], s.cols, s.rows, s.canvas.Bounds())
	look(View{Pix: s.canvas.pix, Stride: s.stride, Damage: r.rects, Frame: s.frame, CommitTime: s.at})
	r.pending.clear()
	select {
	case <-r.changed:
	default:
	}
}

// wake leaves a token unless there is one.
func (r *Reader) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}
