package archive_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/phonehost/phonehost/runtime/volume/archive"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// crafted is an archive as somebody else might make it: everything about it can be wrong.
type crafted struct {
	manifest any // archive.Manifest, or anything else
	entries  func(t *tar.Writer, under io.Writer) error
	digest   string // instead of the right one
	after    func(t *tar.Writer) error
	trailing []byte // after the tar's end
}

// counts is a manifest that claims so much.
func counts(entries, bytes, extents uint64) archive.Manifest {
	m := source
	m.Format, m.Entries, m.Bytes, m.Extents = archive.Format, entries, bytes, extents
	return m
}

func (c crafted) tar(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	text, err := json.Marshal(c.manifest)
	must(t, err, add(w, &tar.Header{Name: "manifest.json", Format: tar.FormatUSTAR}, string(text)))
	must(t, w.Flush())
	if c.entries != nil {
		must(t, c.entries(w, &out))
	}
	must(t, w.Flush())
	sum := fmt.Sprintf("%x\n", sha256.Sum256(out.Bytes()))
	if c.digest != "" {
		sum = c.digest
	}
	must(t, add(w, &tar.Header{Name: "sha256", Format: tar.FormatUSTAR}, sum))
	if c.after != nil {
		must(t, c.after(w))
	}
	must(t, w.Close())
	return append(out.Bytes(), c.trailing...)
}

func compress(t testing.TB, text []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	must(t, err)
	defer e.Close()
	return e.EncodeAll(text, nil)
}

// add writes a regular file, or what the header says.
func add(w *tar.Writer, h *tar.Header, text string) error {
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
	}
	if h.Mode == 0 {
		h.Mode = 0o700
	}
	h.Size = int64(len(text))
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.WriteString(w, text)
	return err
}

// entries writes the root directory and then what the headers say, without content.
func entries(headers ...tar.Header) func(*tar.Writer, io.Writer) error {
	return func(w *tar.Writer, _ io.Writer) error {
		if err := add(w, &tar.Header{Name: "data/", Typeflag: tar.TypeDir}, ""); err != nil {
			return err
		}
		for _, h := range headers {
			if err := add(w, &h, ""); err != nil {
				return err
			}
		}
		return nil
	}
}

func dir(name string) tar.Header     { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
func regular(name string) tar.Header { return tar.Header{Name: name} }
func symlink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
}
func hardlink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}
}

// sparse writes a file with this map, of stored bytes, that claims a size.
func sparse(text string, blocks int, size, stored int64) func(*tar.Writer, io.Writer) error {
	return func(w *tar.Writer, under io.Writer) error {
		if err := entries()(w, under); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		// archive/tar does not write these records, but records of the same length.
		var block bytes.Buffer
		inner := tar.NewWriter(&block)
		err := add(inner, &tar.Header{Name: "data/file", Format: tar.FormatPAX, PAXRecords: map[string]string{
			"GNU_sparse.name": "data/file", "GNU_sparse.size": strconv.FormatInt(size, 10), "GNU_sparse.numblocks": strconv.Itoa(blocks), "GNU_sparse.map": text,
			"Size": strconv.FormatInt(stored, 10),
		}}, strings.Repeat("s", int(stored)))
		if err != nil {
			return err
		}
		if err := inner.Flush(); err != nil {
			return err
		}
		patched := bytes.ReplaceAll(block.Bytes(), []byte("GNU_sparse."), []byte("GNU.sparse."))
		_, err = under.Write(bytes.ReplaceAll(patched, []byte(" Size="), []byte(" size=")))
		return err
	}
}

// into is an empty directory to unpack in, beside one that must stay empty, and a function that checks that.
func into(t testing.TB) (root *os.Root, untouched func()) {
	t.Helper()
	above := t.TempDir()
	must(t, os.Mkdir(filepath.Join(above, "in"), 0o700), os.Mkdir(filepath.Join(above, "outside"), 0o700))
	root, err := os.OpenRoot(filepath.Join(above, "in"))
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return root, func() {
		t.Helper()
		var found []string
		for _, pattern := range []string{"*", "outside/*"} {
			names, err := filepath.Glob(filepath.Join(above, pattern))
			must(t, err)
			for _, name := range names {
				found = append(found, strings.TrimPrefix(name, above))
			}
		}
		if diff := cmp.Diff([]string{"/in", "/outside"}, found); diff != "" {
			t.Errorf("something was made outside:\n%s", diff)
		}
	}
}

