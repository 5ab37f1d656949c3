package pinned

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
)

// PutTable puts a new table in a slot of an array of maps. When it returns no program uses the former one (a grace period of RCU).
func PutTable(outer *ebpf.Map, spec *ebpf.MapSpec, slot uint32) error {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("make a table for slot %d of map %s: %w", slot, outer, err)
	}
	defer m.Close()
	if err := outer.Put(slot, m); err != nil {
		return fmt.Errorf("slot %d of map %s: %w", slot, outer, err)
	}
	return nil
}

// Take takes the hash in a slot of an array of maps, puts an empty one of spec in its place, and returns what it took when no program uses it
// any more; nil when it was empty, or there was none.
//
// What was taken is pinned at path, and the caller removes the pin when it has done with it: else the next call returns it once more, also
// in another process.
func Take(outer *ebpf.Map, spec *ebpf.MapSpec, slot uint32, path string) (_ *ebpf.Map, err error) {
	current, err := Inner(outer, slot)
	if current == nil || err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			current.Close()
		}
	}()
	former, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if former != nil {
		same, err := Same(former, current)
		if !same || err != nil { // taken before, and not done with
			current.Close()
			return former, err
		}
		former.Close()
	} else {
		if empty, err := isEmpty(current); empty || err != nil {
			current.Close()
			return nil, err
		}
		if err := current.Pin(path); err != nil {
			return nil, err
		}
	}
	if err := PutTable(outer, spec, slot); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return current, nil
}

// Same tells whether two handles are of one map.
func Same(a, b *ebpf.Map) (bool, error) {
	x, err := ID(a)
	if err != nil {
		return false, err
	}
	y, err := ID(b)
	return x == y, err
}

// ID is the kernel's number of a map.
func ID(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, fmt.Errorf("ids of maps, which Linux 4.13 has: %w", ebpf.ErrNotSupported)
	}
	return id, nil
}

// isEmpty tells whether a hash is.
func isEmpty(m *ebpf.Map) (bool, error) {
	err := m.NextKey(nil, make([]byte, m.KeySize()))
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return true, nil
	}
	return false, err
}
