package waydroid

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/phonehost/phonehost/runtime/image/ext4"
	"github.com/phonehost/phonehost/runtime/image/sparse"
	"github.com/phonehost/phonehost/runtime/image/spool"
)

// MaxImage bounds an image, in bytes of its file system.
const MaxImage = 16 << 30

// File is an image in a file that has no name: it is gone with its last descriptor, whatever ends the process.
type File struct {
	f    *os.File
	size int64
}

// ReadAt reads of the image.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// Size is that of the image in bytes.
func (f *File) Size() int64 { return f.size }

// Close drops the image.
func (f *File) Close() error { return f.f.Close() }

// Spool takes the image called name ("system.img") from r into a file in dir, expanded where it is sparse. room is asked before anything
// is written and after each 16 MiB, and ends it with an error. An error of r or room comes back as it is; one that is the image's fault
// says what the image is instead.
func Spool(dir, name string, r io.Reader, room func() error) (_ *File, err error) {
	f, err := spool.New(dir, room)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	head := make([]byte, headBytes)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	head = head[:n]
	all := io.MultiReader(bytes.NewReader(head), r)
	if err := f.Ask(); err != nil {
		return nil, err
	}
	var size int64
	switch {
	case isSparse(head):
		size, err = sparse.Expand(f, all, MaxImage)
	case isExt4(head):
		size, err = copyRaw(f, all)
	default:
		err = invalid("want an ext4 image, raw or sparse, but this is %s", identify(head))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &File{f: f.File, size: size}, nil
}

// copyRaw copies an image as it is, but for pages of zeros.
func copyRaw(w sparse.Target, r io.Reader) (size int64, err error) {
	buf := make([]byte, 1<<18)
	for {
		n, err := io.ReadFull(r, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return 0, err
		}
		if size+int64(n) > MaxImage {
			return 0, invalid("it is more than %d bytes", int64(MaxImage))
		}
		if err := sparse.WriteNonZero(w, buf[:n], size); err != nil {
			return 0, err
		}
		if size += int64(n); last {
			return size, w.Truncate(size)
		}
	}
}

// headBytes is as much of a file as identify looks at.
const headBytes = 8192

func isSparse(head []byte) bool {
	return len(head) >= 4 && binary.LittleEndian.Uint32(head) == sparse.Magic
}

func isExt4(head []byte) bool {
	return len(head) >= ext4.MagicOffset+2 && binary.LittleEndian.Uint16(head[ext4.MagicOffset:]) == ext4.Magic
}

// kinds are files that are taken for images now and then, by what stands at a place of theirs.
var kinds = []struct {
	at    int
	magic string
	what  string
}{
	{0, "\x1f\x8b", "gzip: decompress it first (gunzip)"},
	{0, "PK\x03\x04", "a zip archive: unpack it first (Waydroid's downloads are: unzip)"},
	{0, "\xfd7zXZ\x00", "xz: decompress it first (unxz)"},
	{0, "\x28\xb5\x2f\xfd", "zstd: decompress it first (unzstd)"},
	{0, "BZh", "bzip2: decompress it first (bunzip2)"},
	{0, "\x04\x22\x4d\x18", "lz4: decompress it first (unlz4)"},
	{0, "7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"},
	{0, "hsqs", "a squashfs image"},
	{1024, "\xe2\xe1\xf5\xe0", "an erofs image"},
	{1024, "\x10\x20\xf5\xf2", "an f2fs image"},
	{0, "ANDROID!", "an Android boot image"},
	{0, "CrAU", "an Android update payload: extract system and vendor from it first"},
	{4096, "gDla", "an Android super partition: extract system and vendor from it first (lpunpack)"},
	{0, "QFI\xfb", "a QEMU disk: convert it to raw first (qemu-img convert)"},
	{257, "ustar", "a tar archive"},
	{0, "\x7fELF", "an ELF program"},
	{510, "\x55\xaa", "a whole disk with a partition table: extract the partition first"},
	{0, "<!DOCTYPE", "an HTML page"},
	{0, "<html", "an HTML page"},
}

// identify says what a file is that is no image.
func identify(head []byte) string {
	if len(head) == 0 {
		return "an empty file"
	}
	for _, k := range kinds {
		if k.at < len(head) && bytes.HasPrefix(head[k.at:], []byte(k.magic)) {
			return k.what
		}
	}
	if len(bytes.Trim(head, "\x00")) == 0 {
		return fmt.Sprintf("zeros for its first %d bytes", len(head))
	}
	return fmt.Sprintf("a file of an unknown kind that begins with %x", head[:min(len(head), 8)])
}
