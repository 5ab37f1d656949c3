package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A file with holes is an entry of GNU's sparse format 0.1: its content is what lies between the holes, and records of the pax header
// say where that belongs and what the file is called. archive/tar reads the format but does not write it.
const (
	sparsePrefix = "GNU.sparse."
	sparseName   = sparsePrefix + "name"
	sparseSize   = sparsePrefix + "size"
	sparseBlocks = sparsePrefix + "numblocks"
	sparseMap    = sparsePrefix + "map"
	// sparsePlaceholder is what the entry is called for programs that do not know the format.
	sparsePlaceholder = dataName + "/GNUSparseFile.0/file"
)

// piece is a part of a file that is no hole, in bytes.
type piece struct{ offset, length int64 }

func (p piece) end() int64 { return p.offset + p.length }

// maxPieces bounds the pieces of one file; a map of more would not fit into what archive/tar reads of a header (1 MiB).
const maxPieces = 16384

// total is how much content the pieces are.
func total(pieces []piece) int64 {
	var n int64
	for _, p := range pieces {
		n += p.length
	}
	return n
}

// formatMap writes pieces as the sparse format has them. A file that ends with a hole has an empty piece at its end.
func formatMap(pieces []piece, size int64) (text string, blocks int) {
	if len(pieces) == 0 || pieces[len(pieces)-1].end() < size {
		pieces = append(slices.Clip(pieces), piece{offset: size})
	}
	var b strings.Builder
	for i, p := range pieces {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(p.offset, 10) + "," + strconv.FormatInt(p.length, 10))
	}
	return b.String(), len(pieces)
}

// parseMap reads the pieces of a file of the given size. Those of a good map are in order, within the file, and do not overlap.
func parseMap(records map[string]string, size int64) ([]piece, error) {
	text := records[sparseMap]
	if strings.Count(text, ",") > 2*maxPieces+1 {
		return nil, fmt.Errorf("a map of more than %d pieces", maxPieces)
	}
	numbers := strings.Split(text, ",")
	if len(numbers)%2 != 0 || records[sparseBlocks] != strconv.Itoa(len(numbers)/2) {
		return nil, fmt.Errorf("a map that is not of %s pieces", records[sparseBlocks])
	}
	var pieces []piece
	end := int64(0)
	for pair := range slices.Chunk(numbers, 2) {
		offset, err := strconv.ParseInt(pair[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("a map with the offset %.20q", pair[0])
		}
		length, err := strconv.ParseInt(pair[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("a map with the length %.20q", pair[1])
		}
		if offset < end || length < 0 || length > size-offset {
			return nil, fmt.Errorf("a piece of %d bytes at %d, after one that ends at %d, in a file of %d", length, offset, end, size)
		}
		end = offset + length
		if length > 0 {
			pieces = append(pieces, piece{offset, length})
		}
	}
	return pieces, nil
}

// writeSparseHeader writes the header of a file with holes. h is as for archive/tar, with the file's size.
func writeSparseHeader(w io.Writer, h *tar.Header, pieces []piece) error {
	records := maps.Clone(h.PAXRecords)
	if records == nil {
		records = make(map[string]string)
	}
	records["size"] = strconv.FormatInt(total(pieces), 10)
	records["uid"], records["gid"] = strconv.Itoa(h.Uid), strconv.Itoa(h.Gid)
	records["mtime"] = formatTime(h.ModTime)
	var pax strings.Builder
	for _, key := range slices.Sorted(maps.Keys(records)) {
		pax.WriteString(formatRecord(key, records[key]))
	}
	// GNU tar wants these in this order.
	text, blocks := formatMap(pieces, h.Size)
	pax.WriteString(formatRecord(sparseSize, strconv.FormatInt(h.Size, 10)) + formatRecord(sparseBlocks, strconv.Itoa(blocks)) +
		formatRecord(sparseName, h.Name) + formatRecord(sparseMap, text))
	if _, err := w.Write(header(tar.TypeXHeader, int64(pax.Len()), 0o644)); err != nil {
		return err
	}
	pad := make([]byte, padding(int64(pax.Len())))
	if _, err := io.WriteString(w, pax.String()+string(pad)); err != nil {
		return err
	}
	_, err := w.Write(header(tar.TypeReg, total(pieces), h.Mode))
	return err
}

// padding is what is missing to whole blocks.
func padding(n int64) int64 { return -n & (blockBytes - 1) }

// header is the block before an entry, as POSIX.1 has it for ustar. What does not fit, the records say.
func header(kind byte, size, mode int64) []byte {
	b := make([]byte, blockBytes)
	octal := func(field []byte, n int64) {
		if text := strconv.FormatInt(n, 8); len(text) < len(field) {
			copy(field, strings.Repeat("0", len(field)-1-len(text))+text)
		}
	}
	copy(b[0:100], sparsePlaceholder)
	octal(b[100:108], mode)
	octal(b[108:116], 0)
	octal(b[116:124], 0)
	octal(b[124:136], size)
	octal(b[136:148], 0)
	b[156] = kind
	copy(b[257:265], "ustar\x0000")
	copy(b[148:156], "        ")
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	octal(b[148:155], sum)
	b[155] = ' '
	return b
}

// formatRecord is a record of a pax header: its own length, a blank, key, "=", value, a newline.
func formatRecord(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	n := len(rest) + len(strconv.Itoa(len(rest)))
	if length := len(rest) + len(strconv.Itoa(n)); length != n {
		n = length
	}
	return strconv.Itoa(n) + rest
}

// formatTime is a time as pax has it: seconds since 1970, with a fraction that counts away from it.
func formatTime(t time.Time) string {
	seconds, nanoseconds := t.Unix(), int64(t.Nanosecond())
	sign := ""
	if seconds < 0 {
		sign, seconds = "-", -seconds
		if nanoseconds > 0 {
			seconds, nanoseconds = seconds-1, 1e9-nanoseconds
		}
	}
	return fmt.Sprintf("%s%d.%09d", sign, seconds, nanoseconds)
}
