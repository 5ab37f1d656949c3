package apk

import (
	"cmp"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
)

const (
	manifestName  = "AndroidManifest.xml"
	resourcesName = "resources.arsc"

	maxDirectory = 16 << 20
	maxManifest  = 8 << 20
	maxResources = 64 << 20
	maxABIs      = 32

	endSignature       = 0x06054b50
	directorySignature = 0x02014b50
	localSignature     = 0x04034b50
	zip64Locator       = 0x07064b50

	endSize       = 22
	directorySize = 46 // of an entry, without its name
	localSize     = 30

	methodStored   = 0
	methodDeflated = 8
	maxRatio       = 1032 // deflate makes no byte of more
)

// file is an entry of the directory.
type file struct {
	name             string
	flags, method    uint16
	crc              uint32
	packed, unpacked int64
	offset           int64 // of its local header
}

// archive is a zip file whose directory has been read. Only what an APK is known by is kept of it.
type archive struct {
	r         io.ReaderAt
	size      int64
	directory int64 // its offset, where the APK Signing Block ends

	files map[string]file // those that are read: the manifest, the resources, the signatures
	abis  []string
	hints hints
}

// openArchive finds and reads the directory.
func openArchive(r io.ReaderAt, size int64) (*archive, error) {
	a := &archive{r: r, size: size, files: map[string]file{}}
	end, at, err := a.findEnd()
	if err != nil {
		return nil, err
	}
	count := binary.LittleEndian.Uint16(end[10:])
	length, offset := int64(binary.LittleEndian.Uint32(end[12:])), int64(binary.LittleEndian.Uint32(end[16:]))
	switch {
	case a.isZip64(at) || count == 0xffff || length == 0xffffffff || offset == 0xffffffff:
		return nil, invalid("the archive is zip64, which Android's signature schemes do not know: pack it with fewer than 65535 entries and below 4 GiB")
	case binary.LittleEndian.Uint16(end[4:]) != 0 || binary.LittleEndian.Uint16(end[6:]) != 0 || binary.LittleEndian.Uint16(end[8:]) != count:
		return nil, invalid("the archive is one part of several: join them")
	case offset+length > at:
		return nil, invalid("the archive is damaged: its directory of %d bytes at %d ends after the end record at %d", length, offset, at)
	case offset+length < at:
		return nil, invalid("the archive is damaged: %d bytes lie between its directory and the end record", at-offset-length)
	case length > maxDirectory:
		return nil, invalid("the archive's directory has %d bytes, more than %d", length, maxDirectory)
	}
	a.directory = offset
	directory := make([]byte, length)
	if err := a.readAt(directory, offset); err != nil {
		return nil, err
	}
	return a, a.readDirectory(directory, int(count))
}

// findEnd returns the end record and where it is.
func (a *archive) findEnd() ([]byte, int64, error) {
	tail := make([]byte, min(a.size, endSize+0xffff))
	if err := a.readAt(tail, a.size-int64(len(tail))); err != nil {
		return nil, 0, err
	}
	for i := len(tail) - endSize; i >= 0; i-- {
		if binary.LittleEndian.Uint32(tail[i:]) != endSignature {
			continue
		}
		if comment := int(binary.LittleEndian.Uint16(tail[i+20:])); i+endSize+comment == len(tail) {
			return tail[i : i+endSize], a.size - int64(len(tail)-i), nil
		}
	}
	return nil, 0, a.notZip()
}

// isZip64 looks for the locator of a zip64 end record, which lies before the end record.
func (a *archive) isZip64(end int64) bool {
	var b [4]byte
	if end < 20 || a.readAt(b[:], end-20) != nil {
		return false
	}
	return binary.LittleEndian.Uint32(b[:]) == zip64Locator
}

// readDirectory goes through the entries.
func (a *archive) readDirectory(b []byte, count int) error {
	names := make(map[string]struct{}, count)
	spans := make([]span, 0, count)
	for range count {
		if len(b) < directorySize || binary.LittleEndian.Uint32(b) != directorySignature {
			return invalid("the archive is damaged: its directory ends after %d of %d entries", len(names), count)
		}
		name, extra, comment := int(binary.LittleEndian.Uint16(b[28:])), int(binary.LittleEndian.Uint16(b[30:])), int(binary.LittleEndian.Uint16(b[32:]))
		if len(b) < directorySize+name+extra+comment {
			return invalid("the archive is damaged: entry %d of its directory is cut off", len(names)+1)
		}
		f := file{
			name:     string(b[directorySize : directorySize+name]),
			flags:    binary.LittleEndian.Uint16(b[8:]),
			method:   binary.LittleEndian.Uint16(b[10:]),
			crc:      binary.LittleEndian.Uint32(b[16:]),
			packed:   int64(binary.LittleEndian.Uint32(b[20:])),
			unpacked: int64(binary.LittleEndian.Uint32(b[24:])),
			offset:   int64(binary.LittleEndian.Uint32(b[42:])),
		}
		b = b[directorySize+name+extra+comment:]
		if _, twice := names[f.name]; twice {
			return invalid("the archive has two entries named %.100q, which Android refuses", f.name)
		}
		names[f.name] = struct{}{}
		if f.packed == 0xffffffff || f.unpacked == 0xffffffff || f.offset == 0xffffffff {
			return invalid("entry %.100q is zip64, which Android does not read in an APK", f.name)
		}
		spans = append(spans, span{f.offset, f.offset + localSize + int64(name) + f.packed, f.name})
		if err := a.keep(f); err != nil {
			return err
		}
	}
	if len(b) != 0 {
		return invalid("the archive is damaged: %d bytes are left after its directory's %d entries", len(b), count)
	}
	return disjoint(spans, a.directory)
}

