package waydroid_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/image/waydroid"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/ext4test"
)

// image makes an ext4 image of a tree.
func image(t *testing.T, tree ext4test.Tree) string {
	t.Helper()
	dir := t.TempDir()
	tree.Fill(t, dir)
	return ext4test.Image(t, dir, 24<<20, "-O", "^has_journal")
}

// spool takes an image from a file.
func spool(t *testing.T, name, path string) *waydroid.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file, err := waydroid.Spool(t.TempDir(), name, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// open opens a pair of images.
func open(t *testing.T, system, vendor ext4test.Tree) (*waydroid.Images, error) {
	t.Helper()
	return waydroid.Open(spool(t, waydroid.SystemName, image(t, system)), spool(t, waydroid.VendorName, image(t, vendor)))
}

func TestOpenReadsWhatTheImagesSay(t *testing.T) {
	for _, arch := range []string{"arm64", "amd64"} {
		m, err := open(t, ext4test.System(arch), ext4test.Vendor())
		if err != nil {
			t.Fatal(err)
		}
		if m.Release != "13" || m.SDK != 33 || m.Arch != arch {
			t.Errorf("release %q, SDK %d, architecture %s", m.Release, m.SDK, m.Arch)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	with := func(tree ext4test.Tree, path string, f ext4test.File) ext4test.Tree {
		tree = maps.Clone(tree)
		tree[path] = f
		return tree
	}
	without := func(tree ext4test.Tree, paths ...string) ext4test.Tree {
		tree = maps.Clone(tree)
		for _, path := range paths {
			delete(tree, path)
		}
		return tree
	}
	system, vendor := ext4test.System("arm64"), ext4test.Vendor()
	for _, tt := range []struct {
		name           string
		system, vendor ext4test.Tree
		want           string
	}{
		{"the wrong way round", vendor, system, "the wrong way round"},
		{"no system", vendor, vendor, "system.img: it has no /system/build.prop"},
		{"no vendor", system, ext4test.Tree{"x": {}}, "vendor.img: it has no /build.prop"},
		{"no place for the vendor", without(system, "vendor/"), vendor, "its /vendor is no directory"},
		{"a link in its place", with(without(system, "vendor/"), "vendor", ext4test.File{Link: "/system/vendor"}), vendor, "its /vendor is no directory"},
		{"no version", with(system, "system/build.prop", ext4test.File{Content: []byte("ro.build.version.release=13\n")}), vendor, "ro.build.version.sdk 0"},
		{"a version of nonsense", with(system, "system/build.prop", ext4test.File{Content: []byte("ro.build.version.release=13\nro.build.version.sdk=many\n")}), vendor, "ro.build.version.sdk 0"},
		{"an endless file of properties", with(system, "system/build.prop", ext4test.File{Content: []byte("x"), Size: 2 << 20}), vendor, "is more than 1048576 bytes"},
		{"no init", without(system, "system/bin/init"), vendor, "it has no /system/bin/init"},
		{"init is a script", with(system, "system/bin/init", ext4test.File{Content: []byte("#!/system/bin/sh\nexec something\n")}), vendor, "no ELF program"},
		{"a 32-bit Android", ext4test.System("arm"), vendor, "want a 64-bit Android"},
	} {
		_, err := open(t, tt.system, tt.vendor)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// entry is what a layer holds of a file.
type entry struct {
	Type       byte
	Mode       int64
	UID, GID   int
	Link       string
	Content    string // its digest
	Size, Time int64
	Attrs      string
}

// layer reads a layer back.
func layer(t *testing.T, write func(io.Writer) error) (names []string, all map[string]entry) {
	t.Helper()
	var file bytes.Buffer
	if err := write(&file); err != nil {
		t.Fatal(err)
	}
	all = map[string]entry{}
	for r := tar.NewReader(&file); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, all
		}
		if err != nil {
			t.Fatal(err)
		}
		e := entry{Type: h.Typeflag, Mode: h.Mode, UID: h.Uid, GID: h.Gid, Link: h.Linkname, Size: h.Size, Time: h.ModTime.Unix()}
		if h.Typeflag == tar.TypeReg {
			sum := sha256.New()
			if _, err := io.Copy(sum, r); err != nil {
				t.Fatal(err)
			}
			e.Content = fmt.Sprintf("%x", sum.Sum(nil))
		}
		for _, name := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if attr, ok := strings.CutPrefix(name, "SCHILY.xattr."); ok {
				e.Attrs += attr + "=" + h.PAXRecords[name] + ";"
			}
		}
		names, all[h.Name] = append(names, h.Name), e
	}
}

func content(f ext4test.File) (sum string, size int64) {
	data := append(slices.Clone(f.Content), make([]byte, max(0, int(f.Size)-len(f.Content)))...)
	return fmt.Sprintf("%x", sha256.Sum256(data)), int64(len(data))
}

func TestLayersHoldTheImages(t *testing.T) {
	m, err := open(t, ext4test.System("arm64"), ext4test.Vendor())
	if err != nil {
		t.Fatal(err)
	}
	names, got := layer(t, m.WriteSystem)
	for i, name := range names { // a directory comes before what is in it
		if parent := filepath.Dir(strings.TrimSuffix(name, "/")); parent != "." && !slices.Contains(names[:i], parent+"/") {
			t.Errorf("%s comes before its directory", name)
		}
	}
	check := func(name string, want entry) {
		t.Helper()
		have, ok := got[name]
		if want.Time == 0 {
			want.Time = have.Time
		}
		if diff := cmp.Diff(want, have); !ok || diff != "" {
			t.Errorf("%s (%v): %s", name, ok, diff)
		}
	}
	system := ext4test.System("arm64")
	regular := func(tree ext4test.Tree, name string, mode int64, gid int, attrs string) entry {
		sum, size := content(tree[name])
		return entry{Type: tar.TypeReg, Mode: mode, GID: gid, Content: sum, Size: size, Attrs: attrs}
	}
	check("system/bin/init", regular(system, "system/bin/init", 0o750, 2000, "security.selinux=u:object_r:init_exec:s0\x00;"))
	check("system/bin/run-as", regular(system, "system/bin/run-as", 0o750, 2000, "security.capability="+ext4test.Capability+";security.selinux=u:object_r:runas_exec:s0\x00;"))
	check("system/fonts/hole", regular(system, "system/fonts/hole", 0o644, 0, ""))
	check("system/lib64/x\u00e9", regular(system, "system/lib64/x\u00e9", 0o644, 0, ""))
	prop := regular(system, "system/build.prop", 0o600, 0, "")
	prop.Time = 1230768000
	check("system/build.prop", prop)
	check("system/bin/cat", entry{Type: tar.TypeSymlink, Mode: 0o777, Link: "toybox"})
	check("init", entry{Type: tar.TypeSymlink, Mode: 0o777, Link: "/system/bin/init"})
	check("data/", entry{Type: tar.TypeDir, Mode: 0o771, UID: 1000, GID: 1000})
	check("vendor/", entry{Type: tar.TypeDir, Mode: 0o755})
	first, second := "system/bin/ls", "system/bin/toybox"
	if got[first].Type == tar.TypeLink {
		first, second = second, first
	}
	check(first, regular(system, "system/bin/toybox", 0o755, 2000, ""))
	check(second, entry{Type: tar.TypeLink, Mode: 0o755, GID: 2000, Link: first})
	if _, ok := got["lost+found/"]; ok || len(got) != 26 {
		t.Errorf("%d files: %q", len(got), names)
	}
	names, got = layer(t, m.WriteVendor)
	check("vendor/", entry{Type: tar.TypeDir, Mode: 0o755})
	check("vendor/bin/hw/composer", regular(ext4test.Vendor(), "bin/hw/composer", 0o755, 2000, ""))
	if names[0] != "vendor/" || slices.Contains(names, "vendor/.wh..wh..opq") {
		t.Errorf("the vendor's files: %q", names)
	}
}

// TestVendorHidesWhatIsBelow has a system with files below /vendor, which a mount would hide.
func TestVendorHidesWhatIsBelow(t *testing.T) {
	system := ext4test.System("arm64")
	system["vendor/left/over"] = ext4test.File{Content: []byte("x")}
	m, err := open(t, system, ext4test.Vendor())
	if err != nil {
		t.Fatal(err)
	}
	if names, _ := layer(t, m.WriteVendor); names[0] != "vendor/" || names[1] != "vendor/.wh..wh..opq" {
		t.Errorf("the vendor's layer begins with %q", names[:2])
	}
}

func TestLayersLeaveOutTheHostsAttributes(t *testing.T) {
	vendor := ext4test.Vendor()
	vendor["etc/attrs"] = ext4test.File{Attrs: map[string]string{"trusted.overlay.opaque": "y", "user.mine": "kept", "security.selinux": "u:object_r:x:s0"}}
	m, err := open(t, ext4test.System("arm64"), vendor)
	if err != nil {
		t.Fatal(err)
	}
	if _, all := layer(t, m.WriteVendor); all["vendor/etc/attrs"].Attrs != "security.selinux=u:object_r:x:s0;user.mine=kept;" {
		t.Errorf("attributes %q", all["vendor/etc/attrs"].Attrs)
	}
}

func TestLayersRefuse(t *testing.T) {
	deep := strings.Repeat("d/", 70) + "f"
	for _, tt := range []struct {
		name, path string
		file       ext4test.File
		want       string
	}{
		{"a name that removes", "etc/.wh.passwd", ext4test.File{}, "/vendor/etc/.wh.passwd: a layer cannot hold the name"},
		{"a device", "etc/null", ext4test.File{Mode: unix.S_IFCHR | 0o666}, "/vendor/etc/null: it is a file of kind"},
		{"a socket", "etc/sock", ext4test.File{Mode: unix.S_IFSOCK | 0o666}, "/vendor/etc/sock: it is a file of kind"},
		{"a deep tree", deep, ext4test.File{}, "directories deep"},
		{"a file of 20 GiB", "etc/huge", ext4test.File{Size: 20 << 30}, "more than 17179869184"},
	} {
		vendor := ext4test.Vendor()
		vendor[tt.path] = tt.file
		m, err := open(t, ext4test.System("arm64"), vendor)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.WriteVendor(io.Discard); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "vendor.img: ") {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestLayersRefuseLoops has a directory contain itself.
func TestLayersRefuseLoops(t *testing.T) {
	path := image(t, ext4test.Vendor())
	if out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "debugfs"), "-w", "-R", "link /etc /etc/again", path).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
	m, err := waydroid.Open(spool(t, waydroid.SystemName, image(t, ext4test.System("arm64"))), spool(t, waydroid.VendorName, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WriteVendor(io.Discard); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "/vendor/etc/again: it is a directory that also is") {
		t.Errorf("%v", err)
	}
}

func TestLayersEndWithTheirWriter(t *testing.T) {
	m, err := open(t, ext4test.System("arm64"), ext4test.Vendor())
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("no room")
	if err := m.WriteSystem(&limited{left: 100_000, err: full}); !errors.Is(err, full) || errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
}

type limited struct {
	left int
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, l.err
	}
	return len(p), nil
}

// TestSpoolTakesBothForms spools an image raw and sparse.
func TestSpoolTakesBothForms(t *testing.T) {
	raw := image(t, ext4test.Vendor())
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{raw, ext4test.Sparse(t, raw)} {
		file := spool(t, waydroid.VendorName, path)
		got := make([]byte, file.Size())
		if _, err := file.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes differ from the image's %d", path, len(got), len(want))
		}
	}
}

// TestSpoolSaysWhatAFileIs gives files that are taken for images, made by the programs that make them.
func TestSpoolSaysWhatAFileIs(t *testing.T) {
	dir, tree := t.TempDir(), t.TempDir()
	ext4test.Vendor().Fill(t, tree)
	make := func(name string, args ...string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".in", bytes.Repeat([]byte("some text "), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		script := strings.Join(args, " ") // of this test's own making
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
		cmd.Env = append(os.Environ(), "OUT="+path, "IN="+path+".in", "TREE="+tree, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		testenv.Tool(t, args[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
		return path
	}
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	super := append(bytes.Repeat([]byte{0}, 4096), []byte("gDla")...)
	for path, want := range map[string]string{
		make("gzip", "gzip", "-c", "$IN", ">$OUT"):                                     "gzip: decompress it first",
		make("xz", "xz", "-c", "$IN", ">$OUT"):                                         "xz: decompress",
		make("zstd", "zstd", "-q", "-c", "$IN", ">$OUT"):                               "zstd: decompress",
		make("tar", "tar", "-C", "$TREE", "-cf", "$OUT", "."):                          "a tar archive",
		make("squashfs", "mksquashfs", "$TREE", "$OUT", "-quiet"):                      "a squashfs image",
		make("erofs", "mkfs.erofs", "$OUT", "$TREE"):                                   "an erofs image",
		make("f2fs", "truncate", "-s", "64M", "$OUT", "&&", "mkfs.f2fs", "-q", "$OUT"): "an f2fs image",
		write("zip", []byte("PK\x03\x04rest")):                                         "a zip archive: unpack it first",
		write("empty", nil):                                                            "an empty file",
		write("zeros", bytes.Repeat([]byte{0}, 1<<20)):                                 "zeros for its first 8192 bytes",
		write("boot", []byte("ANDROID!")):                                              "an Android boot image",
		write("payload", []byte("CrAU")):                                               "update payload",
		write("super", super):                                                          "super partition",
		write("page", []byte("<!DOCTYPE html><html>")):                                 "an HTML page",
		write("program", ext4test.Program("arm64")):                                    "an ELF program",
		write("what", []byte("hello world")):                                           "begins with 68656c6c6f20776f",
	} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = waydroid.Spool(t.TempDir(), waydroid.SystemName, f, nil)
		f.Close()
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "system.img: ") {
			t.Errorf("%s: %v, want %q", filepath.Base(path), err, want)
		}
	}
}

// TestSpoolLeavesNothing looks into the directory while an image is taken, and after it was not.
func TestSpoolLeavesNothing(t *testing.T) {
	raw, err := os.ReadFile(image(t, ext4test.Vendor()))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	gone, full := errors.New("the caller left"), errors.New("the disk is low")
	asked := 0
	for name, tt := range map[string]struct {
		src  io.Reader
		room func() error
		want error
	}{
		"whole":           {bytes.NewReader(raw), func() error { asked++; return nil }, nil},
		"the caller left": {io.MultiReader(bytes.NewReader(raw[:len(raw)/2]), iotest.ErrReader(gone)), nil, gone},
		"no room":         {bytes.NewReader(raw), func() error { return full }, full},
	} {
		file, err := waydroid.Spool(dir, waydroid.VendorName, tt.src, tt.room)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 0 {
			t.Errorf("%s: %v is left", name, entries)
		}
		if err == nil {
			file.Close()
		}
	}
	if asked == 0 {
		t.Error("it was never asked for room")
	}
}
