package volume

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

// superblock is what the package reads of an ext4 superblock (Documentation/filesystems/ext4/super.rst). While the file system is mounted
// the image holds the values of some earlier moment.
type superblock struct {
	valid           bool   // it is one: magic number, and checksum where it has one
	blockSize       uint64 // in bytes
	blocks, free    uint64
	overhead        uint64 // blocks of the file system's own
	inodes, unused  uint64
	groupBlocks     uint64 // of a block group
	descriptorBytes uint64 // of a group descriptor
	reserved        uint64 // blocks kept for the descriptors of groups to come
	state           uint16
	recover         bool // the journal holds what is not in its place yet
	mounts          uint16
	maxMounts       int16
	checked         time.Time
	interval        time.Duration // between whole checks; 0 is none
}

const (
	superblockOffset = 1024
	superblockBytes  = 1024
	ext4Magic        = 0xef53
	stateClean       = 0x1
	stateErrors      = 0x2
	incompatRecover  = 0x4
	incompat64Bit    = 0x80
	roCompatChecksum = 0x400
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readSuperblock reads the superblock of an image. One that cannot be is not valid, which is no error.
func readSuperblock(r io.ReaderAt) (superblock, error) {
	var b [superblockBytes]byte
	if n, err := r.ReadAt(b[:], superblockOffset); err != nil && !(err == io.EOF && n < len(b)) {
		return superblock{}, fmt.Errorf("read the superblock: %w", err)
	}
	le := binary.LittleEndian
	half, word := func(at int) uint16 { return le.Uint16(b[at:]) }, func(at int) uint64 { return uint64(le.Uint32(b[at:])) }
	seconds := func(at int) time.Time { return time.Unix(int64(word(at)), 0) }
	incompat, roCompat := word(0x60), word(0x64)
	s := superblock{
		valid:           half(0x38) == ext4Magic && word(0x18) <= 6,
		blocks:          word(0x4),
		free:            word(0xc),
		overhead:        word(0x248),
		inodes:          word(0x0),
		groupBlocks:     word(0x20),
		descriptorBytes: 32,
		reserved:        uint64(half(0xce)),
		unused:          word(0x10),
		state:           half(0x3a),
		recover:         incompat&incompatRecover != 0,
		mounts:          half(0x34),
		maxMounts:       int16(half(0x36)),
		checked:         seconds(0x40),
		interval:        time.Duration(word(0x44)) * time.Second,
	}
	if !s.valid {
		return s, nil
	}
	s.blockSize = 1024 << word(0x18)
	if incompat&incompat64Bit != 0 {
		s.blocks |= word(0x150) << 32
		s.free |= word(0x158) << 32
		s.descriptorBytes = uint64(half(0xfe))
	}
	if roCompat&roCompatChecksum != 0 {
		// ext4 does not invert the checksum at its end, as the library does.
		s.valid = uint32(word(0x3fc)) == ^crc32.Checksum(b[:0x3fc], castagnoli)
	}
	return s, nil
}

// FileSystemBytes is the size of the file system of the volume at path, in bytes, as its superblock has it: of a volume that has just
// grown while it was mounted, perhaps what it was before. It is 0 if there is no file system.
func FileSystemBytes(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("volume: %w", err)
	}
	defer f.Close()
	s, err := readSuperblock(f)
	if err != nil {
		return 0, fmt.Errorf("volume %s: %w", path, err)
	}
	return s.bytes(), nil
}

// bytes is the size of the file system.
func (s superblock) bytes() uint64 { return s.blocks * s.blockSize }

// growableTo is the size up to which the descriptors of all block groups have room in their tables.
func (s superblock) growableTo() uint64 {
	if !s.valid || s.groupBlocks == 0 || s.descriptorBytes == 0 {
		return 0
	}
	perBlock := s.blockSize / s.descriptorBytes
	groups := (s.blocks + s.groupBlocks - 1) / s.groupBlocks
	tables := (groups+perBlock-1)/perBlock + s.reserved
	return tables * perBlock * s.groupBlocks * s.blockSize
}

// suspect says why the file system wants to be looked at before it is mounted, or returns "". size is that of the image.
func (s superblock) suspect(size uint64, now time.Time) string {
	switch {
	case !s.valid:
		return "it has no valid superblock"
	case s.bytes() > size:
		return fmt.Sprintf("its file system has %d bytes and the image only %d", s.bytes(), size)
	case s.state&stateErrors != 0:
		return "the kernel found errors in it"
	case s.recover || s.state&stateClean == 0:
		return "it was not unmounted"
	case s.maxMounts > 0 && s.mounts >= uint16(s.maxMounts):
		return fmt.Sprintf("it was mounted %d times since it was last checked", s.mounts)
	case s.interval > 0 && now.Sub(s.checked) >= s.interval:
		return "it was last checked at " + s.checked.UTC().Format(time.RFC3339)
	default:
		return ""
	}
}
