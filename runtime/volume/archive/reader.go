package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// entry is a file, directory or link of an archive, checked as far as that can be without a file system.
type entry struct {
	// kind is tar.TypeReg, TypeDir, TypeSymlink, TypeLink or TypeFifo.
	kind byte
	// names is the path from the volume's root; none for the root itself.
	names []string
	// target is that of a symbolic link; linked is the path of the file that a hard link is another name of.
	target string
	linked []string

	mode     uint32 // permissions, set-id and sticky bits
	uid, gid uint32
	modified time.Time
	xattrs   []xattr

	// size is that of a regular file, and pieces what of it is no hole. content reads the pieces, one after the other.
	size    int64
	pieces  []piece
	content io.Reader
}

// name is the last name of the entry's path. The root has none.
func (e *entry) name() string { return e.names[len(e.names)-1] }

// String is the entry's path as a guest has it.
func (e *entry) String() string { return "/data/" + strings.Join(e.names, "/") }

// reader reads an archive entry by entry and refuses what Export would not have written.
type reader struct {
	manifest Manifest

	source *source
	tar    *tar.Reader
	found  Manifest // counts of what was read
	// open is the path of the directory that the last entry was in, or was. What comes next is in one of those.
	open  []string
	begun bool // the root directory has been read
}

// newReader reads the manifest. The caller closes the reader.
func newReader(r io.Reader) (*reader, error) {
	s, err := newSource(r, ahead)
	if err != nil {
		return nil, err
	}
	t := tar.NewReader(s)
	m, err := readManifest(s, t)
	if err != nil {
		s.close()
		return nil, err
	}
	most, ok := m.streamBytes()
	if !ok || m.Entries == 0 {
		s.close()
		return nil, fmt.Errorf("the manifest counts %d entries, %d bytes and %d extents: %w", m.Entries, m.Bytes, m.Extents, errdefs.ErrInvalidArgument)
	}
	s.left = most
	return &reader{manifest: m, source: s, tar: t}, nil
}

func (r *reader) close() { r.source.close() }

// next returns the next entry, or io.EOF when the archive has ended as it should. The content of an entry is gone with the next call.
func (r *reader) next() (*entry, error) {
	h, err := r.tar.Next()
	if err != nil {
		return nil, r.source.damaged(err) // the digest is missing, for one
	}
	if r.source.owed != 0 {
		return nil, r.source.damaged(errors.New("a file has less content than its map says"))
	}
	if h.Name == digestName {
		return nil, r.end(h)
	}
	e, err := r.entry(h)
	if err != nil {
		return nil, fmt.Errorf("entry %.300q of the archive: %w: %w", h.Name, err, errdefs.ErrInvalidArgument)
	}
	if err := r.count(e); err != nil {
		return nil, fmt.Errorf("entry %.300q of the archive: %w: %w", h.Name, err, errdefs.ErrInvalidArgument)
	}
	return e, nil
}

// entry checks a header.
func (r *reader) entry(h *tar.Header) (*entry, error) {
	names, err := parsePath(h.Name, h.Typeflag == tar.TypeDir)
	if err != nil {
		return nil, err
	}
	e := &entry{kind: h.Typeflag, names: names, mode: uint32(h.Mode) & 0o7777, modified: h.ModTime}
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return nil, fmt.Errorf("the owner %d:%d", h.Uid, h.Gid)
	}
	e.uid, e.gid = uint32(h.Uid), uint32(h.Gid)
	if e.xattrs, err = parseXattrs(h.PAXRecords); err != nil {
		return nil, err
	}
	switch e.kind {
	case tar.TypeReg:
		err = r.file(e, h)
	case tar.TypeSymlink:
		e.target = h.Linkname
		if e.target == "" || len(e.target) > maxPath {
			err = fmt.Errorf("a link to a path of %d bytes", len(e.target))
		}
	case tar.TypeLink:
		if e.linked, err = parsePath(h.Linkname, false); err == nil && len(e.linked) == 0 {
			err = errors.New("another name of the root")
		}
	case tar.TypeDir, tar.TypeFifo:
	default:
		err = fmt.Errorf("type %q, which archives do not hold", e.kind)
	}
	if err == nil {
		err = r.place(e)
	}
	return e, err
}

// place checks that a directory of the archive holds the entry.
func (r *reader) place(e *entry) error {
	if len(e.names) == 0 {
		if r.begun || e.kind != tar.TypeDir {
			return errors.New("a second root")
		}
		r.begun = true
		return nil
	}
	in := e.names[:len(e.names)-1]
	if !r.begun || len(in) > len(r.open) {
		return errors.New("it comes before its directory")
	}
	for i := range in {
		if r.open[i] != in[i] {
			return errors.New("it comes before its directory, or long after it")
		}
	}
	r.open = r.open[:len(in)]
	if e.kind == tar.TypeDir {
		r.open = append(r.open, e.names[len(in)])
	}
	return nil
}

