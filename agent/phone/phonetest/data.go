package phonetest

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/container"
)

// Volume is a data volume.
type Volume struct {
	// Bytes is its size, and Content what users put there.
	Bytes   uint64
	Content string
}

// root makes the root file system of an image, and removes those of other images that no container names.
func (b *Body) root(p container.Phone) {
	if slices.Contains(b.Roots[p.DataGeneration], p.ImageDigest) {
		return
	}
	if b.Roots == nil {
		b.Roots = map[uint64][]string{}
	}
	kept := slices.DeleteFunc(b.Roots[p.DataGeneration], func(digest string) bool {
		return !b.Guest.Container || b.Guest.ImageDigest != digest || b.Guest.DataGeneration != p.DataGeneration
	})
	b.Roots[p.DataGeneration] = append(kept, p.ImageDigest)
}

// GrowData implements phone.Volumes.
func (w *World) GrowData(ctx context.Context, p container.Phone) error {
	return w.do(ctx, "GrowData", p.ID, func(b *Body) error {
		if v, there := b.Volumes[p.DataGeneration]; there && v.Bytes < p.DataBytes {
			v.Bytes = p.DataBytes
			b.Volumes[p.DataGeneration] = v
		}
		return nil
	})
}

// CloneData implements phone.Volumes.
func (w *World) CloneData(ctx context.Context, from, to container.Phone) (shared bool, err error) {
	return true, w.do(ctx, "CloneData", to.ID, func(b *Body) error {
		source := w.Bodies[from.ID]
		if source != nil && (source.Guest.State == container.TaskRunning || b.Guest.State == container.TaskRunning) {
			w.Violation = "CloneData while a guest runs"
		}
		if source == nil || source.Volumes[from.DataGeneration].Bytes == 0 {
			return fmt.Errorf("clone the data of %s: there is none: %w", from.ID, errdefs.ErrNotFound)
		}
		w.Bodies[to.ID] = b
		if _, there := b.Volumes[to.DataGeneration]; !there {
			b.Generations[to.DataGeneration] = true
			b.Volumes[to.DataGeneration] = source.Volumes[from.DataGeneration]
		}
		return nil
	})
}
