package phone

import (
	"context"
	"slices"
)

// Change is one phone as it is now, or the news that it is gone.
type Change struct {
	// ID is the phone's.
	ID string
	// Deleted is whether it is gone; then Snapshot is empty.
	Deleted bool
	// Snapshot is the phone.
	Snapshot Snapshot
}

// Watcher collects the changes of phones for one reader. Only the newest state of each phone is kept, so however slow the reader is
// nobody waits for it and nothing piles up. Next must be called by one goroutine.
type Watcher struct {
	s     *Supervisor
	ids   map[string]bool // nil means all
	ready chan struct{}

	// Guarded by Supervisor.mu:

	// dirty holds the phones that changed since the last Next, in the order of their first change.
	dirty []string
}

// Watch returns a watcher that first reports the phones as they are, in the order of their ids. ids limits it; none means all phones,
// also those created later. Close must be called.
func (s *Supervisor) Watch(ids []string) *Watcher {
	w := &Watcher{s: s, ready: make(chan struct{}, 1)}
	if len(ids) > 0 {
		w.ids = make(map[string]bool, len(ids))
		for _, id := range ids {
			w.ids[id] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[w] = struct{}{}
	for id := range s.phones {
		if w.wants(id) {
			w.dirty = append(w.dirty, id)
		}
	}
	slices.Sort(w.dirty)
	w.ready <- struct{}{}
	return w
}

// Close ends the watcher.
func (w *Watcher) Close() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	delete(w.s.watchers, w)
}

// Next waits for changes and returns them. The first call returns the phones as they are, which may be none.
func (w *Watcher) Next(ctx context.Context) ([]Change, error) {
	select {
	case <-w.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	changes := make([]Change, 0, len(w.dirty))
	for _, id := range w.dirty {
		if c := w.s.phones[id]; c != nil {
			changes = append(changes, Change{ID: id, Snapshot: w.s.view(c)})
		} else {
			changes = append(changes, Change{ID: id, Deleted: true})
		}
	}
	w.dirty = w.dirty[:0]
	return changes, nil
}

func (w *Watcher) wants(id string) bool { return w.ids == nil || w.ids[id] }

// tell marks a phone as changed for every watcher. s.mu is held.
func (s *Supervisor) tell(id string) {
	for w := range s.watchers {
		if !w.wants(id) {
			continue
		}
		if !slices.Contains(w.dirty, id) {
			w.dirty = append(w.dirty, id)
		}
		select {
		case w.ready <- struct{}{}:
		default:
		}
	}
}