// TestCraftedIsGood makes sure that the archives of these tests are refused for nothing but what is wrong with them.
func TestCraftedIsGood(t *testing.T) {
	testenv.Root(t)
	for name, c := range map[string]crafted{
		"small":    {manifest: counts(4, 0, 0), entries: entries(dir("data/a/"), regular("data/a/b"), hardlink("data/c", "data/a/b"))},
		"sparse":   {manifest: counts(2, 1024, 2), entries: sparse("512,512,4096,512,8192,0", 3, 8192, 1024)},
		"all hole": {manifest: counts(2, 0, 0), entries: sparse("1099511627776,0", 1, 1<<40, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			text := compress(t, c.tar(t))
			if _, err := archive.Verify(t.Context(), bytes.NewReader(text)); err != nil {
				t.Error(err)
			}
			root, untouched := into(t)
			if _, err := archive.Import(t.Context(), bytes.NewReader(text), root, room); err != nil {
				t.Error(err)
			}
			untouched()
		})
	}
}

func TestImportRefuses(t *testing.T) {
	testenv.Root(t)
	long := strings.Repeat("x/", 2100)
	for _, tt := range []struct {
		name  string
		make  crafted
		class func(error) bool
		says  string
	}{
		{"another format", crafted{manifest: func() any { m := counts(1, 0, 0); m.Format = 2; return m }(), entries: entries()}, errdefs.IsNotImplemented, "format 2"},
		{"a manifest that is none", crafted{manifest: 7, entries: entries()}, errdefs.IsInvalidArgument, "manifest"},
		{"a manifest without an end", crafted{manifest: strings.Repeat("x", 1<<20), entries: entries()}, errdefs.IsInvalidArgument, "manifest"},
		{"counts that overflow", crafted{manifest: counts(1<<63, 1<<63, 1<<63), entries: entries()}, errdefs.IsInvalidArgument, "counts"},
		{"a wrong digest", crafted{manifest: counts(1, 0, 0), entries: entries(), digest: strings.Repeat("0", 64) + "\n"}, errdefs.IsDataLoss, "digest"},
		{"a short digest", crafted{manifest: counts(1, 0, 0), entries: entries(), digest: "0\n"}, errdefs.IsDataLoss, "digest"},
		{"an entry after the digest", crafted{manifest: counts(1, 0, 0), entries: entries(), after: func(w *tar.Writer) error {
			return add(w, &tar.Header{Name: "data/late"}, "")
		}}, errdefs.IsDataLoss, "follows"},
		{"bytes after the end", crafted{manifest: counts(1, 0, 0), entries: entries(), trailing: []byte("x")}, errdefs.IsDataLoss, "follows"},
		{"more entries than it says", crafted{manifest: counts(1, 0, 0), entries: entries(regular("data/a"))}, errdefs.IsInvalidArgument, "more than the manifest says"},
		{"fewer entries than it says", crafted{manifest: counts(2, 0, 0), entries: entries()}, errdefs.IsInvalidArgument, "its manifest says"},
		{"more content than it says", crafted{manifest: counts(2, 9, 0), entries: func(w *tar.Writer, u io.Writer) error {
			if err := entries()(w, u); err != nil {
				return err
			}
			return add(w, &tar.Header{Name: "data/a"}, "0123456789")
		}}, errdefs.IsInvalidArgument, "more than the manifest says"},
		{"more headers than entries need", crafted{manifest: counts(2, 0, 0), entries: func(w *tar.Writer, u io.Writer) error {
			if err := entries()(w, u); err != nil {
				return err
			}
			for range 3 {
				// Each stands before a header that never comes.
				if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": strings.Repeat("x", 1<<19)}}); err != nil {
					return err
				}
			}
			return add(w, &tar.Header{Name: "data/a"}, "")
		}}, errdefs.IsInvalidArgument, "GlobalHead"},
		{"a bomb of attributes", crafted{manifest: counts(2, 0, 0), entries: entries(tar.Header{Name: "data/a", PAXRecords: map[string]string{
			"SCHILY.xattr.user.a": strings.Repeat("x", 1<<19),
		}})}, errdefs.IsInvalidArgument, "attributes"},
		{"no root", crafted{manifest: counts(1, 0, 0), entries: func(w *tar.Writer, _ io.Writer) error {
			return add(w, &tar.Header{Name: "data/a"}, "")
		}}, errdefs.IsInvalidArgument, "before its directory"},
		{"a root that is a file", crafted{manifest: counts(1, 0, 0), entries: func(w *tar.Writer, _ io.Writer) error {
			return add(w, &tar.Header{Name: "data"}, "")
		}}, errdefs.IsInvalidArgument, "root"},
		{"a root that is a link", crafted{manifest: counts(1, 0, 0), entries: func(w *tar.Writer, _ io.Writer) error {
			return add(w, &tar.Header{Name: "data", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, "")
		}}, errdefs.IsInvalidArgument, "root"},
		{"two roots", crafted{manifest: counts(2, 0, 0), entries: entries(dir("data/"))}, errdefs.IsInvalidArgument, "second root"},
		{"upward", crafted{manifest: counts(2, 0, 0), entries: entries(regular("data/../outside/a"))}, errdefs.IsInvalidArgument, `".."`},
		{"upward at the end", crafted{manifest: counts(2, 0, 0), entries: entries(dir("data/.."))}, errdefs.IsInvalidArgument, `".."`},
		{"absolute", crafted{manifest: counts(2, 0, 0), entries: entries(regular("/etc/passwd"))}, errdefs.IsInvalidArgument, "not below"},
		{"beside", crafted{manifest: counts(2, 0, 0), entries: entries(regular("outside/a"))}, errdefs.IsInvalidArgument, "not below"},
		{"almost data", crafted{manifest: counts(2, 0, 0), entries: entries(regular("database"))}, errdefs.IsInvalidArgument, "not below"},
		{"nothing between slashes", crafted{manifest: counts(2, 0, 0), entries: entries(regular("data//a"))}, errdefs.IsInvalidArgument, `""`},
		{"a dot", crafted{manifest: counts(2, 0, 0), entries: entries(regular("data/./a"))}, errdefs.IsInvalidArgument, `"."`},
		{"too long", crafted{manifest: counts(2, 0, 0), entries: entries(regular("data/" + long + "a"))}, errdefs.IsInvalidArgument, "too long"},
		{"through a link", crafted{manifest: counts(3, 0, 0), entries: entries(symlink("data/a", "../outside"), regular("data/a/b"))}, errdefs.IsInvalidArgument, "before its directory"},
		{"through a link that was a directory", crafted{manifest: counts(4, 0, 0), entries: entries(dir("data/a/"), symlink("data/a", "../outside"), regular("data/a/b"))},
			errdefs.IsInvalidArgument, ""},
		{"before its directory", crafted{manifest: counts(3, 0, 0), entries: entries(regular("data/a/b"), dir("data/a/"))}, errdefs.IsInvalidArgument, "before its directory"},
		{"below a file", crafted{manifest: counts(3, 0, 0), entries: entries(regular("data/a"), regular("data/a/b"))}, errdefs.IsInvalidArgument, "before its directory"},
		{"a device", crafted{manifest: counts(2, 0, 0), entries: entries(tar.Header{Name: "data/a", Typeflag: tar.TypeChar})}, errdefs.IsInvalidArgument, "type"},
		{"an attribute of another kind", crafted{manifest: counts(2, 0, 0), entries: entries(tar.Header{Name: "data/a", PAXRecords: map[string]string{"SCHILY.xattr.btrfs.compression": "x"}})},
			errdefs.IsInvalidArgument, "attribute"},
		{"an owner below nobody", crafted{manifest: counts(2, 0, 0), entries: entries(tar.Header{Name: "data/a", Uid: 1 << 32})}, errdefs.IsInvalidArgument, "owner"},
		{"pieces out of order", crafted{manifest: counts(2, 1024, 2), entries: sparse("4096,512,0,512", 2, 8192, 1024)}, errdefs.IsDataLoss, "header"},
		{"pieces that overlap", crafted{manifest: counts(2, 1024, 2), entries: sparse("0,512,256,512", 2, 8192, 1024)}, errdefs.IsDataLoss, "header"},
		{"a piece beyond the end", crafted{manifest: counts(2, 512, 1), entries: sparse("8000,512", 1, 8192, 512)}, errdefs.IsDataLoss, "header"},
		{"a piece that overflows", crafted{manifest: counts(2, 512, 1), entries: sparse("9223372036854775800,512", 1, 8192, 512)}, errdefs.IsDataLoss, "header"},
		{"less content than pieces", crafted{manifest: counts(2, 1024, 2), entries: sparse("0,512,4096,512", 2, 8192, 512)}, errdefs.IsInvalidArgument, "content of"},
		{"another number of pieces", crafted{manifest: counts(2, 512, 1), entries: sparse("0,512", 2, 8192, 512)}, errdefs.IsDataLoss, "header"},
		{"a negative size", crafted{manifest: counts(2, 0, 0), entries: sparse("0,0", 1, -1, 0)}, errdefs.IsDataLoss, "header"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := compress(t, tt.make.tar(t))
			if _, err := archive.Verify(t.Context(), bytes.NewReader(text)); !tt.class(err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Verify = %v, want it to say %q", err, tt.says)
			}
			root, untouched := into(t)
			if _, err := archive.Import(t.Context(), bytes.NewReader(text), root, archive.Limits{Bytes: 1 << 63, Entries: 1 << 63}); !tt.class(err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Import = %v, want it to say %q", err, tt.says)
			}
			untouched()
		})
	}
}

