package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/phonehost/phonehost/scripts/testenv"
)

func archive(t *testing.T, programs map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, Config{Version: "1.2", Programs: programs}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// files reads a tar stream into names and contents.
func files(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	list := map[string][]byte{}
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		if list[hdr.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func TestArchive(t *testing.T) {
	programs := map[string][]byte{"amd64": []byte("program for amd64"), "arm64": []byte("program for arm64")}
	b := archive(t, programs)
	if !bytes.Equal(b, archive(t, maps.Clone(programs))) {
		t.Error("two archives of the same programs differ")
	}
	content := files(t, bytes.NewReader(b))
	for name, data := range content {
		if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && hex != "" && digest.FromBytes(data).Encoded() != hex {
			t.Errorf("%s holds something else", name)
		}
	}
	var index ocispec.Index
	unmarshal(t, content["index.json"], &index)
	want := map[string]string{ocispec.AnnotationRefName: "latest", "io.containerd.image.name": "phonehost.dev/testphone:latest"}
	if diff := cmp.Diff(want, index.Manifests[0].Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	blob := func(d ocispec.Descriptor, to any) { unmarshal(t, content["blobs/sha256/"+d.Digest.Encoded()], to) }
	var platforms ocispec.Index
	blob(index.Manifests[0], &platforms)
	var archs []string
	for _, d := range platforms.Manifests {
		var manifest ocispec.Manifest
		blob(d, &manifest)
		var config ocispec.Image
		blob(manifest.Config, &config)
		archs = append(archs, config.Architecture)
		if config.Architecture != d.Platform.Architecture || config.Config.Labels[ProfileLabel] != Profile || config.Config.Entrypoint[0] != "/init" {
			t.Errorf("%s: %+v", d.Platform.Architecture, config)
		}
	}
	if diff := cmp.Diff(Architectures(), archs); diff != "" {
		t.Errorf("architectures (-want +got):\n%s", diff)
	}
}

func unmarshal(t *testing.T, b []byte, to any) {
	t.Helper()
	if err := json.Unmarshal(b, to); err != nil {
		t.Fatal(err)
	}
}

func TestArchiveNeedsPrograms(t *testing.T) {
	for title, programs := range map[string]map[string][]byte{"none": {}, "unknown": {"mips": nil}} {
		if err := Write(io.Discard, Config{Programs: programs}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", title, err)
		}
	}
}

// TestBuildIsReproducible builds the program twice, with different working directories and caches.
func TestBuildIsReproducible(t *testing.T) {
	first, err := native()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOFLAGS", "-v")
	t.Setenv("TMPDIR", t.TempDir())
	second, err := Build(t.Context(), runtime.GOARCH, "test")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two builds differ")
	}
}

// TestContainerd imports the archive into a real containerd and runs it there.
func TestContainerd(t *testing.T) {
	server := testenv.Containerd(t)
	program, err := native()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(server.Address, client.WithDefaultNamespace(testenv.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(t.Context(), testenv.Namespace)
	images, err := c.Import(ctx, bytes.NewReader(archive(t, map[string][]byte{runtime.GOARCH: program})))
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 1 || images[0].Name != Name {
		t.Fatalf("imported %+v", images)
	}
	image := client.NewImage(c, images[0])
	if err := image.Unpack(ctx, ""); err != nil {
		t.Fatal(err)
	}
	container, err := c.NewContainer(ctx, "testphone", client.WithNewSnapshot("testphone", image),
		client.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("/system/bin/sh", "-c", "echo $PATH; ls /init; uname -m | wc -l; exit 7")))
	if err != nil {
		t.Fatal(err)
	}
	defer container.Delete(ctx, client.WithSnapshotCleanup)
	log := filepath.Join(t.TempDir(), "log")
	task, err := container.NewTask(ctx, cio.LogFile(log))
	if err != nil {
		t.Fatal(err)
	}
	wait, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	status := <-wait
	if _, err := task.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(log)
	if want := "/system/bin\n/init\n1\n"; string(got) != want || status.ExitCode() != 7 || err != nil {
		t.Errorf("exit %d, output %q, want %q; %v", status.ExitCode(), got, want, err)
	}
}

// TestCtrImport imports the whole archive, both architectures, with containerd's own tool.
func TestCtrImport(t *testing.T) {
	server := testenv.Containerd(t)
	ctr := testenv.Tool(t, "ctr")
	programs := map[string][]byte{}
	for _, arch := range Architectures() {
		programs[arch] = []byte("program for " + arch)
	}
	for _, args := range [][]string{{"image", "import", "--all-platforms", "--no-unpack", "-"}, {"image", "ls", "-q"}} {
		cmd := exec.CommandContext(t.Context(), ctr, slices.Concat([]string{"--address", server.Address, "--namespace", "phonehost"}, args)...)
		cmd.Stdin = bytes.NewReader(archive(t, programs))
		out, err := cmd.CombinedOutput()
		if err != nil || args[1] == "ls" && !strings.Contains(string(out), Name) {
			t.Errorf("ctr %v: %v: %s", args, err, out)
		}
	}
}
