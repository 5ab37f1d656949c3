package pinned

import (
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// batch is how many elements are read in one call, to begin with: more than any bucket of a hash has.
const batch = 512

// Elements reads a hash. What programs add and delete meanwhile may be among the elements or not; each is complete and comes once.
func Elements[K, V any](m *ebpf.Map) iter.Seq2[Element[K, V], error] {
	return func(yield func(Element[K, V], error) bool) {
		var cursor ebpf.MapBatchCursor
		keys, values := make([]K, batch), make([]V, batch)
		for {
			n, err := m.BatchLookup(&cursor, keys, values, nil)
			if errors.Is(err, unix.ENOSPC) { // a bucket that is longer
				keys, values = make([]K, 2*len(keys)), make([]V, 2*len(keys))
				continue
			}
			end := errors.Is(err, ebpf.ErrKeyNotExist)
			if err != nil && !end {
				yield(Element[K, V]{}, fmt.Errorf("read map %s: %w", m, err))
				return
			}
			for i := range n {
				if !yield(Element[K, V]{keys[i], values[i]}, nil) {
					return
				}
			}
			if end {
				return
			}
		}
	}
}

// Element is one of a hash.
type Element[K, V any] struct {
	Key   K
	Value V
}

// DeleteIf deletes the elements of a hash that a condition holds for, when it is read.
func DeleteIf[K, V any](m *ebpf.Map, doomed func(K, V) bool) error {
	var keys []K
	for e, err := range Elements[K, V](m) {
		if err != nil {
			return err
		}
		if doomed(e.Key, e.Value) {
			keys = append(keys, e.Key)
		}
	}
	for _, key := range keys {
		if err := DeleteKey(m, key); err != nil {
			return err
		}
	}
	return nil
}

// DeleteKey deletes an element; that it is not there is no error.
func DeleteKey(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from map %s: %w", m, err)
	}
	return nil
}

// Inner opens the map in a slot of an array of maps, nil for none.
func Inner(outer *ebpf.Map, slot uint32) (*ebpf.Map, error) {
	var m *ebpf.Map
	err := outer.Lookup(slot, &m)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("slot %d of map %s: %w", slot, outer, err)
	}
	return m, nil
}

// HasInner tells whether a slot of an array of maps has one.
func HasInner(outer *ebpf.Map, slot uint32) (bool, error) {
	var id uint32
	err := outer.Lookup(slot, &id)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("slot %d of map %s: %w", slot, outer, err)
	}
	return true, nil
}

// lookers is how many ask an array of maps at once. Linux 6.1 waits for a grace period of RCU, some ms to tens of ms, in each look-up of an element;
// those who ask at once share one.
const lookers = 64

// Occupied returns the slots of an array of maps that have one, in order.
func Occupied(outer *ebpf.Map) ([]uint32, error) {
	has, errs := make([]bool, outer.MaxEntries()), make([]error, lookers)
	var asking sync.WaitGroup
	for first := range lookers {
		asking.Go(func() {
			for slot := first; slot < len(has) && errs[first] == nil; slot += lookers {
				has[slot], errs[first] = HasInner(outer, uint32(slot))
			}
		})
	}
	asking.Wait()
	var slots []uint32
	for slot, yes := range has {
		if yes {
			slots = append(slots, uint32(slot))
		}
	}
	return slots, errors.Join(errs...)
}
