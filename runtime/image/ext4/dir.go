package ext4

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Entry is a name in a directory.
type Entry struct {
	Name  string
	Inode uint32
}

// ReadDir calls fn for each name in a directory but . and .., in the directory's order. Each name is one that a directory can have.
func (f *FS) ReadDir(in Inode, fn func(Entry) error) error {
	if in.Kind != KindDir || in.Size%f.block != 0 {
		return invalid("inode %d is no directory of whole blocks", in.Number)
	}
	return f.each(in, in.Size, func(data []byte) error {
		for ; len(data) > 0; data = data[f.block:] {
			if err := readEntries(in.Number, data[:f.block], fn); err != nil {
				return err
			}
		}
		return nil
	})
}

// readEntries goes through a block of a directory. The nodes of a directory's index look like unused entries.
func readEntries(dir uint32, block []byte, fn func(Entry) error) error {
	for len(block) > 0 {
		if len(block) < 8 {
			return invalid("directory %d: %d bytes after an entry", dir, len(block))
		}
		inode, size, length := binary.LittleEndian.Uint32(block), int(binary.LittleEndian.Uint16(block[4:])), int(block[6])
		if size == 0xffff || size == 0 { // of blocks of 64 KiB
			size = 1 << 16
		}
		if size < 8 || size%4 != 0 || size > len(block) || 8+length > size {
			return invalid("directory %d: an entry of %d bytes with a name of %d, %d before the end of its block", dir, size, length, len(block))
		}
		name := block[8 : 8+length]
		block = block[size:]
		if inode == 0 {
			continue
		}
		if length == 0 || bytes.ContainsAny(name, "/\x00") {
			return invalid("directory %d: the name %q", dir, name)
		}
		if s := string(name); s != "." && s != ".." {
			if err := fn(Entry{Name: s, Inode: inode}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Attr is an extended attribute, by its full name such as "security.capability".
type Attr struct{ Name, Value string }

const attrMagic = 0xea020000

// attrPrefixes are the beginnings of names, by their number.
var attrPrefixes = map[byte]string{1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.", 7: "system."}

// Attrs returns the extended attributes of an inode: those beside it, and those in its block of attributes.
func (f *FS) Attrs(in Inode) ([]Attr, error) {
	var attrs []Attr
	if len(in.extra) >= 4 && binary.LittleEndian.Uint32(in.extra) == attrMagic {
		var err error
		if attrs, err = readAttrs(in.Number, in.extra[4:], in.extra[4:]); err != nil {
			return nil, err
		}
	}
	if in.attr == 0 {
		return attrs, nil
	}
	block, err := f.readBlock(in.attr)
	if err != nil {
		return nil, err
	}
	if magic := binary.LittleEndian.Uint32(block); magic != attrMagic {
		return nil, invalid("attributes of inode %d: magic %#x", in.Number, magic)
	}
	more, err := readAttrs(in.Number, block[32:], block)
	return append(attrs, more...), err
}

// readAttrs reads entries until the one that is zero. Their values lie in values, at offsets that they give.
func readAttrs(inode uint32, entries, values []byte) ([]Attr, error) {
	var attrs []Attr
	for {
		if len(entries) < 4 || binary.LittleEndian.Uint32(entries) == 0 {
			return attrs, nil
		}
		if len(entries) < 16 || len(entries) < 16+int(entries[0]) {
			return nil, invalid("attributes of inode %d: an entry is cut off", inode)
		}
		length, prefix := int(entries[0]), attrPrefixes[entries[1]]
		offset, size := int(binary.LittleEndian.Uint16(entries[2:])), int64(binary.LittleEndian.Uint32(entries[8:]))
		name := prefix + string(entries[16:16+length])
		switch {
		case binary.LittleEndian.Uint32(entries[4:]) != 0:
			return nil, invalid("attributes of inode %d: the value of %q is in an inode of its own, which is not read here", inode, name)
		case prefix == "" || strings.ContainsRune(name, 0):
			return nil, invalid("attributes of inode %d: the name %q of kind %d", inode, name, entries[1])
		case size > int64(len(values)) || offset > len(values)-int(size):
			return nil, invalid("attributes of inode %d: the value of %q is outside", inode, name)
		}
		attrs = append(attrs, Attr{Name: name, Value: string(values[offset : offset+int(size)])})
		entries = entries[min(len(entries), (16+length+3)&^3):]
	}
}
