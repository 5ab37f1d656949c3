package preinstalled

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// image is the root directory of an image that a test makes.
type image struct {
	t   *testing.T
	dir string
	key *apkmake.Key
}

func newImage(t *testing.T) *image {
	t.Helper()
	key, err := apkmake.NewKey("platform")
	if err != nil {
		t.Fatal(err)
	}
	return &image{t, t.TempDir(), key}
}

// path is a path of the image, whose directory is there.
func (i *image) path(name string) string {
	i.t.Helper()
	path := filepath.Join(i.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		i.t.Fatal(err)
	}
	return path
}

func (i *image) write(name string, data []byte) {
	i.t.Helper()
	if err := os.WriteFile(i.path(name), data, 0o600); err != nil {
		i.t.Fatal(err)
	}
}

func (i *image) apk(name, pkg string) {
	i.t.Helper()
	data, err := apkmake.Make(apkmake.App{Package: pkg, VersionCode: 1}, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	i.write(name, data)
}

func (i *image) link(name, target string) {
	i.t.Helper()
	if err := os.Symlink(target, i.path(name)); err != nil {
		i.t.Fatal(err)
	}
}

// read reads the image, and returns what was logged too.
func (i *image) read(ctx context.Context) (Packages, string, error) {
	i.t.Helper()
	root, err := os.Open(i.dir)
	if err != nil {
		i.t.Fatal(err)
	}
	defer root.Close()
	var log bytes.Buffer
	found, err := Read(ctx, root, Spool{Dir: i.t.TempDir()}, slog.New(slog.NewTextHandler(&log, nil)))
	return found, log.String(), err
}

// want reads the image and compares the names.
func (i *image) want(names ...string) (found Packages, log string) {
	i.t.Helper()
	found, log, err := i.read(i.t.Context())
	if err != nil {
		i.t.Fatal(err)
	}
	if diff := cmp.Diff(names, slices.Sorted(maps.Keys(found.Names))); diff != "" {
		i.t.Error(diff)
	}
	return found, log
}

// TestPlaces puts packages where Android looks for them, and where it does not.
func TestPlaces(t *testing.T) {
	i := newImage(t)
	var want []string
	for n, partition := range partitions {
		for _, dir := range appDirs {
			pkg := fmt.Sprintf("com.p%d.%s", n, strings.ReplaceAll(dir, "-", "_"))
			i.apk(filepath.Join(partition, dir, "Some", "Some.apk"), pkg)
			i.apk(filepath.Join(partition, dir, "Flat.apk"), pkg+".flat")
			i.apk(filepath.Join(partition, "apex/com.android.some", dir, "Some/Some.apk"), pkg+".apex")
			want = append(want, pkg, pkg+".apex", pkg+".flat")
		}
	}
	i.apk("system/framework/framework-res.apk", "android")
	want = append(want, "android")
	for n, name := range []string{
		"system/Some.apk", "system/app/Some/deeper/Some.apk", "system/app/Some/Some.apk.gz", "system/framework/Some/Some.apk", "vendor/framework/some.apk",
		"data/app/Some/Some.apk", "system/apex/Some.apk", "system/apex/com.android.some/Some.apk", "app/Some/Some.apk", "system/preload/Some/Some.apk",
	} {
		i.apk(name, fmt.Sprintf("com.elsewhere.x%d", n))
	}
	slices.Sort(want)
	if found, log := i.want(want...); found.UnreadAPEX || log != "" {
		t.Errorf("packed %t, logged %q", found.UnreadAPEX, log)
	}
}

// TestSplits has several APKs of a package, as clusters do.
func TestSplits(t *testing.T) {
	i := newImage(t)
	i.apk("product/app/Some/base.apk", "com.some")
	i.apk("product/app/Some/split_x.apk", "com.some")
	i.apk("product/app/Some/split_y.apk", "com.some")
	i.want("com.some")
}

// TestNothing reads images without packages.
func TestNothing(t *testing.T) {
	i := newImage(t)
	i.want()
	i.write("system", []byte("a file"))
	i.link("product", "product")
	i.want()
}

// TestDamaged has APKs that cannot be read: they bring nothing, and the others do.
func TestDamaged(t *testing.T) {
	i := newImage(t)
	i.apk("system/app/Good/Good.apk", "com.good")
	i.apk("system/app/Bad/Bad.apk", "bad")
	i.write("system/app/Empty/Empty.apk", nil)
	i.write("system/app/Text/Text.apk", []byte("no APK"))
	if err := os.WriteFile(i.path("system/app/Sparse/Sparse.apk"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(i.path("system/app/Sparse/Sparse.apk"), 1<<40); err != nil {
		t.Fatal(err)
	}
	_, log := i.want("com.good")
	for _, name := range []string{"Bad", "Empty", "Text", "Sparse"} {
		if !strings.Contains(log, "system/app/"+name+"/"+name+".apk") {
			t.Errorf("nothing is logged of %s: %s", name, log)
		}
	}
}

// TestLinks follows links as the guest would: those in the image, from the image's root, and none out of it.
func TestLinks(t *testing.T) {
	outside := newImage(t)
	outside.apk("app/Secret/Secret.apk", "com.secret")
	i := newImage(t)
	i.apk("somewhere/else.apk", "com.linked")
	i.apk("real/vendor/app/Some/Some.apk", "com.vendor")
	i.link("vendor", "/real/vendor")
	i.link("system/vendor", "../vendor") // the same again
	i.link("system/app/Linked/Linked.apk", "/somewhere/else.apk")
	for name, target := range map[string]string{
		"product": outside.dir, "odm": strings.Repeat("../", 40) + outside.dir, "system/priv-app/Secret": outside.dir + "/app/Secret",
		"system/priv-app/File/File.apk": outside.dir + "/app/Secret/Secret.apk", "system/priv-app/Nowhere/x.apk": "nowhere",
		"system/priv-app/Loop/Loop.apk": "Loop.apk", "system/priv-app/Dir.apk": "/proc/self/root" + outside.dir + "/app/Secret",
	} {
		i.link(name, target)
	}
	i.want("com.linked", "com.vendor")
}

// TestNoFiles has what does something, or waits, when it is opened.
func TestNoFiles(t *testing.T) {
	i := newImage(t)
	i.apk("system/app/Good/Good.apk", "com.good")
	if err := unix.Mkfifo(i.path("system/app/Pipe/Pipe.apk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(i.path("system/priv-app"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(i.path("system/app/Device/Device.apk"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 9))); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	i.link("system/app/Zero/Zero.apk", "/dev/zero")
	i.want("com.good")
}

// TestBounds has just as much as is looked at, and more.
func TestBounds(t *testing.T) {
	i := newImage(t)
	i.apk("system/app/Some/Some.apk", "com.some")
	i.apk("system/app/More/More.apk", "com.more")
	i.write("system/app/More/more.so", nil)
	root, err := os.Open(i.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, tt := range []struct {
		bounds
		refused string
	}{{bounds{5, 2, 0}, ""}, {bounds{4, 2, 0}, "more than 4 files and directories"}, {bounds{5, 1, 0}, "more than 1 APKs"}} {
		found, err := read(t.Context(), root, Spool{Dir: t.TempDir()}, slog.New(slog.DiscardHandler), tt.bounds)
		if tt.refused == "" && (err != nil || len(found.Names) != 2) {
			t.Errorf("%+v: %v, %v", tt.bounds, found, err)
		}
		if tt.refused != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.refused)) {
			t.Errorf("%+v: %v, want an invalid argument with %q", tt.bounds, err, tt.refused)
		}
	}
}

// TestEnd gives up when nobody waits any more.
func TestEnd(t *testing.T) {
	i := newImage(t)
	i.apk("system/app/Good/Good.apk", "com.good")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := i.read(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