// TestImportRefusesWhatOnlyFilesShow has archives whose entries do not go together.
func TestImportRefusesWhatOnlyFilesShow(t *testing.T) {
	testenv.Root(t)
	for name, headers := range map[string][]tar.Header{
		"a file twice":              {regular("data/a"), regular("data/a")},
		"a directory twice":         {dir("data/a/"), dir("data/a/")},
		"a link where a file is":    {regular("data/a"), symlink("data/a", "/etc")},
		"a file where a link is":    {symlink("data/a", "../outside/b"), regular("data/a")},
		"a directory for a link":    {symlink("data/a", "../outside"), dir("data/a/"), regular("data/a/b")},
		"a name of nothing":         {hardlink("data/a", "data/b")},
		"a name of the root":        {hardlink("data/a", "data")},
		"a name of a directory":     {dir("data/b/"), hardlink("data/a", "data/b")},
		"a name through a link":     {symlink("data/b", "/etc"), hardlink("data/a", "data/b/passwd")},
		"a name through a dot link": {symlink("data/b", "."), regular("data/c"), hardlink("data/a", "data/b/c")},
		"a name below a file":       {regular("data/b"), hardlink("data/a", "data/b/c")},
	} {
		t.Run(name, func(t *testing.T) {
			text := compress(t, crafted{manifest: counts(uint64(len(headers)+1), 0, 0), entries: entries(headers...)}.tar(t))
			root, untouched := into(t)
			if _, err := archive.Import(t.Context(), bytes.NewReader(text), root, room); !errdefs.IsInvalidArgument(err) {
				t.Errorf("Import = %v, want an invalid argument", err)
			}
			untouched()
		})
	}
}

