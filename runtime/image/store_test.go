package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/phonehost/phonehost/scripts/testenv"
)

// layout is an OCI image layout in memory.
type layout struct {
	index v1.Index
	blobs map[digest.Digest][]byte
}

func (l *layout) add(mediaType string, blob []byte) v1.Descriptor {
	d := digest.NewDigestFromEncoded(digest.SHA256, fmt.Sprintf("%x", sha256.Sum256(blob)))
	l.blobs[d] = blob
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(blob))}
}

func (l *layout) addJSON(t *testing.T, mediaType string, v any) v1.Descriptor {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return l.add(mediaType, text)
}

// newLayout makes an image with one file for each architecture, named name where it is not empty.
func newLayout(t *testing.T, name string, archs ...string) *layout {
	t.Helper()
	l := &layout{blobs: map[digest.Digest][]byte{}}
	var list v1.Index
	list.SchemaVersion, list.MediaType = 2, v1.MediaTypeImageIndex
	for _, arch := range archs {
		plain := tarOf(t, map[string][]byte{"hello": []byte("hello from " + arch)})
		var packed bytes.Buffer
		gz := gzip.NewWriter(&packed)
		gz.Write(plain)
		gz.Close()
		config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: arch}}
		config.Config.Labels = map[string]string{ProfileLabel: "testphone"}
		config.RootFS = v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain)}}
		manifest := v1.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
			Config: l.addJSON(t, v1.MediaTypeImageConfig, config),
			Layers: []v1.Descriptor{l.add(v1.MediaTypeImageLayerGzip, packed.Bytes())},
		}
		desc := l.addJSON(t, v1.MediaTypeImageManifest, manifest)
		desc.Platform = &config.Platform
		list.Manifests = append(list.Manifests, desc)
	}
	top := l.addJSON(t, v1.MediaTypeImageIndex, list)
	if name != "" {
		top.Annotations = map[string]string{"io.containerd.image.name": name}
	}
	l.index = v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{top}}
	return l
}

func tarOf(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		w.Write(files[name])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// archive is the layout as a tar file.
func (l *layout) archive(t *testing.T) []byte {
	t.Helper()
	index, err := json.Marshal(l.index)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"index.json": index, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	for d, blob := range l.blobs {
		files["blobs/sha256/"+d.Encoded()] = blob
	}
	return tarOf(t, files)
}

// ServeHTTP is a registry that holds the image as every tag of every repository (OCI distribution specification, pull only).
func (l *layout) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	top := l.index.Manifests[0]
	what := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	mediaType := "application/octet-stream"
	d := digest.Digest(what)
	if strings.Contains(r.URL.Path, "/manifests/") {
		if !strings.HasPrefix(what, "sha256:") {
			if what != "latest" {
				http.NotFound(w, r)
				return
			}
			d = top.Digest
		}
		var doc struct{ MediaType string }
		json.Unmarshal(l.blobs[d], &doc)
		mediaType = doc.MediaType
	}
	blob, ok := l.blobs[d]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
	if r.Method != http.MethodHead {
		w.Write(blob)
	}
}

