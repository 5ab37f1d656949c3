package archive

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
)

// Format is the version of the format that this package writes, and the only one that it reads.
const Format = 1

// Manifest tells what an archive is of and how much it holds. The first fields are the caller's, who knows the phone; Export fills in
// the others.
type Manifest struct {
	// Phone is the id of the phone whose data it was, Profile, Image and ImageDigest what it ran on.
	Phone       string `json:"phone"`
	Profile     string `json:"profile"`
	Image       string `json:"image"`
	ImageDigest string `json:"image_digest"`
	// AndroidVersion is that of the image ("13"), as far as it is known. Android does not take data of a later version than its own.
	AndroidVersion string `json:"android_version"`
	// VolumeBytes is the size of the volume.
	VolumeBytes uint64 `json:"volume_bytes"`

	// Format is the version of the archive's format.
	Format int `json:"format"`
	// Created is when the export began.
	Created time.Time `json:"created"`
	// Entries is the number of files, directories and links, the root directory included.
	Entries uint64 `json:"entries"`
	// Bytes is how much content the files have; holes have none, and a file with several links is counted once.
	Bytes uint64 `json:"bytes"`
	// Extents is the number of pieces that files with holes are of.
	Extents uint64 `json:"extents"`
	// LeftOut counts what the archive does not hold.
	LeftOut LeftOut `json:"left_out"`
}

// LeftOut counts files that an export leaves out.
type LeftOut struct {
	Devices uint64 `json:"devices"`
	Sockets uint64 `json:"sockets"`
	// TooDeep counts those whose path is longer than any program can name. A directory counts once, with all that is in it.
	TooDeep uint64 `json:"too_deep"`
}

const (
	manifestName = "manifest.json"
	dataName     = "data"
	digestName   = "sha256"
)

// maxManifest bounds the manifest, in bytes.
const maxManifest = 64 << 10

// The bounds on what an archive may spend on an entry and on a piece of a file beside the content: what archives of this package need at
// most.
const (
	entryOverhead  = 32 << 10
	extentOverhead = 64
	streamOverhead = 1 << 20
)

// streamBytes bounds the tar archive that the manifest describes; false if its numbers cannot be.
func (m Manifest) streamBytes() (int64, bool) {
	const most = 1 << 56 // no sum below overflows
	if m.Bytes > most || m.Entries > most/entryOverhead || m.Extents > most/extentOverhead {
		return 0, false
	}
	return int64(m.Bytes + m.Entries*entryOverhead + m.Extents*extentOverhead + streamOverhead), true
}

// ReadManifest reads the manifest at the beginning of an archive, and no more than that: nothing else of the archive has been checked
// then. Errors: errdefs.ErrInvalidArgument for what is no archive; errdefs.ErrNotImplemented for a format that is not known;
// errdefs.ErrDataLoss for one that is damaged or cut short; those of r as they are.
func ReadManifest(r io.Reader) (Manifest, error) {
	s, err := newSource(r, asked)
	if err != nil {
		return Manifest{}, err
	}
	defer s.close()
	return readManifest(s, tar.NewReader(s))
}

func readManifest(s *source, t *tar.Reader) (Manifest, error) {
	h, err := t.Next()
	if err != nil {
		return Manifest{}, s.foreign(err)
	}
	if h.Name != manifestName || h.Typeflag != tar.TypeReg || h.Size > maxManifest {
		return Manifest{}, fmt.Errorf("this is no archive of a data volume: it begins with %q and not with %s: %w", h.Name, manifestName, errdefs.ErrInvalidArgument)
	}
	text, err := io.ReadAll(t)
	if err != nil {
		return Manifest{}, s.damaged(err)
	}
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return Manifest{}, fmt.Errorf("read the manifest: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if m.Format != Format {
		return Manifest{}, fmt.Errorf("the archive has format %d; this release reads format %d: %w", m.Format, Format, errdefs.ErrNotImplemented)
	}
	return m, nil
}
