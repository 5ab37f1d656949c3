package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// ExportData writes an archive of the phone's data to w (package archive) and returns its manifest. The guest does not run, and cannot
// be started meanwhile: who wants to start it ends ctx and waits for the return. Of m only what the engine cannot know is taken:
// AndroidVersion. What was written before an error is no archive.
//
// Errors: errdefs.ErrNotFound if there is no data; errdefs.ErrFailedPrecondition if the guest runs; those of archive.Export.
func (e *Engine) ExportData(ctx context.Context, p Phone, m archive.Manifest, w io.Writer) (archive.Manifest, error) {
	m, err := e.exportData(ctx, p, m, w)
	if err != nil {
		return archive.Manifest{}, fmt.Errorf("data of %s: %w", p.ID, err)
	}
	return m, nil
}

func (e *Engine) exportData(ctx context.Context, p Phone, m archive.Manifest, w io.Writer) (archive.Manifest, error) {
	path, err := e.existingData(p)
	if err != nil {
		return archive.Manifest{}, err
	}
	if _, _, err := e.checkData(ctx, p); err != nil {
		return archive.Manifest{}, err
	}
	mount, err := volume.Open(ctx, path, true)
	if err != nil {
		return archive.Manifest{}, err
	}
	m.Phone, m.Profile, m.Image, m.ImageDigest, m.VolumeBytes = p.ID, p.Profile, p.Image, p.ImageDigest, p.DataBytes
	m, err = archive.Export(ctx, mount.Root(), m, w)
	return m, errors.Join(err, mount.Close())
}

// ImportData makes the data volume of the phone's generation out of an archive, unless there is one: what Prepare would make empty.
// The guest may run on another generation meanwhile. The volume appears when the whole archive has been read, checked, and is on the disk;
// after an error or a crash there is none, and KeepGeneration removes what is left of it.
//
// Errors: those of archive.Import, among them errdefs.ErrOutOfRange if Phone.DataBytes is too little for what it holds.
func (e *Engine) ImportData(ctx context.Context, p Phone, r io.Reader) (archive.Manifest, error) {
	if !validID(p.ID) {
		return archive.Manifest{}, fmt.Errorf("phone id %q: %w", p.ID, errdefs.ErrInvalidArgument)
	}
	if err := e.makeStateDir(p.ID); err != nil {
		return archive.Manifest{}, fmt.Errorf("data of %s: %w", p.ID, err)
	}
	var m archive.Manifest
	path := e.dataImage(p.ID, p.DataGeneration)
	filled := false
	err := volume.CreateWith(ctx, path, p.DataBytes, func(ctx context.Context, root *os.Root) error {
		var err error
		filled = true
		// No file system of mkfs has more files than blocks.
		m, err = archive.Import(ctx, r, root, archive.Limits{Bytes: p.DataBytes, Entries: p.DataBytes / 4096})
		return err
	})
	if err == nil && !filled {
		m, err = archive.ReadManifest(r)
	}
	if err != nil {
		return archive.Manifest{}, fmt.Errorf("data of %s: %w", p.ID, err)
	}
	return m, nil
}
