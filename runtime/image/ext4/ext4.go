// Package ext4 reads ext4 file systems out of image files, without mounting them.
//
// The kernel is no reader for images that come from elsewhere: its ext4 trusts what it mounts, and a superblock may ask it to panic at
// the first error (s_errors). This package trusts nothing. It reads through an io.ReaderAt, checks every number before it uses it,
// holds one node of a tree and one directory at a time, and starts no goroutine. What it does not know it refuses by name. It reads
// what mke2fs makes with Android's and with its own defaults, extents and block maps; it does not read journals (an image that was not
// unmounted is refused), encryption, inline data, compression or attributes in inodes of their own.
//
// The layout is Documentation/filesystems/ext4 of the kernel. An FS is immutable and may be used by several goroutines.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// The superblock.
const (
	superOffset = 1024
	superSize   = 1024
	// Magic stands at MagicOffset of an image, little-endian.
	Magic       = 0xef53
	MagicOffset = superOffset + 0x38
)

// Features that change the layout (incompat). A file system with one that is not here is refused.
const (
	featureFiletype = 0x2
	featureRecover  = 0x4
	featureExtents  = 0x40
	feature64Bit    = 0x80
	featureMMP      = 0x100
	featureFlexBG   = 0x200
	featureCsumSeed = 0x2000
	featureLargeDir = 0x4000
	featureEncrypt  = 0x10000 // some inodes are, which are refused when they are met
	featureCasefold = 0x20000

	known = featureFiletype | featureExtents | feature64Bit | featureMMP | featureFlexBG | featureCsumSeed | featureLargeDir | featureEncrypt | featureCasefold
)

// unknown names features that are refused.
var unknown = map[uint32]string{
	0x1: "compression", 0x8: "journal_dev", 0x10: "meta_bg", 0x400: "ea_inode", 0x1000: "dirdata", 0x8000: "inline_data",
}

// FS is a file system.
type FS struct {
	r         io.ReaderAt
	block     int64 // size of a block
	blocks    uint64
	firstData uint64 // block of the superblock
	perGroup  uint32 // inodes
	inodes    uint32
	inodeSize int64
	groupSize int64 // of a group descriptor
}

// Open reads the superblock of the image in r, of size bytes. errdefs.ErrInvalidArgument for what is no ext4, is cut off, was not
// unmounted or needs what the package does not know; an error of r comes back as it is.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	var s [superSize]byte
	if _, err := r.ReadAt(s[:], superOffset); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, invalid("%d bytes are too few for a superblock", size)
		}
		return nil, err
	}
	if magic := binary.LittleEndian.Uint16(s[0x38:]); magic != Magic {
		return nil, invalid("there is no superblock: magic %#x", magic)
	}
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(s[at:]) }
	if err := checkFeatures(word(0x60)); err != nil {
		return nil, err
	}
	f := &FS{r: r, inodes: word(0x0), blocks: uint64(word(0x4)), firstData: uint64(word(0x14)), perGroup: word(0x28), inodeSize: 128, groupSize: 32}
	if word(0x18) > 6 {
		return nil, invalid("blocks of 2^%d KiB", word(0x18))
	}
	f.block = 1024 << word(0x18)
	if word(0x4c) > 0 { // revision
		f.inodeSize = int64(binary.LittleEndian.Uint16(s[0x58:]))
	}
	if word(0x60)&feature64Bit != 0 {
		f.blocks |= uint64(word(0x150)) << 32
		f.groupSize = int64(binary.LittleEndian.Uint16(s[0xfe:]))
	}
	switch {
	case f.inodeSize < 128 || f.inodeSize > f.block || f.inodeSize&(f.inodeSize-1) != 0:
		return nil, invalid("inodes of %d bytes", f.inodeSize)
	case f.groupSize < 32 || f.groupSize > f.block:
		return nil, invalid("group descriptors of %d bytes", f.groupSize)
	case f.perGroup == 0 || f.inodes == 0:
		return nil, invalid("no inodes")
	case f.blocks > uint64(size/f.block):
		return nil, invalid("the file is %d bytes and its file system %d blocks of %d: it is cut off", size, f.blocks, f.block)
	}
	return f, nil
}

