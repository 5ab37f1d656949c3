// Package ext4test makes ext4 images for tests, by mke2fs and Android's own img2simg, out of directories that the test fills.
package ext4test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv"
)

// File is a file of a tree, by its path.
type File struct {
	// Mode has the kind of file as in stat(2); without one it is a regular file of mode 0644, or a directory where the path ends with a
	// slash, of mode 0755.
	Mode     uint32
	UID, GID int
	Content  []byte
	// Size makes the file that large, with a hole behind its content.
	Size int64
	// Link is where a symbolic link leads, and Hard the path of another file that this is a second name of.
	Link, Hard string
	Attrs      map[string]string
	Time       time.Time
}

// Tree is a directory's files. Directories that lead to a file need no entry.
type Tree map[string]File

// Fill makes the files below dir. It needs root.
func (tree Tree) Fill(t testing.TB, dir string) {
	t.Helper()
	testenv.Root(t)
	var later []string
	for path, f := range tree {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if f.Hard != "" {
			later = append(later, path)
			continue
		}
		if err := f.make(full, strings.HasSuffix(path, "/")); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	for _, path := range later {
		if err := os.Link(filepath.Join(dir, tree[path].Hard), filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	// Times last: making a file changes that of its directory.
	for path, f := range tree {
		if f.Time.IsZero() {
			continue
		}
		at := []unix.Timespec{unix.NsecToTimespec(f.Time.UnixNano()), unix.NsecToTimespec(f.Time.UnixNano())}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, path), at, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
}

func (f File) make(path string, directory bool) error {
	mode := f.Mode
	switch {
	case f.Link != "":
		mode = unix.S_IFLNK | 0o777
	case directory && mode&unix.S_IFMT == 0:
		mode = max(mode, 0o755) | unix.S_IFDIR
		if f.Mode != 0 {
			mode = f.Mode | unix.S_IFDIR
		}
	case mode == 0:
		mode = unix.S_IFREG | 0o644
	case mode&unix.S_IFMT == 0:
		mode |= unix.S_IFREG
	}
	var err error
	switch mode & unix.S_IFMT {
	case unix.S_IFLNK:
		err = os.Symlink(f.Link, path)
	case unix.S_IFDIR:
		err = os.MkdirAll(path, 0o755)
	case unix.S_IFREG:
		if err = os.WriteFile(path, f.Content, 0o600); err == nil && f.Size > 0 {
			err = os.Truncate(path, f.Size)
		}
	default:
		err = unix.Mknod(path, mode, int(unix.Mkdev(1, 3)))
	}
	if err != nil {
		return err
	}
	for name, value := range f.Attrs {
		if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	if err := os.Lchown(path, f.UID, f.GID); err != nil {
		return err
	}
	// A change of owner takes capabilities away.
	if value, ok := f.Attrs["security.capability"]; ok {
		if err := unix.Lsetxattr(path, "security.capability", []byte(value), 0); err != nil {
			return err
		}
	}
	if mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	return unix.Chmod(path, mode&0o7777)
}

// Image makes an ext4 image of size bytes with the files of dir, and returns its path. options go to mke2fs.
func Image(t testing.TB, dir string, size int64, options ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	args := append([]string{"-q", "-F", "-t", "ext4", "-d", dir, "-E", "hash_seed=d1f3b0a2-0000-4000-8000-000000000000", "-U", "d1f3b0a2-0000-4000-8000-000000000001"}, options...)
	args = append(args, path, fmt.Sprintf("%dk", size>>10))
	if out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "mke2fs"), args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %v: %v: %s", args, err, out)
	}
	return path
}

// Sparse makes Android's sparse image of an image.
func Sparse(t testing.TB, image string) string {
	t.Helper()
	path := image + ".sparse"
	if out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "img2simg"), image, path).CombinedOutput(); err != nil {
		t.Fatalf("img2simg: %v: %s", err, out)
	}
	return path
}

// Capability is the attribute security.capability of a program that may do net_raw (struct vfs_cap_data, version 2).
const Capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// Program is the head of an ELF program of an architecture, named as GOARCH does.
func Program(arch string) []byte {
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM}[arch]
	class := elf.ELFCLASS64
	if arch == "arm" {
		class = elf.ELFCLASS32
	}
	var out bytes.Buffer
	header := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(class), byte(elf.ELFDATA2LSB), 1
	if err := binary.Write(&out, binary.LittleEndian, header); err != nil {
		panic(err)
	}
	out.WriteString(strings.Repeat("program ", 1000))
	return out.Bytes()
}

// System is the tree of a small system.img of an architecture, laid out as Waydroid's.
func System(arch string) Tree {
	at := time.Unix(1230768000, 0) // what Android's builds have
	return Tree{
		"vendor/": {}, "dev/": {}, "proc/": {}, "sys/": {}, "data/": {Mode: 0o771, UID: 1000, GID: 1000}, "mnt/": {}, "run/": {}, "tmp/": {}, "var/": {},
		"init":                 {Link: "/system/bin/init"},
		"etc":                  {Link: "/system/etc"},
		"system/bin/init":      {Mode: 0o750, GID: 2000, Content: Program(arch), Attrs: map[string]string{"security.selinux": "u:object_r:init_exec:s0\x00"}},
		"system/bin/run-as":    {Mode: 0o750, GID: 2000, Content: Program(arch), Attrs: map[string]string{"security.capability": Capability, "security.selinux": "u:object_r:runas_exec:s0\x00"}},
		"system/bin/toybox":    {Mode: 0o755, GID: 2000, Content: bytes.Repeat([]byte("toybox"), 30000)},
		"system/bin/cat":       {Link: "toybox"},
		"system/bin/ls":        {Hard: "system/bin/toybox"},
		"system/build.prop":    {Mode: 0o600, Content: []byte("# begin\nro.build.version.sdk=33\nro.build.version.release=13\nro.product.cpu.abi=x\n"), Time: at},
		"system/etc/hosts":     {Content: []byte("127.0.0.1 localhost\n"), Time: at},
		"system/fonts/hole":    {Content: []byte("begin"), Size: 3 << 20},
		"system/empty":         {},
		"system/lib64/x\u00e9": {Content: []byte("a name that is not ASCII")},
	}
}

// Vendor is the tree of a small vendor.img.
func Vendor() Tree {
	return Tree{
		"build.prop":        {Mode: 0o600, Content: []byte("ro.vendor.build.version.sdk=33\n")},
		"waydroid.prop":     {Content: []byte("# replaced at start\n")},
		"bin/hw/composer":   {Mode: 0o755, GID: 2000, Content: []byte("composer")},
		"etc/fstab.empty":   {},
		"lib64/egl/libx.so": {Content: bytes.Repeat([]byte{1, 2, 3}, 5000)},
	}
}
