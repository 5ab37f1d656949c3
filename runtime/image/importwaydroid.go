package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/phonehost/phonehost/runtime/image/waydroid"
)

// WaydroidProfile is the profile of images that are made from Waydroid's.
const WaydroidProfile = "waydroid"

// Waydroid are the two images of a Waydroid, and how they are taken.
type Waydroid struct {
	// System and Vendor are read one after the other: ext4, raw or as Android's sparse images.
	System, Vendor io.Reader
	// Dir is where they are kept meanwhile, without a name, one beside the other.
	Dir string
	// Room is asked again and again while they are written; an error of it ends the import. May be nil.
	Room func() error
}

// ImportWaydroid makes an image called name out of Waydroid's system.img and vendor.img, and lists it. An image of the same name is
// replaced. No more of the images than a buffer is ever in memory.
//
// Errors: ErrInvalidArgument of errdefs for a bad name, and for files that are not what they should be, whole and for this host's
// processor; errors of the readers and of Room come back as they are. Nothing stays behind after an error, nor after the process was
// killed: content that belongs to no image is held by a lease of an hour alone.
func (s *Store) ImportWaydroid(ctx context.Context, name string, w Waydroid) (_ Image, err error) {
	if name, err = FullName(name); err != nil {
		return Image{}, err
	}
	system, err := waydroid.Spool(w.Dir, waydroid.SystemName, w.System, w.Room)
	if err != nil {
		return Image{}, fmt.Errorf("import image: %w", err)
	}
	defer system.Close()
	vendor, err := waydroid.Spool(w.Dir, waydroid.VendorName, w.Vendor, w.Room)
	if err != nil {
		return Image{}, fmt.Errorf("import image: %w", err)
	}
	defer vendor.Close()
	found, err := waydroid.Open(system, vendor)
	if err != nil {
		return Image{}, fmt.Errorf("import image: %w", err)
	}
	if host := platforms.DefaultSpec().Architecture; found.Arch != host {
		return Image{}, fmt.Errorf("import image: %s is for %s, this host is %s: %w", waydroid.SystemName, found.Arch, host, errdefs.ErrInvalidArgument)
	}
	ctx, release, err := s.lease(ctx)
	if err != nil {
		return Image{}, err
	}
	defer func() { release(err != nil) }()
	target, err := s.build(ctx, found, w.Room)
	if err != nil {
		return Image{}, fmt.Errorf("import image: %w", err)
	}
	if err := s.complete(ctx, name, target); err != nil {
		return Image{}, err
	}
	return s.publish(ctx, images.Image{Name: name, Target: target})
}

// build writes layers, configuration and manifest of an image into the content store, and returns the manifest.
func (s *Store) build(ctx context.Context, found *waydroid.Images, room func() error) (ocispec.Descriptor, error) {
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: found.Arch},
		Config: ocispec.ImageConfig{
			Entrypoint: []string{"/init"},
			Labels: map[string]string{
				ProfileLabel: WaydroidProfile, AndroidReleaseLabel: found.Release, AndroidSDKLabel: strconv.Itoa(found.SDK),
			},
		},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, part := range []struct {
		name  string
		write func(io.Writer) error
	}{{waydroid.SystemName, found.WriteSystem}, {waydroid.VendorName, found.WriteVendor}} {
		layer, plain, err := s.writeLayer(ctx, part.write, room)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		manifest.Layers = append(manifest.Layers, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, plain)
		config.History = append(config.History, ocispec.History{CreatedBy: "import of Waydroid's " + part.name})
	}
	var err error
	if manifest.Config, err = s.writeJSON(ctx, ocispec.MediaTypeImageConfig, config); err != nil {
		return ocispec.Descriptor{}, err
	}
	target, err := s.writeJSON(ctx, ocispec.MediaTypeImageManifest, manifest)
	target.Platform = &config.Platform
	return target, err
}

// writeLayer writes a layer, which write writes as a tar file, compressed. plain is the digest of the tar file.
func (s *Store) writeLayer(ctx context.Context, write func(io.Writer) error, room func() error) (layer ocispec.Descriptor, plain digest.Digest, err error) {
	cs := s.client.ContentStore()
	ref := "phonehost-import-" + uuid.NewString()
	w, err := content.OpenWriter(ctx, cs, content.WithRef(ref))
	if err != nil {
		return layer, "", fmt.Errorf("write a layer: %w", err)
	}
	defer func() {
		w.Close()
		if err != nil {
			// What was written of it goes with the lease otherwise, in the end.
			_ = cs.Abort(context.WithoutCancel(ctx), ref)
		}
	}()
	sum, size := digest.Canonical.Digester(), &counter{}
	// One goroutine: the same images give the same digest.
	packed, err := zstd.NewWriter(io.MultiWriter(w, sum.Hash(), size), zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return layer, "", err
	}
	tarSum := digest.Canonical.Digester()
	if err := write(io.MultiWriter(&gate{ctx: ctx, room: room}, packed, tarSum.Hash())); err != nil {
		return layer, "", err
	}
	if err := packed.Close(); err != nil {
		return layer, "", fmt.Errorf("write a layer: %w", err)
	}
	layer = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: sum.Digest(), Size: size.n}
	plain = tarSum.Digest()
	uncompressed := content.WithLabels(map[string]string{"containerd.io/uncompressed": plain.String()})
	if err := w.Commit(ctx, layer.Size, layer.Digest, uncompressed); err != nil && !errdefs.IsAlreadyExists(err) {
		return layer, "", fmt.Errorf("write a layer: %w", err)
	}
	return layer, plain, nil
}

// writeJSON writes a part of the image that describes it.
func (s *Store) writeJSON(ctx context.Context, mediaType string, v any) (ocispec.Descriptor, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
	if err := content.WriteBlob(ctx, s.client.ContentStore(), "phonehost-import-"+uuid.NewString(), bytes.NewReader(text), d); err != nil {
		return d, fmt.Errorf("write its description: %w", err)
	}
	return d, nil
}

// counter counts what is written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// gate fails to be written to once its context has ended or there is no more room, which ends the work of whoever writes.
type gate struct {
	ctx   context.Context
	room  func() error
	since int // bytes since it asked
}

// askEvery is how many bytes are written between two questions for room.
const askEvery = 64 << 20

func (g *gate) Write(p []byte) (int, error) {
	if err := g.ctx.Err(); err != nil {
		return 0, err
	}
	if g.since += len(p); g.since >= askEvery && g.room != nil {
		g.since = 0
		if err := g.room(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
