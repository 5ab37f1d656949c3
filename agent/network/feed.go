package network

import (
	"context"
	"sync"
)

const (
	// maxWaiting is how many items a watcher may be behind.
	maxWaiting = 4096
	// maxNext is how many items Next returns at once.
	maxNext = 256
)

// feed hands items to watchers. Its zero value is ready.
type feed[T any] struct {
	mu       sync.Mutex
	watchers map[*Watcher[T]]struct{}
}

// send gives items to those who want them. It never waits: a watcher that is too far behind loses the oldest.
func (f *feed[T]) send(items ...T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		w.take(items)
	}
}

// watch returns a watcher of the items that wants reports true for, from now on. Close must be called.
func (f *feed[T]) watch(wants func(T) bool) *Watcher[T] {
	w := &Watcher[T]{feed: f, wants: wants, ready: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers == nil {
		f.watchers = map[*Watcher[T]]struct{}{}
	}
	f.watchers[w] = struct{}{}
	return w
}

// Watcher collects items for one reader, who holds nobody up. Next must be called by one goroutine.
type Watcher[T any] struct {
	feed  *feed[T]
	wants func(T) bool
	ready chan struct{}

	// Guarded by feed.mu:

	waiting []T
	missed  uint64
}

// take adds what the watcher wants. feed.mu is held.
func (w *Watcher[T]) take(items []T) {
	before := len(w.waiting)
	for _, item := range items {
		if w.wants(item) {
			w.waiting = append(w.waiting, item)
		}
	}
	if len(w.waiting) == before {
		return
	}
	if over := len(w.waiting) - maxWaiting; over > 0 {
		w.waiting = append(w.waiting[:0:0], w.waiting[over:]...)
		w.missed += uint64(over)
	}
	w.wake()
}

// wake tells Next that there is something.
func (w *Watcher[T]) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Next waits for items and returns the oldest, 256 at most, and how many were lost just before them because the reader was slow.
func (w *Watcher[T]) Next(ctx context.Context) (items []T, missed uint64, err error) {
	select {
	case <-w.ready:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	n := min(len(w.waiting), maxNext)
	items, missed = w.waiting[:n:n], w.missed
	w.waiting, w.missed = w.waiting[n:], 0
	if len(w.waiting) > 0 {
		w.wake()
	}
	return items, missed, nil
}

// Close ends the watcher.
func (w *Watcher[T]) Close() {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	delete(w.feed.watchers, w)
}
