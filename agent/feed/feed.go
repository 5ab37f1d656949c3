// Package feed hands what the kernel reports of phones to those who want it: to watchers as it comes (Feed), and to the journal summed up
// (Sums). Neither ever holds up who reports.
//
// The package starts no goroutines and stores nothing.
package feed

import (
	"context"
	"sync"
)

const (
	// MaxWaiting is how many items a watcher may be behind.
	MaxWaiting = 4096
	// MaxNext is how many items Next returns at once.
	MaxNext = 256
)

// Feed hands items to watchers. Its zero value is ready; its methods may be called by many goroutines at once.
type Feed[T any] struct {
	mu       sync.Mutex
	watchers map[*Watcher[T]]struct{}
}

// Send gives items to those who want them. It never waits: a watcher that is too far behind loses the oldest.
func (f *Feed[T]) Send(items ...T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		w.take(items)
	}
}

// Watch returns a watcher of the items that wants reports true for, from now on. Close must be called.
func (f *Feed[T]) Watch(wants func(T) bool) *Watcher[T] {
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
	feed  *Feed[T]
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
	if over := len(w.waiting) - MaxWaiting; over > 0 {
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

// Next waits for items and returns the oldest, MaxNext at most, and how many were lost just before them because the reader was slow.
func (w *Watcher[T]) Next(ctx context.Context) (items []T, missed uint64, err error) {
	select {
	case <-w.ready:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	n := min(len(w.waiting), MaxNext)
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

// Among returns whether an id is one of those that are named, or none is named.
func Among(ids []string) func(string) bool {
	if len(ids) == 0 {
		return func(string) bool { return true }
	}
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return func(id string) bool { return set[id] }
}
