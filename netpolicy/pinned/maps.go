package pinned

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
)

// NoPrealloc is BPF_F_NO_PREALLOC (linux/bpf.h), a flag of maps.
const NoPrealloc = 1 << 0

// Plain is the spec of an inner map without type information, of which each map would bring a copy of its own. The one that an outer map is
// made with must have none either: Linux 6.1 takes no map for its like that has none where the other does (timer_off of bpf_map_meta_equal).
func Plain(outer *ebpf.MapSpec) *ebpf.MapSpec {
	s := outer.InnerMap.Copy()
	s.Name, s.Key, s.Value = outer.Name, nil, nil
	return s
}

// OpenMap finds a map pinned, or makes and pins it. The error wraps ebpf.ErrMapIncompatible for one that is there and is another.
func OpenMap(path string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil {
		if err := compatible(spec, m); err != nil {
			m.Close()
			return nil, err
		}
		return m, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pinned at %s: %w", path, err)
	}
	if m, err = ebpf.NewMap(spec); err != nil {
		return nil, err
	}
	if err := m.Pin(path); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// compatible compares a map with what is wanted. One with more room serves.
func compatible(spec *ebpf.MapSpec, m *ebpf.Map) error {
	if m.MaxEntries() > spec.MaxEntries {
		spec = spec.Copy()
		spec.MaxEntries = m.MaxEntries()
	}
	return spec.Compatible(m)
}

// CloseMaps gives handles up.
func CloseMaps(all map[string]*ebpf.Map) {
	for _, m := range all {
		m.Close()
	}
}
