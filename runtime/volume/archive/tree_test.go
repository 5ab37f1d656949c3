package archive_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// newVolume makes an empty volume, mounts it until the end of the test, and returns its root and a path to that, which other programs
// can use too.
func newVolume(t testing.TB, size uint64) (root *os.Root, path string) {
	t.Helper()
	testenv.Root(t)
	testenv.Tool(t, "mkfs.ext4")
	image := filepath.Join(t.TempDir(), "data-1.img")
	if err := volume.Create(t.Context(), image, size); err != nil {
		t.Fatal(err)
	}
	m, err := volume.Open(t.Context(), image, false)
	if err != nil {
		t.Fatal(err)
	}
	d, err := m.Root().Open(".")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.Close(), m.Close()); err != nil {
			t.Error(err)
		}
	})
	return m.Root(), fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), d.Fd())
}

// plain is an empty directory of the host's file system.
func plain(t testing.TB) (root *os.Root, path string) {
	t.Helper()
	testenv.Root(t)
	path = t.TempDir()
	root, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, path
}

// node is all that an archive keeps of a file.
type node struct {
	Mode     fs.FileMode
	UID, GID uint32
	Modified time.Time
	Xattrs   map[string]string
	Target   string // of a symbolic link
	First    string // the first path of the same file
	Size     int64
	Content  string // digest
	Holes    string
}

// pit is what directories are called that lead deeper than paths do; see bury.
var pit = strings.Repeat("p", 255)

// tree describes everything below a directory, by path, but what is in a pit.
func tree(t testing.TB, dir string) map[string]node {
	t.Helper()
	nodes, first := make(map[string]node), make(map[uint64]string)
	err := filepath.WalkDir(dir+"/.", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Name() == pit {
			return fs.SkipDir
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		n := node{Mode: info.Mode(), UID: st.Uid, GID: st.Gid, Modified: info.ModTime(), Xattrs: attributes(t, path)}
		if !info.IsDir() {
			if _, met := first[st.Ino]; !met {
				first[st.Ino] = name
			}
			n.First = first[st.Ino]
		}
		switch info.Mode().Type() {
		case fs.ModeSymlink:
			n.Target, err = os.Readlink(path)
		case 0:
			n.Size = info.Size()
			n.Content, n.Holes, err = content(path)
		}
		nodes[name] = n
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(nodes, "lost+found") // mkfs makes it
	return nodes
}

func attributes(t testing.TB, path string) map[string]string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	found := make(map[string]string)
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatalf("%s: %s: %v", path, name, err)
		}
		found[name] = string(value[:n])
	}
	return found
}

// content returns the digest of a file and where its holes are.
func content(path string) (digest, holes string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", "", err
	}
	h := sha256.New()
	if info.Size() < 1<<30 { // what is larger is nearly all holes
		if _, err := io.Copy(h, f); err != nil {
			return "", "", err
		}
	}
	var where []string
	for at := int64(0); at < info.Size(); {
		hole, err := unix.Seek(int(f.Fd()), at, unix.SEEK_HOLE)
		if err != nil {
			return "", "", err
		}
		at, err = unix.Seek(int(f.Fd()), hole, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			at = info.Size()
		} else if err != nil {
			return "", "", err
		}
		if at > hole {
			where = append(where, fmt.Sprintf("%d+%d", hole, at-hole))
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)), strings.Join(where, " "), nil
}

// must fails the test for the first error.
func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
}

