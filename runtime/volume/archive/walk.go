package archive

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// batch is how many names of a directory are read at a time.
	batch = 256
	// maxLinked bounds the files with several names that are remembered because not all of them have been met.
	maxLinked = 1 << 18
)

// lostFound is the directory that mkfs makes. While it is empty it is no data.
const lostFound = "lost+found"

// file is what a walk meets.
type file struct {
	// path below the root; empty for the root.
	path string
	stat unix.Stat_t
	// in and name are where it can be opened: a directory that is open, and its name there.
	in   int
	name string
	// linked is the path that it was met under before, if that was so.
	linked string
}

func (f *file) kind() uint32 { return f.stat.Mode & unix.S_IFMT }

// walker goes through a tree, each directory before what is in it.
type walker struct {
	ctx   context.Context
	visit func(f *file) error
	// links are the files with several names of which not all were met.
	links map[inode]*links
	// skipped counts what was left out.
	skipped LeftOut
}

type inode struct{ device, number uint64 }

type links struct {
	path string
	left uint64 // names still to be met
}

// walk calls visit for everything below a directory, and for the directory first, except for what is left out, which it counts. It is
// the only one to use the tree.
func walk(ctx context.Context, root *os.File, visit func(f *file) error) (LeftOut, error) {
	w := &walker{ctx: ctx, visit: visit, links: make(map[inode]*links)}
	if _, err := root.Seek(0, io.SeekStart); err != nil { // it may have been gone through before
		return LeftOut{}, err
	}
	top := &file{in: int(root.Fd()), name: "."}
	if err := unix.Fstat(top.in, &top.stat); err != nil {
		return LeftOut{}, err
	}
	if err := visit(top); err != nil {
		return LeftOut{}, err
	}
	return w.skipped, w.directory(root, "")
}

// directory goes through an open directory. One descriptor is open for each level, of which there are not many: see maxPath.
func (w *walker) directory(d *os.File, path string) error {
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		names, err := d.Readdirnames(batch)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, name := range names {
			if err := w.file(d, path, name); err != nil {
				return err
			}
		}
	}
}

func (w *walker) file(d *os.File, in, name string) error {
	f := &file{path: name, in: int(d.Fd()), name: name}
	if in != "" {
		f.path = in + "/" + name
	}
	if err := unix.Fstatat(f.in, name, &f.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return f.failed(err)
	}
	switch f.kind() {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFIFO:
	case unix.S_IFSOCK:
		w.skipped.Sockets++
		return nil
	default:
		w.skipped.Devices++
		return nil
	}
	if len(f.path) > maxPath {
		w.skipped.TooDeep++
		return nil
	}
	if f.kind() != unix.S_IFDIR {
		if err := w.remember(f); err != nil {
			return err
		}
		return w.visit(f)
	}
	sub, err := open(f, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer sub.Close()
	if f.path == lostFound {
		if names, err := sub.Readdirnames(1); err == io.EOF && len(names) == 0 {
			return nil
		}
		if _, err := sub.Seek(0, io.SeekStart); err != nil {
			return f.failed(err)
		}
	}
	if err := w.visit(f); err != nil {
		return err
	}
	return w.directory(sub, f.path)
}

// remember finds the name that a file was met under first.
func (w *walker) remember(f *file) error {
	if f.stat.Nlink < 2 {
		return nil
	}
	id := inode{uint64(f.stat.Dev), f.stat.Ino}
	if l, met := w.links[id]; met {
		f.linked = l.path
		if l.left--; l.left == 0 {
			delete(w.links, id)
		}
		return nil
	}
	if len(w.links) == maxLinked {
		return fmt.Errorf("more than %d files have several names: %w", maxLinked, errdefs.ErrResourceExhausted)
	}
	w.links[id] = &links{path: f.path, left: uint64(f.stat.Nlink) - 1}
	return nil
}

// open opens what a walk has met, and never anything else.
func open(f *file, flags int) (*os.File, error) {
	fd, err := unix.Openat(f.in, f.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, f.failed(err)
	}
	return os.NewFile(uintptr(fd), f.name), nil
}

func (f *file) failed(err error) error { return fmt.Errorf("%q: %w", "/data/"+f.path, err) }

// content reports whether the file is a regular one that was not met before.
func (f *file) content() bool { return f.kind() == unix.S_IFREG && f.linked == "" }

// holes reports whether a file of that size has holes beside its pieces.
func holes(pieces []piece, size int64) bool { return total(pieces) < size }

// header is the file's header. Its size is that of the file, with holes.
func (f *file) header() (*tar.Header, error) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: dataName + "/" + f.path, Mode: int64(f.stat.Mode & 0o7777), Uid: int(f.stat.Uid), Gid: int(f.stat.Gid),
		ModTime: time.Unix(f.stat.Mtim.Unix()),
	}
	if f.linked != "" {
		h.Typeflag, h.Linkname = tar.TypeLink, dataName+"/"+f.linked
		return h, nil
	}
	var err error
	if h.PAXRecords, err = readXattrs(at(f.in, f.name)); err != nil {
		return nil, f.failed(err)
	}
	switch f.kind() {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
		if f.path != "" {
			h.Name += "/"
		}
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = f.readlink(); err != nil {
			return nil, f.failed(err)
		}
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, f.stat.Size
	}
	return h, nil
}

func (f *file) readlink() (string, error) {
	buf := make([]byte, maxPath+len("/data/")+1)
	n, err := unix.Readlinkat(f.in, f.name, buf)
	return string(buf[:max(n, 0)]), err
}

// pieces finds what of a regular file is no hole. If there are too many pieces the smallest holes between them count as content.
func (f *file) pieces() ([]piece, error) {
	size := f.stat.Size
	if size == 0 {
		return nil, nil
	}
	if f.stat.Blocks*512 >= size {
		return []piece{{length: size}}, nil
	}
	opened, err := open(f, 0)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	var found []piece
	for end := int64(0); end < size; {
		begin, err := unix.Seek(int(opened.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err == nil {
			end, err = unix.Seek(int(opened.Fd()), begin, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, f.failed(err)
		}
		if found = append(found, piece{begin, end - begin}); len(found) > 2*maxPieces {
			found = thin(found)
		}
	}
	if len(found) > maxPieces {
		found = thin(found)
	}
	return found, nil
}

// thin leaves maxPieces of more pieces than that: the smallest holes between them are filled.
func thin(pieces []piece) []piece {
	hole := func(i int) int64 { return pieces[i].offset - pieces[i-1].end() }
	order := make([]int, 0, len(pieces)-1) // of pieces after the first, by the hole before them
	for i := 1; i < len(pieces); i++ {
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(hole(a), hole(b)) })
	filled := make([]bool, len(pieces))
	for _, i := range order[:len(pieces)-maxPieces] {
		filled[i] = true
	}
	kept := make([]piece, 0, maxPieces)
	for i, p := range pieces {
		if filled[i] {
			last := &kept[len(kept)-1]
			last.length = p.end() - last.offset
		} else {
			kept = append(kept, p)
		}
	}
	return kept
}
