package archive_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/volume/archive"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// BenchmarkExport measures an export of what a used phone may have, 280 MiB in 4000 files, and its import into an empty volume, against
// tar --zstd with the same tree and volumes, in turns. Imports end when all is on the disk. The metrics are medians, and the size
// of the archive over that of tar's:
//
//	go test -run '^$' -bench Export -benchtime 5x ./runtime/volume/archive
func BenchmarkExport(b *testing.B) {
	tar := testenv.Tool(b, "tar")
	testenv.Tool(b, "zstd")
	root, path := newVolume(b, 1<<30)
	furnish(b, path)
	var exports, tarExports, imports, tarImports []float64
	var ours, theirs bytes.Buffer
	timed := func(into *[]float64, do func()) {
		begin := time.Now()
		do()
		*into = append(*into, time.Since(begin).Seconds())
	}
	for b.Loop() {
		ours.Reset()
		theirs.Reset()
		timed(&exports, func() {
			_, err := archive.Export(b.Context(), root, source, &ours)
			must(b, err)
		})
		timed(&tarExports, func() {
			run(b, nil, &theirs, tar, "--zstd", "--xattrs", "--xattrs-include=*", "--sparse", "-C", path, "-cf", "-", ".")
		})
		to, other := newVolume(b, 1<<30)
		timed(&imports, func() {
			_, err := archive.Import(b.Context(), bytes.NewReader(ours.Bytes()), to, archive.Limits{Bytes: 1 << 30, Entries: 1 << 20})
			must(b, err)
			synced(b, other)
		})
		_, third := newVolume(b, 1<<30)
		timed(&tarImports, func() {
			run(b, bytes.NewReader(theirs.Bytes()), io.Discard, tar, "--zstd", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", third, "-xpf", "-")
			synced(b, third)
		})
	}
	median := func(v []float64) float64 {
		slices.Sort(v)
		return v[len(v)/2]
	}
	b.ReportMetric(median(exports), "export_s")
	b.ReportMetric(median(tarExports), "tar_export_s")
	b.ReportMetric(median(exports)/median(tarExports), "export_ratio")
	b.ReportMetric(median(imports), "import_s")
	b.ReportMetric(median(tarImports), "tar_import_s")
	b.ReportMetric(median(imports)/median(tarImports), "import_ratio")
	b.ReportMetric(float64(ours.Len())/(1<<20), "MiB")
	b.ReportMetric(float64(theirs.Len())/(1<<20), "tar_MiB")
	b.ReportMetric(float64(ours.Len())/float64(theirs.Len()), "size_ratio")
	b.ReportMetric(0, "ns/op")
}

func run(b *testing.B, in io.Reader, out io.Writer, program string, args ...string) {
	b.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(b.Context(), program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &stderr
	if err := cmd.Run(); err != nil {
		b.Fatalf("%s: %v: %s", program, err, stderr.Bytes())
	}
}

func synced(b *testing.B, path string) {
	b.Helper()
	d, err := os.Open(path)
	must(b, err)
	defer d.Close()
	must(b, unix.Syncfs(int(d.Fd())))
}

// furnish makes what a used phone may have: small settings, caches of a few KiB, databases, photographs that do not compress, code.
func furnish(b *testing.B, path string) {
	b.Helper()
	random := rand.New(rand.NewChaCha8([32]byte{3}))
	noise := func(n int) []byte {
		out := make([]byte, n)
		rand.NewChaCha8([32]byte{byte(n), byte(random.Uint32()), byte(random.Uint32())}).Read(out)
		return out
	}
	words := bytes.Fields([]byte("the quick brown fox jumps over a lazy dog while all of its friends look on and say nothing at all about it"))
	text := func(n int) []byte {
		var out bytes.Buffer
		for out.Len() < n {
			out.Write(words[random.IntN(len(words))])
			fmt.Fprintf(&out, " %d ", random.IntN(1000))
		}
		return out.Bytes()[:n]
	}
	for app := range 40 {
		dir := filepath.Join(path, "data", fmt.Sprintf("com.example.app%d", app))
		must(b, os.MkdirAll(filepath.Join(dir, "files"), 0o700))
		for i := range 100 {
			must(b, os.WriteFile(filepath.Join(dir, "files", fmt.Sprint(i)), text(500+random.IntN(8000)), 0o600))
		}
		must(b, os.WriteFile(filepath.Join(dir, "base.db"), text(2<<20), 0o600))
		must(b, os.WriteFile(filepath.Join(dir, "photo"), noise(3<<20), 0o600))
		must(b, os.WriteFile(filepath.Join(dir, "code"), append(text(1<<20), noise(1<<19)...), 0o600))
		must(b, unix.Lsetxattr(dir, "security.selinux", []byte("u:object_r:app_data_file:s0\x00"), 0))
	}
}
