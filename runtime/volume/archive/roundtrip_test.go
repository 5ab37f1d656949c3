package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/volume/archive"
	"github.com/phonehost/phonehost/scripts/testenv"
)

const volumeBytes = 64 << 20

// source is what the caller of Export says.
var source = archive.Manifest{
	Phone: "p1", Profile: "testphone", Image: "localhost/testphone:latest", ImageDigest: "sha256:0123", AndroidVersion: "13", VolumeBytes: volumeBytes,
}

func export(t testing.TB, root *os.Root) ([]byte, archive.Manifest) {
	t.Helper()
	var out bytes.Buffer
	m, err := archive.Export(t.Context(), root, source, &out)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), m
}

// room is what a test's volume has room for.
var room = archive.Limits{Bytes: volumeBytes, Entries: 10_000}

func TestRoundTrip(t *testing.T) {
	from, path := newVolume(t, volumeBytes)
	plant(t, path)
	// What is left out.
	must(t, unix.Mknod(filepath.Join(path, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(filepath.Join(path, "disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))))
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(path, "socket"), Net: "unixgram"})
	must(t, err)
	defer socket.Close()
	buried := bury(t, path)
	want := tree(t, path)
	for _, name := range []string{"device", "disk", "socket"} {
		delete(want, name)
	}

	began := time.Now().UTC()
	text, m := export(t, from)
	if m.Entries != uint64(len(want)+buried) || m.LeftOut != (archive.LeftOut{Devices: 2, Sockets: 1, TooDeep: 1}) {
		t.Errorf("manifest = %+v, for %d files", m, len(want))
	}
	if m.Format != archive.Format || m.Created.Before(began) || m.Created.After(time.Now()) {
		t.Errorf("manifest = %+v", m)
	}
	same := cmpopts.IgnoreFields(archive.Manifest{}, "Format", "Created", "Entries", "Bytes", "Extents", "LeftOut")
	if diff := cmp.Diff(source, m, same); diff != "" {
		t.Error(diff)
	}
	for name, read := range map[string]func() (archive.Manifest, error){
		"ReadManifest": func() (archive.Manifest, error) { return archive.ReadManifest(bytes.NewReader(text[:1024])) },
		"Verify":       func() (archive.Manifest, error) { return archive.Verify(t.Context(), bytes.NewReader(text)) },
	} {
		if got, err := read(); err != nil || got != m {
			t.Errorf("%s = %+v, %v; want %+v", name, got, err, m)
		}
	}
	to, other := newVolume(t, 2*volumeBytes)
	if got, err := archive.Import(t.Context(), bytes.NewReader(text), to, room); err != nil || got != m {
		t.Fatalf("Import = %+v, %v; want %+v", got, err, m)
	}
	if diff := cmp.Diff(want, tree(t, other)); diff != "" {
		t.Errorf("-exported +imported:\n%s", diff)
	}
}

// bury makes directories that no path leads to, though steps do, as a hostile guest can. It returns how many a path leads to.
func bury(t *testing.T, path string) (reachable int) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range 20 {
		must(t, unix.Mkdirat(fd, pit, 0o700))
		next, err := unix.Openat(fd, pit, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err, unix.Close(fd))
		fd = next
	}
	must(t, unix.Close(fd))
	return 4096/(len(pit)+1) - 1
}

// TestTarReadsIt has GNU tar unpack an archive: the format is no invention.
func TestTarReadsIt(t *testing.T) {
	tar := testenv.Tool(t, "tar")
	testenv.Tool(t, "zstd")
	from, path := newVolume(t, volumeBytes)
	plant(t, path)
	text, _ := export(t, from)
	to, other := newVolume(t, volumeBytes)
	cmd := exec.CommandContext(t.Context(), tar, "--zstd", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-", "-C", other)
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	want, got := tree(t, path), tree(t, filepath.Join(other, "data"))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-exported +by tar:\n%s", diff)
	}
	if text, err := to.ReadFile("manifest.json"); err != nil || !strings.Contains(string(text), `"phone": "p1"`) {
		t.Errorf("manifest.json = %s, %v", text, err)
	}
}

// TestRoundTripOfManyPieces has a file with more holes than an archive keeps.
func TestRoundTripOfManyPieces(t *testing.T) {
	from, path := plain(t)
	f, err := os.Create(filepath.Join(path, "sieve"))
	must(t, err)
	const pieces = 20_000
	for i := range int64(pieces) {
		_, err := f.WriteAt([]byte{byte(i)}, i*8192)
		must(t, err)
	}
	must(t, f.Close())
	text, m := export(t, from)
	if m.Extents == 0 || m.Extents > 16384 || m.Bytes < pieces*4096 || m.Bytes > pieces*8192 {
		t.Errorf("manifest = %+v", m)
	}
	to, other := plain(t)
	if _, err := archive.Import(t.Context(), bytes.NewReader(text), to, archive.Limits{Bytes: 4 * volumeBytes, Entries: 10}); err != nil {
		t.Fatal(err)
	}
	if want, got := tree(t, path)["sieve"], tree(t, other)["sieve"]; want.Content != got.Content || want.Size != got.Size {
		t.Errorf("exported %+v, imported %+v", want, got)
	}
}

func TestExportIsBoundedByItsContext(t *testing.T) {
	from, path := newVolume(t, volumeBytes)
	plant(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	writes := 0
	_, err := archive.Export(ctx, from, source, writer(func(p []byte) (int, error) {
		if writes++; writes == 1 {
			cancel()
		}
		return len(p), nil
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Export = %v, want its context's error", err)
	}
	broken := errors.New("the line is cut")
	if _, err := archive.Export(t.Context(), from, source, writer(func([]byte) (int, error) { return 0, broken })); !errors.Is(err, broken) {
		t.Errorf("Export = %v, want its writer's error", err)
	}
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestImportTellsTheStreamsErrors tells a stream that breaks from one that is damaged.
func TestImportTellsTheStreamsErrors(t *testing.T) {
	from, path := newVolume(t, volumeBytes)
	plant(t, path)
	text, _ := export(t, from)
	broken := errors.New("the line is cut")
	for _, at := range []int{0, 3, 100, len(text) / 2, len(text) - 1} {
		r := io.MultiReader(bytes.NewReader(text[:at]), reader(func([]byte) (int, error) { return 0, broken }))
		if _, err := archive.Verify(t.Context(), r); !errors.Is(err, broken) || errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err) {
			t.Errorf("after %d bytes: %v, want the stream's error alone", at, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	to, _ := newVolume(t, volumeBytes)
	if _, err := archive.Import(ctx, bytes.NewReader(text), to, room); !errors.Is(err, context.Canceled) {
		t.Errorf("Import = %v, want its context's error", err)
	}
}

type reader func(p []byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// TestImportIntoTooSmallAVolume is refused beforehand by what the manifest says, and where that is not enough by the file system.
func TestImportIntoTooSmallAVolume(t *testing.T) {
	from, path := newVolume(t, volumeBytes)
	must(t, os.WriteFile(filepath.Join(path, "large"), bytes.Repeat([]byte("x"), 30<<20), 0o600))
	text, m := export(t, from)
	small, dir := newVolume(t, 16<<20)
	for _, limits := range []archive.Limits{{Bytes: m.Bytes - 1, Entries: 100}, {Bytes: m.Bytes, Entries: m.Entries - 1}} {
		_, err := archive.Import(t.Context(), bytes.NewReader(text), small, limits)
		if !errdefs.IsOutOfRange(err) || !strings.Contains(err.Error(), fmt.Sprint(m.Bytes)) {
			t.Errorf("Import with room for %+v = %v", limits, err)
		}
		if got := tree(t, dir); len(got) != 1 {
			t.Errorf("unpacked before it was refused: %v", got)
		}
	}
	if _, err := archive.Import(t.Context(), bytes.NewReader(text), small, room); !errdefs.IsOutOfRange(err) {
		t.Errorf("Import into a full volume = %v", err)
	}
}