func newStore(t *testing.T) (*Store, *containerd.Client) {
	t.Helper()
	client := testenv.Containerd(t).Client(t)
	s, err := New(Config{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	return s, client
}

// empty checks that nothing is kept: no image, no content, no lease.
func empty(t *testing.T, s *Store, client *containerd.Client) {
	t.Helper()
	if list, err := s.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("images are left: %v %v", list, err)
	}
	if err := client.ContentStore().Walk(t.Context(), func(info content.Info) error {
		t.Errorf("content is left: %s", info.Digest)
		return nil
	}); err != nil {
		t.Error(err)
	}
	if leases, err := client.LeasesService().List(t.Context()); err != nil || len(leases) != 0 {
		t.Errorf("leases are left: %v %v", leases, err)
	}
}

func TestImport(t *testing.T) {
	s, client := newStore(t)
	ctx := t.Context()
	const name = "example.com/phone:1"
	archive := newLayout(t, name, "amd64", "arm64").archive(t)
	img, err := s.Import(ctx, "", bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != name || img.Profile != "testphone" || img.SizeBytes == 0 || !slices.Contains(img.Platforms, "linux/"+runtime.GOARCH) {
		t.Errorf("imported %+v", img)
	}
	unpacked, err := client.GetImage(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := unpacked.IsUnpacked(ctx, "overlayfs"); err != nil || !ok {
		t.Errorf("the image is not unpacked: %v", err)
	}
	var packed bytes.Buffer
	gz := gzip.NewWriter(&packed)
	gz.Write(archive)
	gz.Close()
	if _, err := s.Import(ctx, "example.com/other", &packed); err != nil {
		t.Errorf("a compressed archive under another name: %v", err)
	}
	list, err := s.List(ctx)
	if err != nil || len(list) != 2 || list[0].Name != "example.com/other:latest" {
		t.Errorf("the list is %+v, %v", list, err)
	}
	for _, img := range list {
		if err := s.Remove(ctx, img.Name); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Get(ctx, name); !errdefs.IsNotFound(err) {
		t.Errorf("Get after Remove: %v, want ErrNotFound", err)
	}
	if err := s.Remove(ctx, name); !errdefs.IsNotFound(err) {
		t.Errorf("Remove twice: %v, want ErrNotFound", err)
	}
	empty(t, s, client)
}

func TestImportRefuses(t *testing.T) {
	s, client := newStore(t)
	whole := newLayout(t, "example.com/phone:1", runtime.GOARCH).archive(t)
	flipped := bytes.Replace(whole, []byte("sha256"), []byte("sha512"), 1)
	lacking := newLayout(t, "example.com/phone:1", runtime.GOARCH)
	for d, blob := range lacking.blobs {
		if len(blob) > 2 && blob[0] == 0x1f { // the gzip layer
			delete(lacking.blobs, d)
		}
	}
	foreign := newLayout(t, "example.com/phone:1", "s390x")
	for _, tt := range []struct {
		name    string
		as      string
		archive []byte
		want    string
	}{
		{"empty", "", nil, "archive"},
		{"noise", "", bytes.Repeat([]byte("noise"), 1000), "archive"},
		{"cut", "", whole[:len(whole)/2], "archive"},
		{"blob under another algorithm", "", flipped, "archive"},
		{"layer missing", "", lacking.archive(t), "example.com/phone:1"},
		{"other platform", "", foreign.archive(t), "s390x"},
		{"no name", "", newLayout(t, "", runtime.GOARCH).archive(t), "names no image"},
		{"bad name", "UPPER CASE", whole, "UPPER CASE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.Import(t.Context(), tt.as, bytes.NewReader(tt.archive))
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want ErrInvalidArgument that says %q", err, tt.want)
			}
		})
	}
	gone := errors.New("the caller is gone")
	if _, err := s.Import(t.Context(), "", io.MultiReader(bytes.NewReader(whole[:1024]), errorReader{gone})); !errors.Is(err, gone) {
		t.Errorf("error is %v, want the reader's own", err)
	}
	empty(t, s, client)
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestPull(t *testing.T) {
	s, client := newStore(t)
	ctx := t.Context()
	registry := httptest.NewServer(newLayout(t, "", "amd64", "arm64"))
	host := strings.TrimPrefix(registry.URL, "http://")
	var last Progress
	img, err := s.Pull(ctx, host+"/team/phone", func(p Progress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != host+"/team/phone:latest" || img.Profile != "testphone" {
		t.Errorf("pulled %+v", img)
	}
	if last.Step != "unpacking" || last.FetchedBytes == 0 || last.FetchedBytes != last.TotalBytes {
		t.Errorf("the last progress is %+v, want all fetched", last)
	}
	if _, err := s.Pull(ctx, host+"/team/phone:none", nil); !errdefs.IsNotFound(err) {
		t.Errorf("pulling an unknown tag: %v, want ErrNotFound", err)
	}
	if _, err := s.Pull(ctx, "!", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("pulling a bad reference: %v, want ErrInvalidArgument", err)
	}
	registry.Close()
	if _, err := s.Pull(ctx, host+"/team/other", nil); !errdefs.IsUnavailable(err) {
		t.Errorf("pulling from a registry that is gone: %v, want ErrUnavailable", err)
	}
	if err := s.Remove(ctx, img.Name); err != nil {
		t.Fatal(err)
	}
	empty(t, s, client)
}

func TestPullEndsWithItsContext(t *testing.T) {
	s, client := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	registry := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	defer registry.Close()
	if _, err := s.Pull(ctx, strings.TrimPrefix(registry.URL, "http://")+"/phone", nil); err == nil {
		t.Error("the pull went on")
	}
	empty(t, s, client)
}
