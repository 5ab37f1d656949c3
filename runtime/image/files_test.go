package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/image/preinstalled"
	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// newLayers makes an image of layers for this host, lowest first.
func newLayers(t *testing.T, name string, layers ...[]byte) *layout {
	t.Helper()
	l := &layout{blobs: map[digest.Digest][]byte{}}
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: v1.RootFS{Type: "layers"}}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(layer))
		manifest.Layers = append(manifest.Layers, l.add(v1.MediaTypeImageLayer, layer))
	}
	manifest.Config = l.addJSON(t, v1.MediaTypeImageConfig, config)
	top := l.addJSON(t, v1.MediaTypeImageManifest, manifest)
	top.Annotations = map[string]string{"io.containerd.image.name": name}
	l.index = v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{top}}
	return l
}

// apks are the files of a layer that has packages, by path.
func apks(t *testing.T, packages map[string]string) map[string][]byte {
	t.Helper()
	key, err := apkmake.NewKey("platform")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for path, pkg := range packages {
		if files[path], err = apkmake.Make(apkmake.App{Package: pkg, VersionCode: 1}, key); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// names reads the packages of an image.
func names(t *testing.T, s *Store, digest string) []string {
	t.Helper()
	var found preinstalled.Packages
	err := s.Files(t.Context(), digest, func(root *os.File) (err error) {
		found, err = preinstalled.Read(t.Context(), root, preinstalled.Spool{Dir: t.TempDir()}, slog.New(slog.NewTextHandler(t.Output(), nil)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(found.Names))
}

// TestFiles reads the packages of an image whose upper layer takes some of the lower one's away, replaces one and adds one.
func TestFiles(t *testing.T) {
	s, client := newStore(t)
	s.mountDir = t.TempDir()
	lower := tarOf(t, apks(t, map[string]string{
		"system/app/Stays/Stays.apk": "com.stays", "system/app/Goes/Goes.apk": "com.goes", "system/app/DirGoes/DirGoes.apk": "com.dirgoes",
		"system/app/Replaced/Replaced.apk": "com.before", "product/app/Opaque/Opaque.apk": "com.opaque", "vendor/overlay/Theme.apk": "com.theme",
	}))
	files := apks(t, map[string]string{"system/app/Replaced/Replaced.apk": "com.after", "product/app/New/New.apk": "com.added"})
	files["system/app/Goes/.wh.Goes.apk"], files["system/app/.wh.DirGoes"], files["product/app/.wh..wh..opq"] = nil, nil, nil
	one, err := s.Import(t.Context(), "", bytes.NewReader(newLayers(t, "example.com/one:1", lower).archive(t)))
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.Import(t.Context(), "", bytes.NewReader(newLayers(t, "example.com/two:1", lower, tarOf(t, files)).archive(t)))
	if err != nil {
		t.Fatal(err)
	}
	if all, err := s.Digests(t.Context()); err != nil || !slices.Contains(all, one.Digest) || !slices.Contains(all, two.Digest) || len(all) != 2 {
		t.Errorf("digests %v, %v", all, err)
	}
	if diff := cmp.Diff([]string{"com.before", "com.dirgoes", "com.goes", "com.opaque", "com.stays", "com.theme"}, names(t, s, one.Digest)); diff != "" {
		t.Errorf("of one layer: %s", diff)
	}
	if diff := cmp.Diff([]string{"com.added", "com.after", "com.stays", "com.theme"}, names(t, s, two.Digest)); diff != "" {
		t.Errorf("of two layers: %s", diff)
	}
	nothingLeft(t, s, client)

	if err := s.Remove(t.Context(), two.Name); err != nil {
		t.Fatal(err)
	}
	if err := s.Files(t.Context(), two.Digest, func(*os.File) error { return nil }); !errdefs.IsNotFound(err) {
		t.Errorf("the files of an image that is gone: %v", err)
	}
}

// TestFilesAreOnlyRead wants the directory to be read-only, to open no device, and to be gone afterwards, also when who reads it gives up.
func TestFilesAreOnlyRead(t *testing.T) {
	s, client := newStore(t)
	s.mountDir = t.TempDir()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, h := range []tar.Header{{Typeflag: tar.TypeChar, Name: "zero", Mode: 0o666, Devmajor: 1, Devminor: 5}, {Typeflag: tar.TypeReg, Name: "file", Mode: 0o644}} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, layers := range map[string][][]byte{"one": {layer.Bytes()}, "two": {layer.Bytes(), tarOf(t, map[string][]byte{"x": nil})}} {
		img, err := s.Import(t.Context(), "", bytes.NewReader(newLayers(t, "example.com/"+name+":1", layers...).archive(t)))
		if err != nil {
			t.Fatal(err)
		}
		enough := errors.New("enough")
		err = s.Files(t.Context(), img.Digest, func(root *os.File) error {
			if entries, err := os.ReadDir(s.mountDir); err != nil || len(entries) != 0 {
				t.Errorf("%s: there is a path to the files: %v %v", name, entries, err)
			}
			for path, want := range map[string]error{"zero": unix.EACCES, "file": unix.EROFS} {
				fd, err := unix.Openat(int(root.Fd()), path, unix.O_RDWR|unix.O_CLOEXEC, 0)
				if !errors.Is(err, want) {
					t.Errorf("%s: open %s: %v, want %v", name, path, err, want)
				}
				if err == nil {
					unix.Close(fd)
				}
			}
			return enough
		})
		if !errors.Is(err, enough) {
			t.Errorf("%s: %v", name, err)
		}
	}
	nothingLeft(t, s, client)
}

// nothingLeft wants neither mounts nor views nor leases of reading.
func nothingLeft(t *testing.T, s *Store, client *containerd.Client) {
	t.Helper()
	if entries, err := os.ReadDir(s.mountDir); err != nil || len(entries) != 0 {
		t.Errorf("left where images are mounted: %v %v", entries, err)
	}
	err := client.SnapshotService("overlayfs").Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted {
			t.Errorf("a snapshot is left: %+v", info)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if leases, err := client.LeasesService().List(t.Context()); err != nil || len(leases) != 0 {
		t.Errorf("leases are left: %v %v", leases, err)
	}
}

// TestRecoverTakesMountsAway leaves what an agent does that dies between mounting an image and taking its path away.
func TestRecoverTakesMountsAway(t *testing.T) {
	s, _ := newStore(t)
	s.mountDir = t.TempDir()
	dir := filepath.Join(s.mountDir, mountPrefix+"1")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.mountDir, "others"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(s.mountDir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "others" || strings.Contains(string(mounts), s.mountDir) {
		t.Errorf("left: %v %v", entries, err)
	}
}