// file finds the content of a regular file.
func (r *reader) file(e *entry, h *tar.Header) error {
	e.size, e.content = h.Size, r.tar
	if e.size < 0 {
		return fmt.Errorf("a size of %d bytes", e.size)
	}
	sparse := false
	for key := range h.PAXRecords {
		sparse = sparse || strings.HasPrefix(key, sparsePrefix)
	}
	if !sparse {
		if e.size > 0 {
			e.pieces = []piece{{length: e.size}}
		}
		return nil
	}
	pieces, err := parseMap(h.PAXRecords, e.size)
	if err != nil {
		return err
	}
	stored := total(pieces)
	if h.PAXRecords["size"] != strconv.FormatInt(stored, 10) {
		return fmt.Errorf("content of %.20q bytes in pieces of %d", h.PAXRecords["size"], stored)
	}
	// The reader of the tar would read the holes, too, of which there may be terabytes.
	e.pieces, e.content = pieces, r.source.content(stored)
	r.found.Extents += uint64(len(pieces))
	return nil
}

// count adds an entry up, and refuses what the manifest does not have room for.
func (r *reader) count(e *entry) error {
	r.found.Entries++
	r.found.Bytes += uint64(total(e.pieces))
	if r.found.Entries > r.manifest.Entries || r.found.Bytes > r.manifest.Bytes || r.found.Extents > r.manifest.Extents {
		return fmt.Errorf("there is more than the manifest says, which is %d entries, %d bytes, %d extents", r.manifest.Entries, r.manifest.Bytes, r.manifest.Extents)
	}
	return nil
}

// copyBytes is how much content is read at a time.
const copyBytes = 256 << 10

// read reads the content of an entry and calls put with it piece by piece, and where it belongs.
func (r *reader) read(ctx context.Context, e *entry, buf []byte, put func(p []byte, at int64) error) error {
	for _, p := range e.pieces {
		for at := p.offset; at < p.end(); {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := buf[:min(int64(len(buf)), p.end()-at)]
			if _, err := io.ReadFull(e.content, part); err != nil {
				return r.source.damaged(err)
			}
			if err := put(part, at); err != nil {
				return err
			}
			at += int64(len(part))
		}
	}
	return nil
}

// end checks the digest and that nothing follows it. It returns io.EOF if all is well.
func (r *reader) end(h *tar.Header) error {
	want := r.source.sum() // before anything else is read
	if h.Typeflag != tar.TypeReg || h.Size != int64(len(want))+1 {
		return r.source.damaged(errors.New("its digest is none"))
	}
	text, err := io.ReadAll(r.tar)
	if err != nil {
		return r.source.damaged(err)
	}
	if string(text) != want+"\n" {
		return r.source.damaged(errors.New("it has another digest than it says"))
	}
	if _, err := r.tar.Next(); err != io.EOF {
		return r.source.damaged(errors.New("something follows its digest"))
	}
	if n, err := io.Copy(io.Discard, r.source); n != 0 || err != nil {
		return r.source.damaged(errors.New("something follows its end"))
	}
	if r.found.Entries != r.manifest.Entries || r.found.Bytes != r.manifest.Bytes || r.found.Extents != r.manifest.Extents {
		return fmt.Errorf("the archive holds %d entries, %d bytes and %d extents, and its manifest says %d, %d and %d: %w", r.found.Entries, r.found.Bytes,
			r.found.Extents, r.manifest.Entries, r.manifest.Bytes, r.manifest.Extents, errdefs.ErrInvalidArgument)
	}
	return io.EOF
}

// maxPath bounds paths from the volume's root, in bytes: with "/data/" before it and a zero after it one can still be named
// (PATH_MAX).
const maxPath = 4096 - len("/data/") - 1

// parsePath splits a path of an archive into names, and refuses what is not plainly below data/.
func parsePath(path string, directory bool) ([]string, error) {
	if directory {
		path = strings.TrimSuffix(path, "/")
	}
	if path == dataName {
		return nil, nil
	}
	rest, ok := strings.CutPrefix(path, dataName+"/")
	if !ok || len(rest) > maxPath {
		return nil, fmt.Errorf("a path of %d bytes that is not below %s/, or too long", len(path), dataName)
	}
	names := strings.Split(rest, "/")
	for _, name := range names {
		if name == "" || name == "." || name == ".." || strings.IndexByte(name, 0) >= 0 {
			return nil, fmt.Errorf("a path with the name %q", name)
		}
	}
	return names, nil
}
