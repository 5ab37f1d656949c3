package guest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// entry is one of a tar file.
type entry struct {
	kind       byte
	name, text string // the text is a link's goal
	mode       int64
}

// tarred returns a tar file.
func tarred(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Mode: e.mode, Uid: 1234, Gid: 1234}
		if e.kind == tar.TypeReg {
			h.Size = int64(len(e.text))
		} else {
			h.Linkname = e.text
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if e.kind == tar.TypeReg {
			if _, err := w.Write([]byte(e.text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// unpacked unpacks a tar file into a directory that has a neighbour, and returns the names in it with their modes and content.
func unpacked(t *testing.T, archive []byte) (map[string]string, error) {
	t.Helper()
	parent := t.TempDir()
	dir := filepath.Join(parent, "payload")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(parent, "neighbour"), []byte("as it was"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	failed := untar(t.Context(), root, bytes.NewReader(archive))
	found := map[string]string{}
	if err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || name == dir {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += " " + string(data)
		} else if goal, err := os.Readlink(name); err == nil {
			text += " " + goal
		}
		found[strings.TrimPrefix(name, dir+"/")] = text
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(parent, "neighbour")); err != nil || string(text) != "as it was" {
		t.Errorf("outside of the directory: %q, %v", text, err)
	}
	alone(t, parent, "neighbour", "payload")
	return found, failed
}

func TestUntar(t *testing.T) {
	for name, test := range map[string]struct {
		archive []byte
		want    map[string]string
	}{
		"a drive of zeros": {make([]byte, 1<<20), map[string]string{}},
		"nothing":          {nil, map[string]string{}},
		"all kinds": {tarred(t,
			entry{tar.TypeDir, "./", "", 0o755}, entry{tar.TypeDir, "./dir/", "", 0o750}, entry{tar.TypeReg, "./dir/file", "hello", 0o640},
			entry{tar.TypeReg, "program", "x", 0o755}, entry{tar.TypeSymlink, "link", "dir/file", 0o777}, entry{tar.TypeLink, "same", "program", 0}),
			map[string]string{"dir": "drwxr-x---", "dir/file": "-rw-r----- hello", "program": "-rwxr-xr-x x", "link": "Lrwxrwxrwx dir/file", "same": "-rwxr-xr-x x"}},
		"a file without its directory": {tarred(t, entry{tar.TypeReg, "a/b/c", "hello", 0o644}), map[string]string{"a": "drwxr-xr-x", "a/b": "drwxr-xr-x", "a/b/c": "-rw-r--r-- hello"}},
		"a directory behind its file":  {tarred(t, entry{tar.TypeReg, "a/b", "hello", 0o644}, entry{tar.TypeDir, "a", "", 0o700}), map[string]string{"a": "drwx------", "a/b": "-rw-r--r-- hello"}},
		"a file twice":                 {tarred(t, entry{tar.TypeReg, "a", "a longer one", 0o600}, entry{tar.TypeReg, "a", "short", 0o644}), map[string]string{"a": "-rw-r--r-- short"}},
		"for all to write":             {tarred(t, entry{tar.TypeReg, "a", "", 0o666}, entry{tar.TypeDir, "b", "", 0o777}), map[string]string{"a": "-rw-rw-rw- ", "b": "drwxrwxrwx"}},
		"what lies behind the end":     {append(tarred(t, entry{tar.TypeReg, "a", "", 0o644}), bytes.Repeat([]byte("rubbish "), 1000)...), map[string]string{"a": "-rw-r--r-- "}},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := unpacked(t, test.archive)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, found); diff != "" {
				t.Errorf("unpacked (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUntarRefuses(t *testing.T) {
	whole := tarred(t, entry{tar.TypeReg, "file", strings.Repeat("x", 5000), 0o644})
	for name, test := range map[string]struct {
		archive []byte
		text    string
	}{
		"a name that leads out":          {tarred(t, entry{tar.TypeReg, "../neighbour", "x", 0o644}), "../neighbour"},
		"an absolute name":               {tarred(t, entry{tar.TypeReg, "/tmp/absolute", "x", 0o644}), "/tmp/absolute"},
		"a way through a link":           {tarred(t, entry{tar.TypeSymlink, "out", "..", 0o777}, entry{tar.TypeReg, "out/neighbour", "x", 0o644}), "out/neighbour"},
		"a link over a link":             {tarred(t, entry{tar.TypeSymlink, "out", "../neighbour", 0o777}, entry{tar.TypeReg, "out", "x", 0o644}), "out"},
		"a hard link to what is outside": {tarred(t, entry{tar.TypeLink, "same", "../neighbour", 0}), "same"},
		"a FIFO":                         {tarred(t, entry{tar.TypeFifo, "fifo", "", 0o644}), "want a directory, a file or a link"},
		"a device":                       {tarred(t, entry{tar.TypeChar, "null", "", 0o644}), "want a directory, a file or a link"},
		"half of a file":                 {whole[:1024], "file"},
		"no tar file":                    {bytes.Repeat([]byte("rubbish "), 1000), "read tar file"},
	} {
		t.Run(name, func(t *testing.T) {
			if found, err := unpacked(t, test.archive); err == nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v and %v, want an error about %q", found, err, test.text)
			}
		})
	}
	t.Run("when its context has ended", func(t *testing.T) {
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		why := errors.New("too late")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		if err := untar(ctx, root, bytes.NewReader(whole)); !errors.Is(err, why) {
			t.Errorf("got %v, want the context's cause", err)
		}
	})
}
