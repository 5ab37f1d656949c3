package property

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

const (
	// MaxName is the greatest length of a name in bytes.
	MaxName = 128
	// MaxValue is the greatest length in bytes of the value of a name that does not begin with "ro.", Android's PROP_VALUE_MAX less its zero byte.
	MaxValue = 91
	// MaxReadOnlyValue is the greatest length in bytes of the value of a name that begins with "ro.".
	MaxReadOnlyValue = 8192
)

// ErrReadOnly is wrapped by the error for a second write to a name that begins with "ro.". Its class is errdefs.ErrPermissionDenied.
var ErrReadOnly = fmt.Errorf("read-only property: %w", errdefs.ErrPermissionDenied)

// Property is one name and its value.
type Property struct {
	Name, Value string
}

// Store holds the properties. The zero value is not usable; see NewStore.
type Store struct {
	mu       sync.Mutex
	values   map[string]string
	watchers map[*Subscription]struct{}
	persist  string // file of the persistent properties, empty until OpenPersistent
}

// NewStore returns an empty store that persists nothing.
func NewStore() *Store {
	return &Store{values: map[string]string{}, watchers: map[*Subscription]struct{}{}}
}

// Get returns the value of a name, empty when it is not set.
func (s *Store) Get(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[name]
}

// All returns every property, sorted by name.
func (s *Store) All() []Property {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sorted(s.values)
}

// Set sets a property and tells the subscribers. Names that begin with "persist." are on the disk when it returns, if OpenPersistent was called.
// Errors: errdefs.ErrInvalidArgument for a bad name or value, ErrReadOnly for a name that begins with "ro." and is set;
// any other error comes from the file, and then nothing was changed.
func (s *Store) Set(name, value string) error {
	if err := check(name, value); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, set := s.values[name]
	if set && isReadOnly(name) {
		return fmt.Errorf("property %s: %w", name, ErrReadOnly)
	}
	s.values[name] = value
	if s.persist != "" && isPersistent(name) && (!set || old != value) {
		if err := writePersistent(s.persist, persistentOf(s.values)); err != nil {
			if set {
				s.values[name] = old
			} else {
				delete(s.values, name)
			}
			return fmt.Errorf("property %s: keep: %w", name, err)
		}
	}
	for w := range s.watchers {
		w.changed(name, value)
	}
	return nil
}

// OpenPersistent sets the properties kept in file and keeps later changes there. A file that does not exist is an empty one; a file that
// cannot be understood is an error of class errdefs.ErrDataLoss and leaves the store as it was.
// Properties that are set already keep their value, and it replaces the kept one at the next change.
func (s *Store) OpenPersistent(file string) error {
	kept, err := readPersistent(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("persistent properties: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.persist = file
	for _, p := range kept {
		if _, set := s.values[p.Name]; set || check(p.Name, p.Value) != nil {
			continue
		}
		s.values[p.Name] = p.Value
		for w := range s.watchers {
			w.changed(p.Name, p.Value)
		}
	}
	return nil
}

// Subscribe returns a subscription to the names that begin with prefix. What is set already is delivered first.
func (s *Store) Subscribe(prefix string) *Subscription {
	w := &Subscription{store: s, prefix: prefix, ready: make(chan struct{}, 1), pending: map[string]string{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[w] = struct{}{}
	for name, value := range s.values {
		w.changed(name, value)
	}
	return w
}

// Subscription collects changes until they are taken: only the last value of each name is kept, so a slow subscriber never holds up a setter.
type Subscription struct {
	store  *Store
	prefix string
	ready  chan struct{}

	mu      sync.Mutex
	pending map[string]string
}

// Ready receives when there is something to Take.
func (w *Subscription) Ready() <-chan struct{} { return w.ready }

// Take returns the changes since the last Take, sorted by name.
func (w *Subscription) Take() []Property {
	w.mu.Lock()
	defer w.mu.Unlock()
	changes := sorted(w.pending)
	clear(w.pending)
	return changes
}

// Close ends the subscription.
func (w *Subscription) Close() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	delete(w.store.watchers, w)
}

func (w *Subscription) changed(name, value string) {
	if !strings.HasPrefix(name, w.prefix) {
		return
	}
	w.mu.Lock()
	w.pending[name] = value
	w.mu.Unlock()
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func isReadOnly(name string) bool   { return strings.HasPrefix(name, "ro.") }
func isPersistent(name string) bool { return strings.HasPrefix(name, "persist.") }

func persistentOf(values map[string]string) []Property {
	kept := sorted(values)
	return slices.DeleteFunc(kept, func(p Property) bool { return !isPersistent(p.Name) })
}

func sorted(values map[string]string) []Property {
	list := make([]Property, 0, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		list = append(list, Property{name, values[name]})
	}
	return list
}
