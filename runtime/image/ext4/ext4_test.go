package ext4_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/image/ext4"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/ext4test"
)

// described is what is compared of a file; times in whole seconds, which is what mke2fs copies.
type described struct {
	Kind, Perm      uint16
	UID, GID        uint32
	Size            int64
	Content, Target string
	Attrs           string
	Time            time.Time
}

// walk describes all of an image.
func walk(t *testing.T, fs *ext4.FS, number uint32, path string, into map[string]described) {
	t.Helper()
	in, err := fs.Inode(number)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	d := described{Kind: in.Kind, Perm: in.Perm, UID: in.UID, GID: in.GID, Time: in.ModTime.Truncate(time.Second)}
	attrs, err := fs.Attrs(in)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var words []string
	for _, a := range attrs {
		words = append(words, fmt.Sprintf("%s=%x", a.Name, a.Value))
	}
	slices.Sort(words)
	d.Attrs = strings.Join(words, " ")
	switch in.Kind {
	case ext4.KindFile:
		sum := sha256.New()
		if err := fs.Copy(sum, in); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		d.Size, d.Content = in.Size, fmt.Sprintf("%x", sum.Sum(nil))
		readAnywhere(t, fs, in, path)
	case ext4.KindSymlink:
		if d.Target, err = fs.Symlink(in); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	case ext4.KindDir:
		err := fs.ReadDir(in, func(e ext4.Entry) error {
			if path+e.Name != "lost+found" {
				walk(t, fs, e.Inode, path+e.Name+"/", into)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	if path != "" {
		into[path] = d
	}
}

// readAnywhere compares reads of an open file, of any length at any place, with its content.
func readAnywhere(t *testing.T, fs *ext4.FS, in ext4.Inode, path string) {
	t.Helper()
	var content bytes.Buffer
	if in.Size > 1<<24 {
		return // a hole for the most part
	}
	if err := fs.Copy(&content, in); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	f, err := fs.Open(in)
	if err != nil || f.Size() != in.Size {
		t.Fatalf("open %s: %v", path, err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	whole := bytes.NewReader(content.Bytes())
	for i := range 50 {
		off, n := rnd.Int64N(in.Size+10), rnd.IntN(20000)
		if i == 0 {
			off, n = 0, int(in.Size)
		}
		want, got := make([]byte, n), make([]byte, n)
		wantN, wantErr := whole.ReadAt(want, off)
		gotN, gotErr := f.ReadAt(got, off)
		if gotN != wantN || gotErr != wantErr || !bytes.Equal(got[:gotN], want[:wantN]) {
			t.Fatalf("%s: %d bytes at %d: read %d, %v; want %d, %v, and the same content", path, n, off, gotN, gotErr, wantN, wantErr)
		}
	}
	if _, err := f.ReadAt(make([]byte, 1), -1); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%s: read at -1: %v", path, err)
	}
}

// look describes all of a directory of the host, as walk does.
func look(t *testing.T, dir string) map[string]described {
	t.Helper()
	all := map[string]described{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		d := described{Kind: uint16(st.Mode & unix.S_IFMT), Perm: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid, Time: time.Unix(st.Mtim.Sec, 0).UTC()}
		switch d.Kind {
		case ext4.KindFile:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			d.Size, d.Content = st.Size, fmt.Sprintf("%x", sha256.Sum256(data))
		case ext4.KindSymlink:
			d.Target, err = os.Readlink(path)
			if err != nil {
				return err
			}
		}
		names := make([]byte, 4096)
		n, err := unix.Llistxattr(path, names)
		if err != nil {
			return err
		}
		var words []string
		for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
			if name == "" {
				continue
			}
			value := make([]byte, 65536)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return err
			}
			words = append(words, fmt.Sprintf("%s=%x", name, value[:n]))
		}
		slices.Sort(words)
		d.Attrs = strings.Join(words, " ")
		rel, err := filepath.Rel(dir, path)
		all[rel+"/"] = d
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// busy is a tree with what makes ext4 use all of its forms.
func busy() ext4test.Tree {
	random := rand.New(rand.NewPCG(3, 4))
	data := make([]byte, 5<<20+77)
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	tree := ext4test.System("arm64")
	tree["large"] = ext4test.File{Content: data, UID: 100000, GID: 70000}
	tree["long-link"] = ext4test.File{Link: strings.Repeat("a/", 100)}
	tree["short-link"] = ext4test.File{Link: strings.Repeat("b", 59)}
	tree["link-of-60"] = ext4test.File{Link: strings.Repeat("c", 60)}
	tree["pipe"] = ext4test.File{Mode: unix.S_IFIFO | 0o600}
	tree["sticky/"] = ext4test.File{Mode: 0o1777}
	tree["suid"] = ext4test.File{Mode: 0o4755, Content: []byte("x")}
	tree["attrs"] = ext4test.File{Attrs: map[string]string{"user.long": strings.Repeat("v", 900), "user.a": "", "security.selinux": "u:object_r:x:s0\x00", "trusted.t": "t"}}
	tree["only-a-hole"] = ext4test.File{Size: 1 << 20}
	for i := range 1200 { // an indexed directory
		tree[fmt.Sprintf("many/file-with-a-name-that-is-quite-long-%05d", i)] = ext4test.File{}
	}
	return tree
}

func TestReadsWhatMke2fsMakes(t *testing.T) {
	dir := t.TempDir()
	busy().Fill(t, dir)
	want := look(t, dir)
	for name, options := range map[string][]string{
		"defaults":           nil,
		"android's":          {"-O", "^has_journal,^metadata_csum,^64bit,ext_attr,dir_index,filetype,extent,sparse_super,large_file,huge_file,uninit_bg,dir_nlink,extra_isize", "-I", "256", "-b", "4096"},
		"blocks of 1 KiB":    {"-b", "1024", "-O", "64bit,metadata_csum,metadata_csum_seed"},
		"block maps":         {"-O", "^extents,^64bit,^flex_bg", "-b", "1024"},
		"no groups together": {"-O", "^flex_bg,^resize_inode", "-b", "2048"},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]described{}
			walk(t, openImage(t, ext4test.Image(t, dir, 64<<20, options...)), ext4.Root, "", got)
			if len(got) < 1200 {
				t.Errorf("%d files", len(got))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestReadsOldInodes reads inodes of 128 bytes, which have no attributes beside them and whole seconds.
func TestReadsOldInodes(t *testing.T) {
	dir := t.TempDir()
	tree := ext4test.Tree{"a": {Content: []byte("x"), Time: time.Unix(1000, 0), Attrs: map[string]string{"user.b": "in a block"}}, "d/e": {Content: []byte("y"), Time: time.Unix(2000, 0)}, "d/": {Time: time.Unix(3000, 0)}}
	tree.Fill(t, dir)
	got := map[string]described{}
	walk(t, openImage(t, ext4test.Image(t, dir, 8<<20, "-I", "128", "-b", "1024")), ext4.Root, "", got)
	if diff := cmp.Diff(look(t, dir), got); diff != "" {
		t.Error(diff)
	}
}

// TestReadsTimes has the kernel's form of a time beyond 2038, with nanoseconds.
func TestReadsTimes(t *testing.T) {
	dir := t.TempDir()
	ext4test.Tree{"a": {}}.Fill(t, dir)
	image := ext4test.Image(t, dir, 8<<20)
	want := time.Unix(5_000_000_000, 123456789).UTC()
	for _, request := range []string{
		fmt.Sprintf("set_inode_field a mtime_lo 0x%x", uint32(want.Unix())), fmt.Sprintf("set_inode_field a mtime_extra 0x%x", want.Nanosecond()<<2|1),
	} {
		if out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "debugfs"), "-w", "-R", request, image).CombinedOutput(); err != nil {
			t.Fatalf("debugfs: %v: %s", err, out)
		}
	}
	fs := openImage(t, image)
	root, err := fs.Inode(ext4.Root)
	if err != nil {
		t.Fatal(err)
	}
	err = fs.ReadDir(root, func(e ext4.Entry) error {
		in, err := fs.Inode(e.Inode)
		if e.Name == "a" && !in.ModTime.Equal(want) {
			t.Errorf("a is of %v, want %v", in.ModTime, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func openImage(t *testing.T, path string) *ext4.FS {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// small is an image of some files with every second byte of interest, kept compressed as test data for hosts without mke2fs and for
// fuzzing: mke2fs -t ext4 -O ^resize_inode -b 1024 -I 256 -N 32 of 256 KiB.
func small(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/small.img.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestWriteSmall makes testdata/small.img.gz anew, if it is told to by UPDATE_SMALL=1.
func TestWriteSmall(t *testing.T) {
	if os.Getenv("UPDATE_SMALL") == "" {
		t.Skip("UPDATE_SMALL is not set")
	}
	dir := t.TempDir()
	ext4test.Tree{
		"dir/file": {Content: []byte("content"), UID: 1000, GID: 2000, Attrs: map[string]string{"security.selinux": "u:object_r:x:s0\x00"}, Time: time.Unix(1, 0)},
		"dir/link": {Link: "file", Time: time.Unix(1, 0)}, "dir/long": {Link: strings.Repeat("x", 100), Time: time.Unix(1, 0)}, "big": {Content: bytes.Repeat([]byte("b"), 20000), Time: time.Unix(1, 0)},
		"hard": {Hard: "big"}, "dir/": {Time: time.Unix(1, 0)},
	}.Fill(t, dir)
	data, err := os.ReadFile(ext4test.Image(t, dir, 256<<10, "-O", "^resize_inode,^has_journal", "-b", "1024", "-I", "256", "-N", "32"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, 9)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(data)
	z.Close()
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/small.img.gz", out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	change := func(at int, bytes ...byte) []byte {
		data := small(t)
		copy(data[at:], bytes)
		return data
	}
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "too few"},
		{"zeros", make([]byte, 8192), "no superblock"},
		{"half", small(t)[:100000], "cut off"},
		{"a journal to replay", change(1024+0x60, 0x46), "e2fsck"},
		{"inline data", change(1024+0x60, 0x42, 0x82), "inline_data"},
		{"a feature of the future", change(1024+0x60, 0x42, 0x02, 0x00, 0x40), "incompatible feature 0x40000000"},
		{"compression and meta_bg", change(1024+0x60, 0x53), "compression, meta_bg"},
		{"no inodes", change(1024+0x28, 0, 0, 0, 0), "no inodes"},
		{"huge blocks", change(1024+0x18, 7), "blocks of 2^7"},
		{"uneven inodes", change(1024+0x58, 0x81, 0), "inodes of 129"},
		{"tiny descriptors", change(1024+0xfe, 8, 0), "descriptors of 8"},
	} {
		_, err := ext4.Open(bytes.NewReader(tt.data), int64(len(tt.data)))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestErrorsOfTheReaderComeBack(t *testing.T) {
	broken := errors.New("the disk is broken")
	if _, err := ext4.Open(failing{broken}, 1<<20); !errors.Is(err, broken) || errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
}

// TestRefusesWhatWasNotUnmounted makes an image with a journal that must be replayed.
func TestRefusesWhatWasNotUnmounted(t *testing.T) {
	dir := t.TempDir()
	ext4test.Tree{"a": {}}.Fill(t, dir)
	image := ext4test.Image(t, dir, 16<<20)
	if out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "debugfs"), "-w", "-R", "feature needs_recovery", image).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ext4.Open(bytes.NewReader(data), int64(len(data))); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "not unmounted") {
		t.Errorf("%v", err)
	}
}

// errEnough ends what goes on for too long.
var errEnough = errors.New("enough")

// bounded fails when too much is written.
type bounded struct{ left int }

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, errEnough
	}
	return len(p), nil
}

// FuzzImage reads everything of a small image in which bytes were changed.
func FuzzImage(f *testing.F) {
	f.Add(uint32(1024+0x60), []byte{0x40})
	f.Add(uint32(2048+8), []byte{0xff, 0xff, 0, 0})
	f.Add(uint32(5*1024+0x100+0x28), []byte{0x0a, 0xf3, 0xff, 0xff})
	for at := uint32(0); at < 64<<10; at += 997 {
		f.Add(at, []byte{0xff, 0x00, 0x80, 0x01})
	}
	image := small(f)
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		data := slices.Clone(image)
		copy(data[int(at)%len(data):], change)
		fs, err := ext4.Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Error(err)
			}
			return
		}
		for number := uint32(1); number <= 40; number++ {
			in, err := fs.Inode(number)
			if err == nil {
				_, err = fs.Attrs(in)
			}
			if err == nil && in.Kind == ext4.KindFile {
				err = fs.Copy(&bounded{1 << 20}, in)
				if file, opened := fs.Open(in); opened == nil {
					for _, at := range []int64{0, int64(len(change)), in.Size - 100} {
						if _, fail := file.ReadAt(make([]byte, 5000), max(at, 0)); fail != nil && fail != io.EOF && !errdefs.IsInvalidArgument(fail) {
							t.Error(fail)
						}
					}
				} else if err == nil {
					err = opened
				}
			}
			if err == nil && in.Kind == ext4.KindSymlink {
				_, err = fs.Symlink(in)
			}
			if err == nil && in.Kind == ext4.KindDir {
				err = fs.ReadDir(in, func(e ext4.Entry) error {
					if e.Name == "" || strings.ContainsAny(e.Name, "/\x00") {
						t.Errorf("the name %q", e.Name)
					}
					return nil
				})
			}
			if err != nil && !errdefs.IsInvalidArgument(err) && !errors.Is(err, errEnough) {
				t.Error(err)
			}
		}
	})
}
