package ext4

import (
	"cmp"
	"io"
	"slices"
)

// maxRuns is how many pieces a file that is opened may lie in; mke2fs writes files of gigabytes in some dozens.
const maxRuns = 1 << 16

// File is the content of a regular file. It may be read by several goroutines.
type File struct {
	fs   *FS
	size int64
	runs []run // in order, none of them a hole
}

// Open looks up where a regular file lies. errdefs.ErrInvalidArgument for what is none, what is damaged, and what lies in more than 65536 pieces.
func (f *FS) Open(in Inode) (*File, error) {
	if in.Kind != KindFile {
		return nil, invalid("inode %d is no regular file", in.Number)
	}
	file := &File{fs: f, size: in.Size}
	for r, err := range f.runs(in) {
		switch {
		case err != nil:
			return nil, err
		case len(file.runs) == maxRuns:
			return nil, invalid("inode %d lies in more than %d pieces", in.Number, maxRuns)
		}
		if r.start != 0 {
			file.add(r)
		}
		if int64(r.at+r.count)*f.block >= in.Size {
			break
		}
	}
	return file, nil
}

// add puts a run at the end, together with the last where it goes on with it.
func (f *File) add(r run) {
	if n := len(f.runs); n > 0 {
		if last := &f.runs[n-1]; last.at+last.count == r.at && last.start+last.count == r.start {
			last.count += r.count
			return
		}
	}
	f.runs = append(f.runs, r)
}

// Size is the size in bytes.
func (f *File) Size() int64 { return f.size }

// ReadAt implements io.ReaderAt; holes are zeros.
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, invalid("read at %d", off)
	}
	if off >= f.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), f.size-off)]
	for n < len(want) {
		part, start := f.piece(want[n:], off+int64(n))
		if start < 0 {
			clear(part)
		} else if err := f.fs.read(part, start); err != nil {
			return n, err
		}
		n += len(part)
	}
	if len(want) < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// piece returns how much of p lies together from off on, and where in the image; -1 for a hole.
func (f *File) piece(p []byte, off int64) (part []byte, start int64) {
	block := f.fs.block
	// The first run that ends behind off.
	i, _ := slices.BinarySearchFunc(f.runs, uint64(off/block), func(r run, at uint64) int { return cmp.Compare(r.at+r.count, at+1) })
	if i == len(f.runs) {
		return p, -1
	}
	r := f.runs[i]
	first, end := int64(r.at)*block, int64(r.at+r.count)*block
	if off < first {
		return p[:min(int64(len(p)), first-off)], -1
	}
	return p[:min(int64(len(p)), end-off)], int64(r.start)*block + off - first
}
