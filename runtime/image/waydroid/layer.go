package waydroid

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/phonehost/phonehost/runtime/image/ext4"
)

// What one image may hold; Android's hold a tenth of it.
const (
	maxEntries = 1 << 20
	maxDepth   = 64
	maxPath    = 4096
	// maxContent bounds the bytes of all files together, which may be more than the image: holes count.
	maxContent = 16 << 30
)

// WriteSystem writes the layer of the system to w, as a tar file.
func (m *Images) WriteSystem(w io.Writer) error { return m.system.write(w, "", false) }

// WriteVendor writes the layer of the vendor to w, as a tar file. Below /vendor nothing of the system's is seen.
func (m *Images) WriteVendor(w io.Writer) error { return m.vendor.write(w, "vendor/", m.covered) }

// write writes the whole tree, its root directory first, each name after prefix.
func (t tree) write(w io.Writer, prefix string, opaque bool) error {
	layer := &layer{tree: t, tar: tar.NewWriter(w), names: map[uint32]string{}}
	err := layer.directory(ext4.Root, prefix, 0, opaque)
	if err == nil {
		err = layer.tar.Close()
	}
	if err != nil {
		return t.wrap(err)
	}
	return nil
}

// layer is a tar file under way.
type layer struct {
	tree
	tar     *tar.Writer
	names   map[uint32]string // of inodes with more than one name, and of all directories
	entries int
	content int64
}

// directory writes a directory and all that is below it. path ends with a slash, and is empty for the root of the image.
func (l *layer) directory(number uint32, path string, depth int, opaque bool) error {
	in, err := l.fs.Inode(number)
	if err != nil {
		return at(path, err)
	}
	if other, twice := l.names[number]; twice || in.Kind != ext4.KindDir {
		return at(path, invalid("it is a directory that also is /%s, or none", other))
	}
	if l.names[number] = path; depth > maxDepth {
		return at(path, invalid("it is %d directories deep", depth))
	}
	if path != "" { // the root itself has no entry: containerd makes it
		if err := l.header(in, &tar.Header{Typeflag: tar.TypeDir, Name: path}); err != nil {
			return at(path, err)
		}
	}
	if opaque {
		if err := l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path + opaqueMark, Format: tar.FormatPAX}); err != nil {
			return at(path, err)
		}
	}
	var entries []ext4.Entry
	err = l.fs.ReadDir(in, func(e ext4.Entry) error {
		if l.entries++; l.entries > maxEntries {
			return invalid("it holds more than %d files", maxEntries)
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return at(path, err)
	}
	for _, e := range entries {
		if depth == 0 && e.Name == "lost+found" {
			continue // of the file system, not of Android
		}
		if err := l.entry(e, path+e.Name, depth); err != nil {
			return err
		}
	}
	return nil
}

const (
	// whiteout begins names that a layer removes what is below it with, and opaqueMark says that a directory hides what is below it
	// (OCI image specification, layer.md).
	whiteout   = ".wh."
	opaqueMark = ".wh..wh..opq"
)

// entry writes what a name stands for.
func (l *layer) entry(e ext4.Entry, path string, depth int) error {
	if strings.HasPrefix(e.Name, whiteout) {
		return at(path, invalid("a layer cannot hold the name: it would remove another file"))
	}
	if len(path) > maxPath {
		return at(path[:64]+"...", invalid("its path is %d bytes", len(path)))
	}
	in, err := l.fs.Inode(e.Inode)
	if err != nil {
		return at(path, err)
	}
	if in.Kind == ext4.KindDir {
		return l.directory(e.Inode, path+"/", depth+1, false)
	}
	if first, ok := l.names[in.Number]; ok {
		// With owner, mode and attributes once more: containerd gives a link what its entry says.
		return at(path, l.header(in, &tar.Header{Typeflag: tar.TypeLink, Name: path, Linkname: first}))
	}
	if in.Links > 1 {
		l.names[in.Number] = path
	}
	return at(path, l.file(in, path))
}

// file writes a file that is no directory, under its first name.
func (l *layer) file(in ext4.Inode, path string) error {
	switch in.Kind {
	case ext4.KindFile:
		if l.content += in.Size; in.Size > maxContent || l.content > maxContent {
			return invalid("the files up to this are %d bytes, more than %d", l.content, int64(maxContent))
		}
		if err := l.header(in, &tar.Header{Typeflag: tar.TypeReg, Name: path, Size: in.Size}); err != nil {
			return err
		}
		return l.fs.Copy(l.tar, in)
	case ext4.KindSymlink:
		target, err := l.fs.Symlink(in)
		if err != nil {
			return err
		}
		return l.header(in, &tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: target})
	case ext4.KindFIFO:
		return l.header(in, &tar.Header{Typeflag: tar.TypeFifo, Name: path})
	}
	return invalid("it is a file of kind %#o, neither a file, a directory, a link nor a pipe: devices are made in /dev at boot", in.Kind)
}

// header writes an entry with the inode's owner, mode, time and attributes.
func (l *layer) header(in ext4.Inode, h *tar.Header) error {
	attrs, err := l.fs.Attrs(in)
	if err != nil {
		return err
	}
	h.Mode, h.Uid, h.Gid, h.ModTime, h.Format = int64(in.Perm), int(in.UID), int(in.GID), in.ModTime, tar.FormatPAX
	for _, a := range attrs {
		if !kept(a.Name) {
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+a.Name] = a.Value
	}
	return l.tar.WriteHeader(h)
}

// kept tells attributes that are Android's (security.capability, security.selinux) from those that mean something to the host: trusted.*
// would be overlayfs's own, and system.* are access lists in ext4's own form, which Android's images do not have.
func kept(name string) bool {
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "user.")
}

// at says which file an error is about, unless it is the file to which the layer is written that failed.
func at(path string, err error) error {
	if err == nil {
		return nil
	}
	var named *pathError
	if errors.As(err, &named) {
		return err
	}
	return &pathError{path: path, err: err}
}

// pathError is an error about a file of an image.
type pathError struct {
	path string
	err  error
}

func (e *pathError) Error() string {
	return fmt.Sprintf("/%s: %v", strings.TrimSuffix(e.path, "/"), e.err)
}
func (e *pathError) Unwrap() error { return e.err }
