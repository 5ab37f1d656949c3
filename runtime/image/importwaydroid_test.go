package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv/ext4test"
)

// pair makes the two images of a small Waydroid for an architecture and returns their contents, the system's raw and the vendor's sparse.
func pair(t *testing.T, arch string) (system, vendor []byte) {
	t.Helper()
	make := func(tree ext4test.Tree, sparse bool) []byte {
		dir := t.TempDir()
		tree.Fill(t, dir)
		path := ext4test.Image(t, dir, 24<<20)
		if sparse {
			path = ext4test.Sparse(t, path)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	return make(ext4test.System(arch), false), make(ext4test.Vendor(), true)
}

// noIngests checks that no content is under way.
func noIngests(t *testing.T, client *containerd.Client) {
	t.Helper()
	if list, err := client.ContentStore().ListStatuses(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("content is under way: %+v, %v", list, err)
	}
}

func TestImportWaydroid(t *testing.T) {
	s, client := newStore(t)
	system, vendor := pair(t, runtime.GOARCH)
	dir := t.TempDir()
	bring := func() Image {
		t.Helper()
		img, err := s.ImportWaydroid(t.Context(), "phonehost.dev/waydroid:20", Waydroid{System: bytes.NewReader(system), Vendor: bytes.NewReader(vendor), Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	img := bring()
	if img.Name != "phonehost.dev/waydroid:20" || img.Profile != "waydroid" || img.AndroidRelease != "13" || img.AndroidSDK != 33 || img.Platforms[0] != "linux/"+runtime.GOARCH {
		t.Errorf("imported %+v", img)
	}
	if listed, err := s.Get(t.Context(), img.Name); err != nil || listed.Digest != img.Digest || listed.AndroidSDK != 33 {
		t.Errorf("listed as %+v, %v", listed, err)
	}
	root := rootOf(t, client, img.Name)
	checkRoot(t, root)
	if again := bring(); again.Digest != img.Digest {
		t.Errorf("the same images again are %s, before %s", again.Digest, img.Digest)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left where the images were kept: %v", entries)
	}
	noIngests(t, client)
	if err := s.Remove(t.Context(), img.Name); err != nil {
		t.Fatal(err)
	}
}

// rootOf mounts an image's files as a guest would get them and returns the directory.
func rootOf(t *testing.T, client *containerd.Client, name string) string {
	t.Helper()
	ctx := t.Context()
	img, err := client.GetImage(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.RootFS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sn := client.SnapshotService("overlayfs")
	keep := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
	mounts, err := sn.View(ctx, "look-at-waydroid", identity.ChainID(layers).String(), keep)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountAll(dir, 0); err != nil {
			t.Error(err)
		}
		if err := sn.Remove(context.Background(), "look-at-waydroid"); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// checkRoot looks whether files are where and whose they should be.
func checkRoot(t *testing.T, root string) {
	t.Helper()
	for path, want := range map[string]struct {
		mode     uint32
		uid, gid uint32
		size     int64
	}{
		"system/bin/init":          {unix.S_IFREG | 0o750, 0, 2000, int64(len(ext4test.Program(runtime.GOARCH)))},
		"system/bin/ls":            {unix.S_IFREG | 0o755, 0, 2000, 180000},
		"system/fonts/hole":        {unix.S_IFREG | 0o644, 0, 0, 3 << 20},
		"data":                     {unix.S_IFDIR | 0o771, 1000, 1000, -1},
		"init":                     {unix.S_IFLNK | 0o777, 0, 0, 16},
		"vendor/build.prop":        {unix.S_IFREG | 0o600, 0, 0, 31},
		"vendor/lib64/egl/libx.so": {unix.S_IFREG | 0o644, 0, 0, 15000},
		"vendor/bin/hw/composer":   {unix.S_IFREG | 0o755, 0, 2000, 8},
		"vendor/waydroid.prop":     {unix.S_IFREG | 0o644, 0, 0, 20},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, path), &st); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid || want.size >= 0 && st.Size != want.size {
			t.Errorf("%s: mode %o, owner %d:%d, %d bytes, want %+v", path, st.Mode, st.Uid, st.Gid, st.Size, want)
		}
	}
	for name, want := range map[string]string{"security.capability": ext4test.Capability, "security.selinux": "u:object_r:runas_exec:s0\x00"} {
		value := make([]byte, 256)
		n, err := unix.Lgetxattr(filepath.Join(root, "system/bin/run-as"), name, value)
		if err != nil || string(value[:n]) != want {
			t.Errorf("run-as has %s %q, %v, want %q", name, value[:max(n, 0)], err, want)
		}
	}
}

func TestImportWaydroidRefuses(t *testing.T) {
	s, client := newStore(t)
	system, vendor := pair(t, runtime.GOARCH)
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	foreign, _ := pair(t, other)
	damaged := bytes.Clone(system)
	for at := 1 << 20; at < len(damaged); at++ { // the superblock is whole
		damaged[at] ^= 0x55
	}
	gone, low := errors.New("the caller is gone"), errors.New("the disk is low")
	asked := 0
	for _, tt := range []struct {
		name, as       string
		system, vendor io.Reader
		room           func() error
		is             error
		want           string
	}{
		{"swapped", "a", bytes.NewReader(vendor), bytes.NewReader(system), nil, nil, "the wrong way round"},
		{"one image twice", "a", bytes.NewReader(system), bytes.NewReader(system), nil, nil, "vendor.img: it has no /build.prop"},
		{"another processor", "a", bytes.NewReader(foreign), bytes.NewReader(vendor), nil, nil, "system.img is for " + other},
		{"no image", "a", strings.NewReader("PK\x03\x04"), bytes.NewReader(vendor), nil, nil, "system.img: want an ext4 image, raw or sparse, but this is a zip archive"},
		{"cut off", "a", bytes.NewReader(system), bytes.NewReader(vendor[:len(vendor)/2]), nil, nil, "vendor.img: "},
		{"damaged", "a", bytes.NewReader(damaged), bytes.NewReader(vendor), nil, nil, "system.img: "},
		{"a bad name", "UPPER CASE", nil, nil, nil, nil, "UPPER CASE"},
		{"the caller left", "a", bytes.NewReader(system), io.MultiReader(bytes.NewReader(vendor[:5000]), errorReader{gone}), nil, gone, "the caller is gone"},
		{"no room", "a", bytes.NewReader(system), bytes.NewReader(vendor), func() error {
			if asked++; asked > 1 {
				return low
			}
			return nil
		}, low, "the disk is low"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := s.ImportWaydroid(t.Context(), tt.as, Waydroid{System: tt.system, Vendor: tt.vendor, Dir: dir, Room: tt.room})
			if tt.is == nil && !errdefs.IsInvalidArgument(err) || tt.is != nil && !errors.Is(err, tt.is) || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want one that says %q", err, tt.want)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Errorf("left: %v", entries)
			}
		})
	}
	noIngests(t, client)
	empty(t, s, client)
}

// TestImportWaydroidEndsInALayer has the import fail when a layer is half written.
func TestImportWaydroidEndsInALayer(t *testing.T) {
	s, client := newStore(t)
	system, _ := pair(t, runtime.GOARCH)
	tree := ext4test.Vendor()
	tree["etc/.wh.x"] = ext4test.File{}
	dir := t.TempDir()
	tree.Fill(t, dir)
	vendor, err := os.Open(ext4test.Image(t, dir, 24<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer vendor.Close()
	_, err = s.ImportWaydroid(t.Context(), "a", Waydroid{System: bytes.NewReader(system), Vendor: vendor, Dir: t.TempDir()})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "/vendor/etc/.wh.x") {
		t.Errorf("error is %v", err)
	}
	noIngests(t, client)
	empty(t, s, client)
}