// span is what an entry takes at least.
type span struct {
	from, to int64
	name     string
}

// disjoint refuses entries that share bytes: no tool writes them, but archives that unpack to more than could ever be sent.
func disjoint(spans []span, limit int64) error {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	for i, s := range spans {
		if s.to > limit {
			return invalid("the archive is damaged: entry %.100q reaches past the directory", s.name)
		}
		if i > 0 && spans[i-1].to > s.from {
			return invalid("entries %.100q and %.100q of the archive overlap", spans[i-1].name, s.name)
		}
	}
	return nil
}

// keep notes an entry that is of use.
func (a *archive) keep(f file) error {
	a.hints.see(f.name)
	if f.name == manifestName || f.name == resourcesName || isSignatureFile(f.name) {
		a.files[f.name] = f
		return nil
	}
	dir, ok := strings.CutPrefix(f.name, "lib/")
	if !ok {
		return nil
	}
	abi, object, ok := strings.Cut(dir, "/")
	if !ok || !strings.HasSuffix(object, ".so") || !isABI(abi) {
		return nil
	}
	i, there := slices.BinarySearch(a.abis, abi)
	switch {
	case there:
	case len(a.abis) == maxABIs:
		return invalid("the archive has native code for more than %d processors", maxABIs)
	default:
		a.abis = slices.Insert(a.abis, i, abi)
	}
	return nil
}

func isABI(name string) bool {
	return name != "" && len(name) <= 32 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

// read unpacks an entry of at most limit bytes and checks its checksum.
func (a *archive) read(f file, limit int64) ([]byte, error) {
	switch {
	case f.flags&1 != 0:
		return nil, invalid("%s is encrypted: an APK must not be", f.name)
	case f.unpacked > limit:
		return nil, invalid("%s has %d bytes, more than %d", f.name, f.unpacked, limit)
	case f.method != methodStored && f.method != methodDeflated:
		return nil, invalid("%s is compressed by method %d, which Android does not know: store or deflate it", f.name, f.method)
	case f.method == methodStored && f.packed != f.unpacked:
		return nil, invalid("the archive is damaged: %s is stored, but its two sizes differ", f.name)
	case f.unpacked > maxRatio*(f.packed+1): // so a size that is only said costs no memory
		return nil, invalid("the archive is damaged: %s cannot have %d bytes, unpacked from %d", f.name, f.unpacked, f.packed)
	}
	start, err := a.dataStart(f)
	if err != nil {
		return nil, err
	}
	var r io.Reader = io.NewSectionReader(a.r, start, f.packed)
	if f.method == methodDeflated {
		r = flate.NewReader(r)
	}
	b := make([]byte, f.unpacked)
	n, err := io.ReadFull(r, b)
	if err == nil {
		var more int
		more, err = io.ReadFull(r, make([]byte, 1))
		n += more
	}
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &corrupt):
		return nil, invalid("the archive is damaged: %s cannot be unpacked: %v", f.name, err)
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("read %s: %w", f.name, err)
	case n != len(b):
		return nil, invalid("the archive is damaged: %s does not have the %d bytes that the directory says", f.name, f.unpacked)
	case crc32.ChecksumIEEE(b) != f.crc:
		return nil, invalid("the archive is damaged: the checksum of %s is wrong", f.name)
	}
	return b, nil
}

// dataStart reads an entry's local header and returns where its data begins.
func (a *archive) dataStart(f file) (int64, error) {
	head := make([]byte, localSize+len(f.name))
	if err := a.readAt(head, f.offset); err != nil {
		return 0, err
	}
	if binary.LittleEndian.Uint32(head) != localSignature || int(binary.LittleEndian.Uint16(head[26:])) != len(f.name) || string(head[localSize:]) != f.name {
		return 0, invalid("the archive is damaged: the directory and the header of %s disagree", f.name)
	}
	start := f.offset + int64(len(head)) + int64(binary.LittleEndian.Uint16(head[28:]))
	if start+f.packed > a.directory {
		return 0, invalid("the archive is damaged: %s reaches past the directory", f.name)
	}
	return start, nil
}

// readAt fills b from an offset. A file that is shorter than its size says is damaged.
func (a *archive) readAt(b []byte, offset int64) error {
	if offset < 0 || offset > a.size-int64(len(b)) {
		return invalid("the archive is cut off: %d bytes at %d are not in its %d bytes", len(b), offset, a.size)
	}
	n, err := a.r.ReadAt(b, offset)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return invalid("the archive is cut off: it was said to have %d bytes and ends at %d", a.size, offset+int64(n))
	}
	return fmt.Errorf("read the archive: %w", err)
}
