package preinstalled

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/image/ext4"
	"github.com/phonehost/phonehost/runtime/image/spool"
)

// The files of an APEX that matter here (AOSP, system/apex/docs/README.md): the file system, which is stored and not compressed so that it can be
// mounted in place, and in a compressed APEX the APEX.
const (
	payloadName    = "apex_payload.img"
	compressedName = "original_apex"
)

const (
	// maxDirectory is how many bytes of an APEX are read to find its files; it has a dozen.
	maxDirectory = 1 << 20
	// maxUnpacked is how many bytes all compressed APEXes of an image may have when they are unpacked; the largest of Android 15, ART's, has some 60 MB.
	maxUnpacked = 1 << 30
)

// packed looks at a packed APEX, a file. One whose file system cannot be read is noted, and logged: an image is not wrong for having what this
// package does not know.
func (s *scan) packed(name string) error {
	err := s.look(name, func(f *os.File, size int64) error { return s.archive(name, f, size, false) })
	if errdefs.IsInvalidArgument(err) && !errors.Is(err, errExceeds) {
		s.logger.Warn("a packed APEX of an image cannot be read; which packages it brings is not known", "file", name, "error", err)
		s.found.UnreadAPEX = true
		return nil
	}
	return err
}

// archive looks at an APEX, or at one that is compressed.
func (s *scan) archive(name string, r io.ReaderAt, size int64, unpacked bool) error {
	files, err := list(r, size)
	if err != nil {
		return err
	}
	if payload := files[payloadName]; payload != nil {
		return s.payload(name, r, payload)
	}
	inner := files[compressedName]
	if inner == nil || unpacked {
		return fmt.Errorf("it has neither %s nor %s: %w", payloadName, compressedName, errdefs.ErrInvalidArgument)
	}
	return s.compressed(name, inner)
}

// compressed looks at the APEX in a compressed one. It is unpacked into a file that has no name.
func (s *scan) compressed(name string, inner *zip.File) error {
	file, err := spool.New(s.spool.Dir, s.spool.Room)
	if err == nil {
		defer file.Close()
		err = file.Ask()
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	r, err := inner.Open()
	if err != nil {
		return notAZip(err)
	}
	defer r.Close()
	out, room := &spooled{w: file}, s.most.unpacked-s.unpacked
	n, err := io.Copy(out, io.LimitReader(haltable{r, s.halted}, room+1))
	s.unpacked = min(s.unpacked+n, s.most.unpacked)
	switch halted := s.halted(); {
	case halted != nil:
		return halted
	case out.err != nil:
		return fmt.Errorf("unpack %s: %w", name, out.err)
	case err != nil:
		return notAZip(err)
	case n > room:
		return fmt.Errorf("the compressed APEXes of the image have more than %d bytes when unpacked: %w", s.most.unpacked, errdefs.ErrInvalidArgument)
	}
	return s.archive(name, file, n, true)
}

// spooled tells errors of writing from those of what is written.
type spooled struct {
	w   io.Writer
	err error
}

func (s *spooled) Write(p []byte) (n int, err error) {
	n, s.err = s.w.Write(p)
	return n, s.err
}

// haltable ends reading when it is time to give up.
type haltable struct {
	r      io.Reader
	halted func() error
}

func (h haltable) Read(p []byte) (int, error) {
	if err := h.halted(); err != nil {
		return 0, err
	}
	return h.r.Read(p)
}

// payload looks at the file system of an APEX.
func (s *scan) payload(name string, r io.ReaderAt, file *zip.File) error {
	if file.Method != zip.Store || file.UncompressedSize64 > math.MaxInt64 {
		return fmt.Errorf("%s is compressed: %w", payloadName, errdefs.ErrInvalidArgument)
	}
	at, err := file.DataOffset()
	if err != nil {
		return notAZip(err)
	}
	size := int64(file.UncompressedSize64)
	fs, err := ext4.Open(io.NewSectionReader(r, at, size), size)
	if err != nil {
		return fmt.Errorf("%s: %w", payloadName, err)
	}
	p := &packedAPEX{scan: s, name: name, fs: fs}
	root, err := fs.Inode(ext4.Root)
	if err != nil {
		return err
	}
	return p.each("", root, func(name string, in ext4.Inode) error {
		for _, dir := range appDirs {
			if name == "/"+dir && in.Kind == ext4.KindDir {
				return p.each(name, in, p.app)
			}
		}
		return nil
	})
}

// packedAPEX is the file system of one APEX. Links in it are not followed: apexes have none to packages.
type packedAPEX struct {
	*scan
	name string
	fs   *ext4.FS
}

// each shows what a directory has.
func (p *packedAPEX) each(dir string, in ext4.Inode, show func(name string, in ext4.Inode) error) error {
	return p.fs.ReadDir(in, func(e ext4.Entry) error {
		if err := p.count(); err != nil {
			return err
		}
		in, err := p.fs.Inode(e.Inode)
		if err != nil {
			return err
		}
		return show(path.Join(dir, "/", e.Name), in)
	})
}

// app is scan.app.
func (p *packedAPEX) app(name string, in ext4.Inode) error {
	if in.Kind == ext4.KindDir {
		return p.each(name, in, p.file)
	}
	return p.file(name, in)
}

// file is scan.file.
func (p *packedAPEX) file(name string, in ext4.Inode) error {
	if in.Kind != ext4.KindFile || !strings.HasSuffix(name, ".apk") {
		return nil
	}
	if err := p.countAPK(); err != nil {
		return err
	}
	f, err := p.fs.Open(in)
	if err != nil {
		return err
	}
	return p.add(p.name+"!"+name, f, f.Size())
}

// list reads which files an APEX has.
func list(r io.ReaderAt, size int64) (map[string]*zip.File, error) {
	bounded := &firstReads{r: r, left: maxDirectory}
	z, err := zip.NewReader(bounded, size)
	if err != nil {
		return nil, notAZip(err)
	}
	bounded.left = math.MaxInt64 // it is the directory that is read at once
	files := make(map[string]*zip.File, len(z.File))
	for _, f := range z.File {
		if files[f.Name] != nil {
			return nil, fmt.Errorf("it has %q twice: %w", f.Name, errdefs.ErrInvalidArgument)
		}
		files[f.Name] = f
	}
	return files, nil
}

// firstReads bounds how much is read. It is for one goroutine at a time.
type firstReads struct {
	r    io.ReaderAt
	left int64
}

func (f *firstReads) ReadAt(p []byte, off int64) (int, error) {
	if f.left -= int64(len(p)); f.left < 0 {
		return 0, fmt.Errorf("its directory has more than %d bytes: %w", int64(maxDirectory), errdefs.ErrInvalidArgument)
	}
	return f.r.ReadAt(p, off)
}

// notAZip makes the errors of a malformed archive ErrInvalidArgument, and leaves those of reading as they are.
func notAZip(err error) error {
	var path *os.PathError
	if errors.As(err, &path) || errdefs.IsInvalidArgument(err) {
		return err
	}
	return fmt.Errorf("it is no APEX: %w: %w", err, errdefs.ErrInvalidArgument)
}
