package ext4

import (
	"encoding/binary"
	"io"
	"iter"
)

// run is consecutive blocks of a file that lie together: count blocks from the logical block at, at the physical block start; a hole
// has start 0.
type run struct {
	at, count uint64
	start     uint64
}

// maxDepth is the greatest depth of an extent tree.
const maxDepth = 5

// Copy writes the content of a regular file to w, holes as zeros.
func (f *FS) Copy(w io.Writer, in Inode) error {
	if in.Kind != KindFile {
		return invalid("inode %d is no regular file", in.Number)
	}
	return f.each(in, in.Size, func(data []byte) error {
		_, err := w.Write(data)
		return err
	})
}

// Symlink returns where a symbolic link leads.
func (f *FS) Symlink(in Inode) (string, error) {
	if in.Kind != KindSymlink || in.Size == 0 || in.Size > 4096 {
		return "", invalid("inode %d is no symbolic link of 1 to 4096 bytes", in.Number)
	}
	if in.Size < int64(len(in.data)) && in.flags&flagExtents == 0 {
		return string(in.data[:in.Size]), nil
	}
	target := make([]byte, 0, in.Size)
	err := f.each(in, in.Size, func(data []byte) error {
		target = append(target, data...)
		return nil
	})
	return string(target), err
}

// chunk is how much of a file is read at once.
const chunk = 1 << 18

// each calls fn with the content of an inode in order, size bytes in all. What fn gets is valid only within it.
func (f *FS) each(in Inode, size int64, fn func([]byte) error) error {
	buf := make([]byte, max(chunk, f.block))
	left := size
	feed := func(start uint64, count uint64) error {
		for n := min(left, int64(count)*f.block); n > 0; {
			part := buf[:min(n, int64(len(buf)))]
			if start == 0 {
				clear(part)
			} else {
				if err := f.read(part, int64(start)*f.block); err != nil {
					return err
				}
				start += uint64(len(buf)) / uint64(f.block)
			}
			if err := fn(part); err != nil {
				return err
			}
			n, left = n-int64(len(part)), left-int64(len(part))
		}
		return nil
	}
	next := uint64(0)
	for r, err := range f.runs(in) {
		if err != nil {
			return err
		}
		if err := feed(0, r.at-next); err != nil {
			return err
		}
		if err := feed(r.start, r.count); err != nil {
			return err
		}
		if next = r.at + r.count; left == 0 {
			return nil
		}
	}
	return feed(0, (uint64(left)+uint64(f.block)-1)/uint64(f.block))
}

// runs goes through where an inode's blocks lie, in order and within the image.
func (f *FS) runs(in Inode) iter.Seq2[run, error] {
	return func(yield func(run, error) bool) {
		if uint64(in.Size) > 1<<32*uint64(f.block) {
			yield(run{}, invalid("inode %d has a size of %d", in.Number, in.Size))
			return
		}
		next := uint64(0)
		for r, err := range f.rawRuns(in) {
			if err == nil && (r.at < next || r.start != 0 && (r.start >= f.blocks || r.count > f.blocks-r.start)) {
				err = invalid("inode %d has its block %d at %d of %d", in.Number, r.at, r.start, f.blocks)
			}
			if next = r.at + r.count; !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// rawRuns is runs as the image has them.
func (f *FS) rawRuns(in Inode) iter.Seq2[run, error] {
	return func(yield func(run, error) bool) {
		if in.flags&flagExtents != 0 {
			f.extents(in, in.data[:], maxDepth+1, yield)
			return
		}
		f.mapped(in, yield)
	}
}

// extents goes through a node of an extent tree, whose depth must be less than above. It returns false when it is not to go on.
func (f *FS) extents(in Inode, node []byte, above int, yield func(run, error) bool) bool {
	half := func(at int) int { return int(binary.LittleEndian.Uint16(node[at:])) }
	fail := func(format string, args ...any) bool {
		yield(run{}, invalid("extents of inode %d: "+format, append([]any{in.Number}, args...)...))
		return false
	}
	entries, depth := half(2), half(6)
	switch {
	case half(0) != 0xf30a:
		return fail("magic %#x", half(0))
	case depth >= above || above <= maxDepth && depth != above-1:
		return fail("a node of depth %d below one of %d", depth, above)
	case 12+12*entries > len(node) || entries == 0 && above <= maxDepth:
		// That no node is empty bounds how many there are: each leads to a block that no other did.
		return fail("%d entries in a node of %d bytes", entries, len(node))
	}
	for i := range entries {
		entry := node[12+12*i:]
		word := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(entry[at:])) }
		short := func(at int) uint64 { return uint64(binary.LittleEndian.Uint16(entry[at:])) }
		if depth > 0 {
			child, err := f.readBlock(word(4) | short(8)<<32)
			if err != nil {
				yield(run{}, err)
				return false
			}
			if !f.extents(in, child, depth, yield) {
				return false
			}
			continue
		}
		r := run{at: word(0), count: short(4), start: word(8) | short(6)<<32}
		if r.count > 1<<15 { // allocated and never written: zeros
			r.count, r.start = r.count-1<<15, 0
		} else if r.start == 0 {
			return fail("block %d lies at block 0", r.at)
		}
		if r.count == 0 {
			return fail("no blocks at block %d", r.at)
		}
		if !yield(r, nil) {
			return false
		}
	}
	return true
}

// mapped goes through the block map of an inode without extents: twelve blocks, then maps of one, two and three levels.
func (f *FS) mapped(in Inode, yield func(run, error) bool) {
	at := uint64(0)
	last := (uint64(in.Size) + uint64(f.block) - 1) / uint64(f.block)
	for i := range 15 {
		number := uint64(binary.LittleEndian.Uint32(in.data[4*i:]))
		if at >= last || !f.mapLevel(max(i-11, 0), number, &at, last, yield) {
			return
		}
	}
}

// mapLevel goes through the blocks below one entry of a map, level 0 being the block itself. It returns false when it is not to go on.
func (f *FS) mapLevel(level int, number uint64, at *uint64, last uint64, yield func(run, error) bool) bool {
	if level == 0 || number == 0 {
		count := uint64(1)
		for range level {
			count *= uint64(f.block / 4)
		}
		if number != 0 && !yield(run{at: *at, count: 1, start: number}, nil) {
			return false
		}
		*at += count
		return true
	}
	block, err := f.readBlock(number)
	if err != nil {
		yield(run{}, err)
		return false
	}
	for i := 0; i < len(block) && *at < last; i += 4 {
		if !f.mapLevel(level-1, uint64(binary.LittleEndian.Uint32(block[i:])), at, last, yield) {
			return false
		}
	}
	return true
}
