package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config is what Write needs.
type Config struct {
	// Version of the program, for labels and properties.
	Version string
	// Programs are the bytes of the program by architecture; at least one.
	Programs map[string][]byte
}

// blobs collects the content of an archive by digest.
type blobs struct {
	list []entry
}

func (b *blobs) add(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	e := entry{name: "blobs/sha256/" + d.Encoded(), mode: 0o644, kind: tar.TypeReg, data: data}
	if !slices.ContainsFunc(b.list, func(have entry) bool { return have.name == e.name }) {
		b.list = append(b.list, e)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (b *blobs) addJSON(mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	return b.add(mediaType, data), nil
}

// Write writes the OCI archive. Errors: errdefs.ErrInvalidArgument for an architecture that is not of Architectures or none at all, and
// what w returns.
func Write(w io.Writer, cfg Config) error {
	var content blobs
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, arch := range Architectures() {
		program, ok := cfg.Programs[arch]
		if !ok {
			continue
		}
		manifest, err := addManifest(&content, program, arch, cfg.Version)
		if err != nil {
			return fmt.Errorf("image for %s: %w", arch, err)
		}
		index.Manifests = append(index.Manifests, manifest)
	}
	if len(index.Manifests) != len(cfg.Programs) || len(index.Manifests) == 0 {
		return fmt.Errorf("image: programs for %d of the architectures %v: %w", len(index.Manifests), Architectures(), errdefs.ErrInvalidArgument)
	}
	top, err := content.addJSON(ocispec.MediaTypeImageIndex, index)
	if err != nil {
		return err
	}
	_, tag, _ := strings.Cut(Name, ":")
	top.Annotations = map[string]string{ocispec.AnnotationRefName: tag, "io.containerd.image.name": Name}
	indexJSON, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{top},
	})
	if err != nil {
		return fmt.Errorf("encode index: %w", err)
	}
	slices.SortFunc(content.list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	files := []entry{
		{name: ocispec.ImageLayoutFile, mode: 0o644, kind: tar.TypeReg, data: fmt.Appendf(nil, `{"imageLayoutVersion":%q}`, ocispec.ImageLayoutVersion)},
		{name: ocispec.ImageIndexFile, mode: 0o644, kind: tar.TypeReg, data: indexJSON},
		{name: "blobs/", mode: 0o755, kind: tar.TypeDir},
		{name: "blobs/sha256/", mode: 0o755, kind: tar.TypeDir},
	}
	return writeTar(w, append(files, content.list...))
}

// addManifest adds an architecture's layer, configuration and manifest.
func addManifest(content *blobs, program []byte, arch, version string) (ocispec.Descriptor, error) {
	var layer bytes.Buffer
	files, err := tree(program, arch, version)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := writeTar(&layer, files); err != nil {
		return ocispec.Descriptor{}, err
	}
	packed, err := compress(layer.Bytes())
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("compress layer: %w", err)
	}
	labels := map[string]string{ProfileLabel: Profile, "org.opencontainers.image.version": version, "org.opencontainers.image.title": "testphone"}
	platform := ocispec.Platform{OS: "linux", Architecture: arch}
	if arch == "arm64" {
		platform.Variant = "v8"
	}
	config, err := content.addJSON(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: platform,
		Config: ocispec.ImageConfig{
			Entrypoint: []string{"/init"},
			Env:        []string{"PATH=/system/bin", "ANDROID_ROOT=/system", "ANDROID_DATA=/data", "HOME=/data"},
			WorkingDir: "/",
			Labels:     labels,
		},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest, err := content.addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    []ocispec.Descriptor{content.add(ocispec.MediaTypeImageLayerGzip, packed)},
	})
	manifest.Platform = &platform
	return manifest, err
}