func checkFeatures(incompat uint32) error {
	if incompat&featureRecover != 0 {
		return invalid("it was not unmounted: its journal must be replayed first (e2fsck -f IMAGE)")
	}
	var names []string
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if incompat&bit&^known == 0 {
			continue
		}
		name := unknown[bit]
		if name == "" {
			name = fmt.Sprintf("incompatible feature %#x", bit)
		}
		names = append(names, name)
	}
	if names != nil {
		return invalid("it uses %s, which is not read here", strings.Join(names, ", "))
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("ext4 image: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// read reads the whole of buf at a place that must be within the file system.
func (f *FS) read(buf []byte, offset int64) error {
	if offset < 0 || offset+int64(len(buf)) > int64(f.blocks)*f.block {
		return invalid("bytes %d to %d are outside of it", offset, offset+int64(len(buf)))
	}
	_, err := f.r.ReadAt(buf, offset)
	if errors.Is(err, io.EOF) {
		return invalid("the file ends at byte %d, within its file system", offset)
	}
	return err
}

// readBlock reads a block.
func (f *FS) readBlock(number uint64) ([]byte, error) {
	if number == 0 || number >= f.blocks {
		return nil, invalid("block %d of %d", number, f.blocks)
	}
	buf := make([]byte, f.block)
	return buf, f.read(buf, int64(number)*f.block)
}

// Root is the number of the root directory's inode.
const Root = 2

// Kinds of files: the highest four bits of a mode, as in stat(2).
const (
	KindFIFO    = 0x1000
	KindChar    = 0x2000
	KindDir     = 0x4000
	KindBlock   = 0x6000
	KindFile    = 0x8000
	KindSymlink = 0xa000
	KindSocket  = 0xc000

	kindMask = 0xf000
)

// Inode is a file, a directory or a link.
type Inode struct {
	Number uint32
	// Kind is one of the Kind constants.
	Kind uint16
	// Perm are the permissions with the set-id and sticky bits, 0o0000..0o7777.
	Perm     uint16
	UID, GID uint32
	// Size in bytes.
	Size int64
	// Links is the number of its names.
	Links   uint16
	ModTime time.Time

	flags uint32
	data  [60]byte // i_block: a map, the root of an extent tree, or a short link
	attr  uint64   // block of attributes, 0 without one
	extra []byte   // what follows the inode: attributes
}

// Flags of inodes.
const (
	flagEncrypt    = 0x800
	flagExtents    = 0x80000
	flagEAInode    = 0x200000
	flagInlineData = 0x10000000
	flagCompressed = 0x4
)

// Inode reads an inode. errdefs.ErrInvalidArgument for a number that no inode has, and for one that is damaged or not known here.
func (f *FS) Inode(number uint32) (Inode, error) {
	if number == 0 || number > f.inodes {
		return Inode{}, invalid("inode %d of %d", number, f.inodes)
	}
	table, err := f.inodeTable((number - 1) / f.perGroup)
	if err != nil {
		return Inode{}, err
	}
	raw := make([]byte, f.inodeSize)
	if err := f.read(raw, int64(table)*f.block+int64((number-1)%f.perGroup)*f.inodeSize); err != nil {
		return Inode{}, err
	}
	return parseInode(number, raw)
}

// inodeTable returns the first block of a group's inodes.
func (f *FS) inodeTable(group uint32) (uint64, error) {
	raw := make([]byte, f.groupSize)
	if err := f.read(raw, int64(f.firstData+1)*f.block+int64(group)*f.groupSize); err != nil {
		return 0, err
	}
	table := uint64(binary.LittleEndian.Uint32(raw[0x8:]))
	if len(raw) >= 64 {
		table |= uint64(binary.LittleEndian.Uint32(raw[0x28:])) << 32
	}
	if table == 0 || table >= f.blocks {
		return 0, invalid("inodes of group %d at block %d of %d", group, table, f.blocks)
	}
	return table, nil
}

func parseInode(number uint32, raw []byte) (Inode, error) {
	half := func(at int) uint32 { return uint32(binary.LittleEndian.Uint16(raw[at:])) }
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(raw[at:]) }
	in := Inode{
		Number: number, Kind: uint16(half(0)) & kindMask, Perm: uint16(half(0)) &^ kindMask,
		UID: half(0x2) | half(0x78)<<16, GID: half(0x18) | half(0x7a)<<16,
		Size: int64(word(0x4)) | int64(word(0x6c))<<32, Links: uint16(half(0x1a)), ModTime: time.Unix(int64(int32(word(0x10))), 0).UTC(),
		flags: word(0x20), attr: uint64(word(0x68)) | uint64(half(0x76))<<32,
	}
	copy(in.data[:], raw[0x28:])
	if len(raw) > 128+2 {
		extra := int(half(0x80))
		if extra%4 != 0 || 128+extra > len(raw) {
			return Inode{}, invalid("inode %d is %d bytes longer than an inode", number, extra)
		}
		in.extra = raw[128+extra:]
		if extra >= 12 { // i_mtime_extra: two more bits of seconds, and nanoseconds
			more := word(0x88)
			in.ModTime = time.Unix(int64(int32(word(0x10)))+int64(more&3)<<32, int64(more>>2)).UTC()
		}
	}
	switch {
	case in.Kind == 0 || in.Links == 0:
		return Inode{}, invalid("inode %d is in no use", number)
	case in.Size < 0:
		return Inode{}, invalid("inode %d has a size of %d", number, in.Size)
	}
	for flag, what := range map[uint32]string{flagEncrypt: "encrypted", flagEAInode: "an attribute", flagInlineData: "kept in its inode", flagCompressed: "compressed"} {
		if in.flags&flag != 0 {
			return Inode{}, invalid("inode %d is %s, which is not read here", number, what)
		}
	}
	return in, nil
}
