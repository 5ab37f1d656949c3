package mp4

import (
	"encoding/binary"
	"math"
)

// box is a box with its parts one after another.
func box(kind string, parts ...[]byte) []byte {
	size := 8
	for _, p := range parts {
		size += len(p)
	}
	b := make([]byte, 0, size)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = append(b, kind...)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// full is a box that begins with a version and flags.
func full(kind string, version byte, flags uint32, parts ...[]byte) []byte {
	return box(kind, append([][]byte{u32(uint32(version)<<24 | flags)}, parts...)...)
}

func u16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// unity is the matrix that leaves pictures as they are (14496-12, 6.2.2).
var unity = []byte{
	0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0,
}

func fileType() []byte {
	return box("ftyp", []byte("isom"), u32(0x200), []byte("isomiso6avc1mp41"))
}

// movie is the moov; end is the tick at which the last picture ends. Durations are written with 64 bits: a recording may
// be longer than the 13 hours that 32 bits hold.
func (w *Writer) movie(end uint64) []byte {
	start := w.samples[0].at
	duration := end - start
	header := full("mvhd", 1, 0, u64(0), u64(0), u32(timeScale), u64(duration),
		u32(0x10000), u16(0x100), make([]byte, 10), unity, make([]byte, 24), u32(2))
	return box("moov", header, w.track(duration))
}

func (w *Writer) track(duration uint64) []byte {
	const enabledInMovie = 3
	var width, height int
	for _, d := range w.descriptions {
		width, height = max(width, d.sps.Width), max(height, d.sps.Height)
	}
	header := full("tkhd", 1, enabledInMovie, u64(0), u64(0), u32(1), u32(0), u64(duration),
		make([]byte, 16), unity, u32(uint32(width)<<16), u32(uint32(height)<<16))
	media := box("mdia",
		full("mdhd", 1, 0, u64(0), u64(0), u32(timeScale), u64(duration), u16(0x55c4), u16(0)), // language "und"
		full("hdlr", 0, 0, u32(0), []byte("vide"), make([]byte, 12), []byte("VideoHandler\x00")),
		box("minf",
			full("vmhd", 0, 1, make([]byte, 8)),
			box("dinf", full("dref", 0, 0, u32(1), full("url ", 0, 1))),
			w.sampleTable(w.samples[0].at+duration),
		),
	)
	return box("trak", header, media)
}

func (w *Writer) sampleTable(end uint64) []byte {
	descriptions := u32(uint32(len(w.descriptions)))
	for _, d := range w.descriptions {
		descriptions = append(descriptions, d.entry()...)
	}
	return box("stbl", full("stsd", 0, 0, descriptions), w.times(end), w.keys(), w.chunkRuns(), w.sizes(), w.offsets())
}

// times is the stts: runs of samples with the same duration.
func (w *Writer) times(end uint64) []byte {
	var runs [][2]uint32
	for i, s := range w.samples {
		next := end
		if i+1 < len(w.samples) {
			next = w.samples[i+1].at
		}
		delta := uint32(min(next-s.at, math.MaxUint32))
		if n := len(runs); n > 0 && runs[n-1][1] == delta {
			runs[n-1][0]++
		} else {
			runs = append(runs, [2]uint32{1, delta})
		}
	}
	table := u32(uint32(len(runs)))
	for _, run := range runs {
		table = binary.BigEndian.AppendUint32(table, run[0])
		table = binary.BigEndian.AppendUint32(table, run[1])
	}
	return full("stts", 0, 0, table)
}

// keys is the stss: numbers of the key frames, from 1.
func (w *Writer) keys() []byte {
	table, count := u32(0), uint32(0)
	for i, s := range w.samples {
		if s.key {
			table = binary.BigEndian.AppendUint32(table, uint32(i+1))
			count++
		}
	}
	binary.BigEndian.PutUint32(table, count)
	return full("stss", 0, 0, table)
}

// chunkRuns is the stsc: runs of chunks with as many samples and the same description.
func (w *Writer) chunkRuns() []byte {
	table, count := u32(0), uint32(0)
	for i, c := range w.chunks {
		if i > 0 && c.samples == w.chunks[i-1].samples && c.description == w.chunks[i-1].description {
			continue
		}
		for _, v := range []uint32{uint32(i + 1), c.samples, uint32(c.description + 1)} {
			table = binary.BigEndian.AppendUint32(table, v)
		}
		count++
	}
	binary.BigEndian.PutUint32(table, count)
	return full("stsc", 0, 0, table)
}

func (w *Writer) sizes() []byte {
	table := make([]byte, 0, 8+4*len(w.samples))
	table = append(table, 0, 0, 0, 0) // no common size
	table = binary.BigEndian.AppendUint32(table, uint32(len(w.samples)))
	for _, s := range w.samples {
		table = binary.BigEndian.AppendUint32(table, s.size)
	}
	return full("stsz", 0, 0, table)
}

// offsets is the stco, or the co64 where a chunk lies beyond 4 GiB.
func (w *Writer) offsets() []byte {
	table := u32(uint32(len(w.chunks)))
	if w.chunks[len(w.chunks)-1].offset <= math.MaxUint32 {
		for _, c := range w.chunks {
			table = binary.BigEndian.AppendUint32(table, uint32(c.offset))
		}
		return full("stco", 0, 0, table)
	}
	for _, c := range w.chunks {
		table = binary.BigEndian.AppendUint64(table, c.offset)
	}
	return full("co64", 0, 0, table)
}
