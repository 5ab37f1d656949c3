package preinstalled

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/testenv/ext4test"
	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// entry is a file of an archive.
type entry struct {
	name   string
	data   []byte
	method uint16
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, e := range entries {
		w, err := z.CreateHeader(&zip.FileHeader{Name: e.name, Method: e.method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// payload is the file system of an APEX with APKs, by their paths, and files.
func (i *image) payload(apks map[string]string, files ext4test.Tree) []byte {
	i.t.Helper()
	tree := ext4test.Tree{"apex_manifest.pb": {Content: []byte("\n\x10com.android.some")}, "etc/permissions/some.xml": {Content: []byte("<permissions/>")}}
	for name, pkg := range apks {
		data, err := apkmake.Make(apkmake.App{Package: pkg, VersionCode: 1}, i.key)
		if err != nil {
			i.t.Fatal(err)
		}
		tree[name] = ext4test.File{Content: data}
	}
	for name, f := range files {
		tree[name] = f
	}
	dir := i.t.TempDir()
	tree.Fill(i.t, dir)
	data, err := os.ReadFile(ext4test.Image(i.t, dir, 2<<20, "-O", "^has_journal", "-b", "4096"))
	if err != nil {
		i.t.Fatal(err)
	}
	return data
}

// apex is an APEX as apexer makes it, with a file system.
func apex(t testing.TB, payload []byte) []byte {
	return archive(t, entry{"apex_manifest.pb", []byte("\n\x10com.android.some"), zip.Store}, entry{"AndroidManifest.xml", []byte("axml"), zip.Deflate},
		entry{payloadName, payload, zip.Store}, entry{"apex_pubkey", []byte("key"), zip.Deflate})
}

// TestPackedAPEX reads packages from APEXes that are packed, and from those that are compressed too.
func TestPackedAPEX(t *testing.T) {
	i := newImage(t)
	i.write("system/apex/com.android.permission.apex", apex(t, i.payload(map[string]string{
		"priv-app/PermissionController/PermissionController.apk": "com.android.permissioncontroller",
		"app/Flat.apk":            "com.android.flat",
		"overlay/Some/Some.apk":   "com.android.overlay",
		"javalib/Other/Other.apk": "com.android.elsewhere",
		"app/Deep/er/Deep.apk":    "com.android.deep",
	}, ext4test.Tree{
		"app/Link/Link.apk": {Mode: 0o120777, Link: "/priv-app/PermissionController/PermissionController.apk"},
		"app/Bad/Bad.apk":   {Content: []byte("no archive")}, "app/Other/Other.txt": {Content: []byte("text")},
	})))
	inner := apex(t, i.payload(map[string]string{"app/Tethering/Tethering.apk": "com.android.tethering"}, nil))
	i.write("system_ext/apex/com.android.tethering.capex", archive(t, entry{"apex_manifest.pb", nil, zip.Store}, entry{compressedName, inner, zip.Deflate}))
	found, log := i.want("com.android.flat", "com.android.overlay", "com.android.permissioncontroller", "com.android.tethering")
	if found.UnreadAPEX {
		t.Errorf("there are APEXes that could not be read: %s", log)
	}
	if strings.Count(log, "\n") != 1 || !strings.Contains(log, "com.android.permission.apex!/app/Bad/Bad.apk") {
		t.Errorf("logged %q, want a line about the bad APK", log)
	}
}

// TestHostileAPEX has APEXes that cannot be read: each is noted and logged with its reason, and what is in the others is found.
func TestHostileAPEX(t *testing.T) {
	i := newImage(t)
	good := i.payload(map[string]string{"app/Some/Some.apk": "com.android.some"}, nil)
	cut := bytes.Clone(apex(t, good))
	var many []entry
	for n := range 20000 {
		many = append(many, entry{fmt.Sprintf("a-file-of-this-archive-with-a-long-name-%d", n), nil, zip.Store})
	}
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":              {nil, "no APEX"},
		"no archive":         {[]byte("text, and no archive"), "no APEX"},
		"cut off":            {cut[:len(cut)-30], "no APEX"},
		"without a payload":  {archive(t, entry{"apex_manifest.pb", nil, zip.Store}), "neither"},
		"compressed payload": {archive(t, entry{payloadName, good, zip.Deflate}), "is compressed"},
		"other file system":  {apex(t, bytes.Repeat([]byte{0xe2, 0xe1, 0xf5, 0xe0}, 4096)), "no superblock"},
		"half a file system": {apex(t, good[:len(good)/2]), "cut off"},
		"twice the same":     {archive(t, entry{payloadName, good, zip.Store}, entry{payloadName, good, zip.Store}), "twice"},
		"compressed twice": {archive(t, entry{compressedName, archive(t, entry{compressedName, apex(t, good), zip.Deflate}), zip.Deflate}),
			"neither"},
		"many files": {archive(t, many...), "its directory has more than"},
	} {
		t.Run(name, func(t *testing.T) {
			i := &image{t, t.TempDir(), i.key}
			i.write("system/apex/a.apex", test.data)
			i.write("system/apex/b.apex", apex(t, good))
			found, log := i.want("com.android.some")
			if !found.UnreadAPEX || strings.Count(log, "\n") != 1 || !strings.Contains(log, test.want) || !strings.Contains(log, "system/apex/a.apex") {
				t.Errorf("unread %t, logged %q, want %q", found.UnreadAPEX, log, test.want)
			}
		})
	}
}

// TestUnpacking has compressed APEXes share what may be unpacked, ends the reading when the disk has no room, and leaves nothing behind.
func TestUnpacking(t *testing.T) {
	i := newImage(t)
	one := apex(t, i.payload(map[string]string{"app/A/A.apk": "com.a"}, nil))
	for _, name := range []string{"a", "b"} {
		i.write("system/apex/"+name+".capex", archive(t, entry{compressedName, one, zip.Deflate}))
	}
	root, err := os.Open(i.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	dir, logger, size := t.TempDir(), slog.New(slog.DiscardHandler), int64(len(one))
	for _, test := range []struct {
		most   int64
		unread bool
	}{{2 * size, false}, {2*size - 1, true}} {
		found, err := read(t.Context(), root, Spool{Dir: dir}, logger, bounds{entries: 100, apks: 10, unpacked: test.most})
		if err != nil || !found.Names["com.a"] || found.UnreadAPEX != test.unread {
			t.Errorf("%d bytes may be unpacked: %+v, %v; unread %t is wanted", test.most, found, err, test.unread)
		}
	}
	full := errors.New("no room")
	if _, err := Read(t.Context(), root, Spool{Dir: dir, Room: func() error { return full }}, logger); !errors.Is(err, full) {
		t.Errorf("on a full disk: %v", err)
	}
	if _, err := Read(t.Context(), root, Spool{Dir: filepath.Join(dir, "none")}, logger); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the directory: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestAPEXWithinTheBounds counts what is in packed APEXes like all else.
func TestAPEXWithinTheBounds(t *testing.T) {
	i := newImage(t)
	i.write("system/apex/a.apex", apex(t, i.payload(map[string]string{"app/A/A.apk": "com.a", "app/B/B.apk": "com.b"}, nil)))
	for name, test := range map[string]struct {
		most bounds
		want string
	}{
		"entries": {bounds{entries: 4, apks: 10, unpacked: maxUnpacked}, "more than 4 files"},
		"APKs":    {bounds{entries: 100, apks: 1, unpacked: maxUnpacked}, "more than 1 APKs"},
	} {
		root, err := os.Open(i.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if _, err := read(t.Context(), root, Spool{Dir: t.TempDir()}, slog.New(slog.DiscardHandler), test.most); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	// Unpacking ends when it is to be given up in the middle.
	zeros := filepath.Join(i.dir, "system/apex/zeros.capex")
	if err := os.WriteFile(zeros, archive(t, entry{compressedName, make([]byte, 64<<20), zip.Deflate}), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := &fading{t.Context(), 100}
	if _, _, err := i.read(ctx); !errors.Is(err, context.Canceled) || ctx.left < -2 {
		t.Errorf("given up: %v, after it was asked %d times in vain", err, -ctx.left)
	}
}

// fading is a context that ends when it has been asked so often.
type fading struct {
	context.Context
	left int
}

func (f *fading) Err() error {
	if f.left--; f.left < 0 {
		return context.Canceled
	}
	return nil
}
