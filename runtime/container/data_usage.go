package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/volume"
)

// DataUsage is the usage of one data volume.
type DataUsage struct {
	PhoneID    string
	Generation uint64
	volume.Usage
}

// DataUsage returns the usage of the data volumes of these phones, or of all where none is named, in order of id and generation. A phone has
// one, during a reset two, and before its first start none. It asks neither containerd nor the guest.
func (e *Engine) DataUsage(ctx context.Context, ids ...string) ([]DataUsage, error) {
	if len(ids) == 0 {
		var err error
		if ids, err = directories(filepath.Join(e.config.StateDir, "phones")); err != nil {
			return nil, err
		}
		ids = slices.DeleteFunc(ids, func(id string) bool { return !validID(id) })
	}
	var all []DataUsage
	var paths []string
	for _, id := range slices.Sorted(slices.Values(ids)) {
		generations, err := e.dataGenerations(id)
		if err != nil {
			return nil, err
		}
		for _, n := range generations {
			all = append(all, DataUsage{PhoneID: id, Generation: n})
			paths = append(paths, e.dataImage(id, n))
		}
	}
	usages, err := volume.StatAll(ctx, paths)
	if err != nil {
		return nil, fmt.Errorf("usage of data: %w", err)
	}
	complete := all[:0]
	for i, v := range all {
		if u, ok := usages[paths[i]]; ok {
			v.Usage = u
			complete = append(complete, v)
		}
	}
	return complete, nil
}

// dataGenerations lists the data generations of which there is an image, complete or not, in order.
func (e *Engine) dataGenerations(id string) ([]uint64, error) {
	if !validID(id) {
		return nil, fmt.Errorf("phone id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	entries, err := os.ReadDir(e.stateDir(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("data of %s: %w", id, err)
	}
	var found []uint64
	for _, entry := range entries {
		if n, ok := dataGeneration(entry.Name()); ok {
			found = append(found, n)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// DataSpace sets what is promised to the phones against what there is. Sizes are in bytes.
type DataSpace struct {
	// Volumes is the number of data volumes, PromisedBytes the sum of their sizes and AllocatedBytes what they take now.
	Volumes                       int
	PromisedBytes, AllocatedBytes uint64
	// HostBytes is the size of the host's file system that they lie on, and HostFreeBytes what is free of it for anybody.
	HostBytes, HostFreeBytes uint64
}

// Overcommit is how many times over the space that the volumes could ever have is promised: more than 1 means that they cannot all be filled.
func (s DataSpace) Overcommit() float64 {
	room := s.AllocatedBytes + s.HostFreeBytes
	if room == 0 {
		return 0
	}
	return float64(s.PromisedBytes) / float64(room)
}

// DataSpace adds up the data volumes of all phones.
func (e *Engine) DataSpace(ctx context.Context) (DataSpace, error) {
	volumes, err := e.DataUsage(ctx)
	if err != nil {
		return DataSpace{}, err
	}
	s := DataSpace{Volumes: len(volumes)}
	for _, v := range volumes {
		s.PromisedBytes += v.Bytes
		s.AllocatedBytes += v.AllocatedBytes
	}
	var st unix.Statfs_t
	if err := unix.Statfs(e.config.StateDir, &st); errors.Is(err, fs.ErrNotExist) {
		return s, nil // there has been no phone yet
	} else if err != nil {
		return DataSpace{}, fmt.Errorf("space of %s: %w", e.config.StateDir, err)
	}
	s.HostBytes, s.HostFreeBytes = st.Blocks*uint64(st.Bsize), st.Bavail*uint64(st.Bsize)
	return s, nil
}
