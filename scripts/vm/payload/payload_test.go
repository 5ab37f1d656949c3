package payload

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPayload(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "data", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"prog": 0o755, "data/a": 0o644, "data/sub/b": 0o600} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "data", "link")); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "payload.tar")
	w, err := Create(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, add := range [][2]string{{"bin/prog", "prog"}, {"src/pkg/testdata", "data"}, {"src/pkg/testdata/a", "data/a"}} {
		if err := w.Add(add[0], filepath.Join(dir, add[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Mkdir("src/other"); err != nil {
		t.Fatal(err)
	}
	if err := w.Add("nothing", filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"bin/ drwxr-xr-x ", "bin/prog -rwxr-xr-x prog", "src/ drwxr-xr-x ", "src/pkg/ drwxr-xr-x ", "src/pkg/testdata/ drwxr-xr-x ",
		"src/pkg/testdata/a -rw-r--r-- data/a", "src/pkg/testdata/link Lrwxrwxrwx a", "src/pkg/testdata/sub/ drwxr-xr-x ",
		"src/pkg/testdata/sub/b -rw------- data/sub/b", "src/other/ drwxr-xr-x ",
	}
	if diff := cmp.Diff(want, list(t, out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// list reads a tar file: name, mode, and content or target of each entry.
func list(t *testing.T, path string) []string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var entries []string
	for r := tar.NewReader(file); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, h.Name+" "+h.FileInfo().Mode().String()+" "+string(text)+h.Linkname)
	}
}