// TestNothingElseIsTaken reads what is no archive at all.
func TestNothingElseIsTaken(t *testing.T) {
	testenv.Root(t)
	good := crafted{manifest: counts(1, 0, 0), entries: entries()}.tar(t)
	for _, tt := range []struct {
		name  string
		text  []byte
		class func(error) bool
	}{
		{"nothing", nil, errdefs.IsInvalidArgument},
		{"text", []byte("hello, this is a letter and no archive of any kind"), errdefs.IsInvalidArgument},
		{"a tar that is not compressed", good, errdefs.IsInvalidArgument},
		{"another tar", compress(t, good[blocks(t, good):]), errdefs.IsInvalidArgument},
		{"compressed text", compress(t, bytes.Repeat([]byte("hello "), 1000)), errdefs.IsInvalidArgument},
		{"a stream after it", append(compress(t, good), compress(t, []byte("more"))...), errdefs.IsDataLoss},
		{"bytes after it", append(compress(t, good), "more than that"...), errdefs.IsDataLoss},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := archive.Verify(t.Context(), bytes.NewReader(tt.text)); !tt.class(err) {
				t.Errorf("Verify = %v", err)
			}
		})
	}
}

// blocks is the length of the first entry of a tar.
func blocks(t *testing.T, text []byte) int {
	t.Helper()
	h, err := tar.NewReader(bytes.NewReader(text)).Next()
	must(t, err)
	return 512 + int(h.Size+511)/512*512
}

// TestDamageIsFound cuts an archive short at each byte, and flips a bit of each.
func TestDamageIsFound(t *testing.T) {
	testenv.Root(t)
	text := compress(t, crafted{manifest: counts(5, 1024, 2), entries: func(w *tar.Writer, u io.Writer) error {
		if err := sparse("512,512,4096,512,8192,0", 3, 8192, 1024)(w, u); err != nil {
			return err
		}
		for _, h := range []tar.Header{dir("data/a/"), regular("data/a/b"), symlink("data/a/c", "b")} {
			if err := add(w, &h, ""); err != nil {
				return err
			}
		}
		return nil
	}}.tar(t))
	want, err := archive.Verify(t.Context(), bytes.NewReader(text))
	must(t, err)
	for n := range text {
		if _, err := archive.Verify(t.Context(), bytes.NewReader(text[:n])); n > 0 && !errdefs.IsDataLoss(err) {
			t.Errorf("cut after %d of %d bytes: %v, want data loss", n, len(text), err)
		}
		flipped := bytes.Clone(text)
		flipped[n] ^= 1 << (n % 8)
		if got, err := archive.Verify(t.Context(), bytes.NewReader(flipped)); err == nil && got != want {
			t.Errorf("a bit of byte %d flipped: %+v", n, got)
		}
	}
}
