package phonetest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/profile"
	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/runtime/volume/archive"
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

// ImportData implements phone.Volumes. Its archives are those of Archives.
func (w *World) ImportData(ctx context.Context, p container.Phone, r io.Reader) (archive.Manifest, error) {
	text, readErr := io.ReadAll(r)
	return archive.Manifest{}, w.do(ctx, "ImportData", p.ID, func(b *Body) error {
		if b.Guest.State == container.TaskRunning {
			w.Violation = "ImportData while the guest runs"
		}
		if readErr != nil {
			return fmt.Errorf("import: %w", readErr)
		}
		w.Bodies[p.ID] = b
		b.Generations[p.DataGeneration] = true
		if _, there := b.Volumes[p.DataGeneration]; !there {
			b.Volumes[p.DataGeneration] = Volume{Bytes: p.DataBytes, Content: string(text)}
		}
		return nil
	})
}

// TrimData implements phone.Volumes: what is not content is given back.
func (w *World) TrimData(ctx context.Context, p container.Phone) (bytes uint64, err error) {
	w.Lock()
	w.Calls = append(w.Calls, "TrimData")
	hook := w.Hook
	var v Volume
	if b := w.Bodies[p.ID]; b != nil {
		v = b.Volumes[p.DataGeneration]
	}
	w.Unlock()
	if hook != nil {
		if err := hook(ctx, "TrimData before", p.ID); err != nil {
			return 0, err
		}
	}
	if v.Bytes == 0 {
		return 0, fmt.Errorf("trim the data of %s: there is none: %w", p.ID, errdefs.ErrNotFound)
	}
	return v.Bytes - uint64(len(v.Content)), ctx.Err()
}

// Open implements phone.Archives.
func (w *World) Open(name string) (io.ReadCloser, error) {
	w.Lock()
	defer w.Unlock()
	text, there := w.Archives[name]
	if !there {
		return nil, fmt.Errorf("archive %s: %w", name, errdefs.ErrNotFound)
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

// Remove implements phone.Archives.
func (w *World) Remove(name string) error {
	w.Lock()
	defer w.Unlock()
	delete(w.Archives, name)
	return nil
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
