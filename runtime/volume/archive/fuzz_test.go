package archive_test

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// FuzzImport has anything between the manifest and the digest, which are right: whatever is in an archive, nothing is made outside the
// directory that it is unpacked in, and no more than it says in there.
func FuzzImport(f *testing.F) {
	seed := func(write func(w *tar.Writer, under io.Writer) error) {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		must(f, write(w, &out), w.Flush())
		f.Add(out.Bytes())
	}
	seed(entries(dir("data/a/"), regular("data/a/b"), hardlink("data/c", "data/a/b"), symlink("data/d", "../outside")))
	seed(entries(tar.Header{Name: "data/fifo", Typeflag: tar.TypeFifo, PAXRecords: map[string]string{"SCHILY.xattr.trusted.a": "x", "mtime": "-1.5"}}))
	seed(sparse("512,512,4096,512,8192,0", 3, 8192, 1024))
	seed(entries(symlink("data/a", ".."), regular("data/a/outside")))
	limits := archive.Limits{Bytes: 1 << 20, Entries: 100}
	f.Fuzz(func(t *testing.T, text []byte) {
		whole := crafted{manifest: counts(limits.Entries, limits.Bytes, 100), entries: func(_ *tar.Writer, under io.Writer) error {
			_, err := under.Write(text)
			return err
		}}.tar(t)
		root, untouched := into(t)
		_, err := archive.Import(t.Context(), bytes.NewReader(compress(t, whole)), root, limits)
		untouched()
		// The manifest's counts are hardly ever met; what matters is what there is now.
		files, allocated := 0, int64(0)
		must(t, filepath.WalkDir(root.Name(), func(_ string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			files++
			if err == nil && entry.Type().IsRegular() {
				allocated += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
			return err
		}))
		if files > int(limits.Entries) || allocated > int64(limits.Bytes)+4096*int64(limits.Entries) {
			t.Errorf("%d files with %d bytes were made: %v", files, allocated, err)
		}
	})
}

// FuzzStream has any bytes for a stream. Most are no zstd; those that are read the same twice.
func FuzzStream(f *testing.F) {
	good := compress(f, crafted{manifest: counts(2, 1024, 2), entries: sparse("512,512,4096,512,8192,0", 3, 8192, 1024)}.tar(f))
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("no archive"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := archive.Verify(t.Context(), bytes.NewReader(text))
		if err != nil {
			return
		}
		if again, err := archive.ReadManifest(bytes.NewReader(text)); err != nil || again != m {
			t.Errorf("ReadManifest = %+v, %v, and Verify %+v", again, err, m)
		}
	})
}

// FuzzRoundTrip has any name, target, attribute and content.
func FuzzRoundTrip(f *testing.F) {
	f.Add("name", "target", "attribute", "value", []byte("content"), int64(0))
	f.Add("\xff", "/\xfe", "a=b%3D%", "\x00", []byte{}, int64(5000))
	f.Fuzz(func(t *testing.T, name, target, attribute, value string, text []byte, hole int64) {
		from, path := plain(t)
		if hole < 0 || hole > 1<<40 || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			t.Skip()
		}
		file, err := from.Create(name)
		if err != nil {
			t.Skip(err)
		}
		_, err = file.WriteAt(text, hole)
		must(t, err, file.Close())
		_ = os.Symlink(target, path+"/a link")                                 // not every target can be
		_ = unix.Lsetxattr(path+"/"+name, "user."+attribute, []byte(value), 0) // nor every attribute
		packed, m := export(t, from)
		to, other := plain(t)
		if got, err := archive.Import(t.Context(), bytes.NewReader(packed), to, archive.Limits{Bytes: m.Bytes, Entries: m.Entries}); err != nil || got != m {
			t.Fatalf("Import = %+v, %v; want %+v", got, err, m)
		}
		if diff := cmp.Diff(tree(t, path), tree(t, other)); diff != "" {
			t.Errorf("-exported +imported:\n%s", diff)
		}
	})
}