// plant makes a tree with everything that an archive keeps below dir.
func plant(t testing.TB, dir string) {
	t.Helper()
	at := func(name string) string { return dir + "/" + name }
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	write := func(name string, text []byte) { t.Helper(); must(t, os.WriteFile(at(name), text, 0o600)) }

	must(t, os.MkdirAll(at("data/com.example/files"), 0o700), os.MkdirAll(at("empty/emptier"), 0o755), os.Mkdir(at("sticky"), 0o755))
	write("data/com.example/files/noise", noise)
	write("data/com.example/files/nothing", nil)
	write("data/com.example/files/text", bytes.Repeat([]byte("all work and no play "), 10_000))
	for i := range 300 {
		write(fmt.Sprintf("data/com.example/files/%03d", i), []byte{byte(i)})
	}
	write("not utf-8 \xff\xfe", []byte("\xff"))
	write("new\nline and = and %", nil)
	write(strings.Repeat("n", 255), nil)
	deep := strings.Repeat("deep/", 100)
	must(t, os.MkdirAll(at(deep), 0o711), os.WriteFile(at(deep+"bottom"), []byte("found"), 0o640))

	// Links.
	must(t, os.Link(at("data/com.example/files/text"), at("data/linked")), os.Link(at("data/linked"), at("linked again")))
	must(t, os.Symlink("/data/user/0", at("absolute")), os.Symlink("../../..", at("upward")), os.Symlink(strings.Repeat("x", 4000), at("long")))
	must(t, os.Symlink("\xfe", at("link \xff")), os.Link(at("absolute"), at("absolute too")))
	must(t, unix.Mkfifo(at("fifo"), 0o620))

	// Holes: between, at both ends, nothing else, more than there may be pieces.
	sparse := func(name string, size int64, offsets ...int64) {
		t.Helper()
		f, err := os.Create(at(name))
		must(t, err)
		defer f.Close()
		for _, o := range offsets {
			_, err := f.WriteAt(noise[:4096], o)
			must(t, err)
		}
		must(t, f.Truncate(size), f.Sync())
	}
	sparse("sparse", 100<<20, 0, 50<<20, 60<<20)
	sparse("holes at both ends", 10<<20+17, 1<<20)
	sparse("a hole", 5<<20)
	sparse("a huge hole", 4<<40, 3<<40)

	// Owners, modes, attributes.
	must(t, os.Chown(at("data/com.example"), 10_123, 10_123), os.Chown(at("data/com.example/files/text"), 3_000_000_000, 4_000_000_000))
	must(t, os.Lchown(at("absolute"), 1000, 1001), os.Chown(at("fifo"), 5, 6))
	must(t, os.Chown(at("."), 1000, 1000), os.Chmod(at("."), 0o771))
	must(t, os.Chmod(at("data/com.example/files/000"), 0o4755|fs.ModeSetuid), os.Chmod(at("sticky"), 0o777|fs.ModeSticky|fs.ModeSetgid))
	acl := []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x04\x00\x39\x30\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x05\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff")
	for _, x := range []struct{ path, name, value string }{
		{".", "user.of the root", "1"},
		{"data", "security.selinux", "u:object_r:system_data_file:s0\x00"},
		{"data/com.example/files/noise", "user.binary", "\x00\x01=\n%"},
		{"data/com.example/files/noise", "user.empty", ""},
		{"data/com.example/files/noise", "user.with = and %3D", "x"},
		{"data/com.example/files/noise", "trusted.mine", strings.Repeat("t", 2000)},
		{"data/com.example/files/001", "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"data/com.example/files/002", "system.posix_acl_access", string(acl)},
		{"empty", "system.posix_acl_default", string(acl)},
		{"absolute", "security.selinux", "u:object_r:link:s0\x00"},
		{"absolute", "trusted.link", "yes"},
		{"fifo", "trusted.fifo", "yes"},
	} {
		if err := unix.Lsetxattr(at(x.path), x.name, []byte(x.value), 0); err != nil {
			t.Fatalf("%s: %s: %v", x.path, x.name, err)
		}
	}
	age(t, dir)
}

// age gives every file a time of its own: long ago, far ahead, with nanoseconds.
func age(t testing.TB, dir string) {
	t.Helper()
	var paths []string
	must(t, filepath.WalkDir(dir+"/.", func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}))
	slices.Reverse(paths)
	for i, path := range paths {
		at := unix.Timespec{Sec: []int64{-1_000_000_000, 0, 1_600_000_000, 5_000_000_000, 14_000_000_000}[i%5] + int64(i), Nsec: int64(i) * 1_234_567 % 1e9}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, at}, unix.AT_SYMLINK_NOFOLLOW))
	}
}
