package phonetest

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/profile"
	"github.com/phonehost/phonehost/runtime/volume"
)

// Volume is a data volume.
type Volume struct {
	// Bytes is its size, and Content what users put there.
	Bytes   uint64
	Content string
	// Reason is why the guest's init last shut down, as it stored it.
	Reason profile.BootReason
	// Found is what the next check finds; only what is beyond repair is found again.
	Found volume.Report
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

// CheckData implements phone.Volumes.
func (w *World) CheckData(ctx context.Context, p container.Phone) (found volume.Report, err error) {
	err = w.do(ctx, "CheckData", p.ID, func(b *Body) error {
		v, there := b.Volumes[p.DataGeneration]
		if !there || b.Guest.State == container.TaskRunning {
			return nil
		}
		found = v.Found
		if found.Outcome == volume.BeyondRepair {
			return fmt.Errorf("mend the data of %s: %w", p.ID, errdefs.ErrDataLoss)
		}
		v.Found = volume.Report{}
		b.Volumes[p.DataGeneration] = v
		return nil
	})
	return found, err
}

// BootReason implements phone.Volumes.
func (w *World) BootReason(ctx context.Context, p container.Phone) (reason profile.BootReason, err error) {
	err = w.do(ctx, "BootReason", p.ID, func(b *Body) error {
		if b.Guest.State == container.TaskRunning {
			w.Violation = "BootReason while the guest runs"
		}
		v, there := b.Volumes[p.DataGeneration]
		if !there {
			return fmt.Errorf("data of %s: there is none: %w", p.ID, errdefs.ErrNotFound)
		}
		reason = v.Reason
		return nil
	})
	return reason, err
}
