// Package mp4 writes one H.264 video track into an MP4 file (ISO/IEC 14496-12 and 14496-15): ftyp, then the pictures in one
// mdat as they come, then the tables in a moov at the end. Each picture has its true time, so a screen that stands still
// for a minute takes one sample of a minute.
//
// It takes Annex B access units in decoding order without reordered pictures, which is what phone-display makes, and
// never looks inside a slice. Parameter sets move from the pictures into the sample description (avc1); where they change,
// as when a display comes back in another size, a further description is added. Until Close has written the moov the file
// cannot be played. A Writer holds 16 bytes for every picture, is used by one goroutine at a time and starts none.
package mp4

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/encoder/h264"
)

// timeScale is the number of ticks in a second, for the movie and its track: the customary 90 kHz of video.
const timeScale = 90000

// chunkSamples is the most samples of a chunk, so that a player finds any of them with little reading.
const chunkSamples = 64

// mdatHeader is the size of an mdat's header with a 64-bit length.
const mdatHeader = 16

// sample is one picture.
type sample struct {
	at   uint64 // ticks from the first picture
	size uint32
	key  bool
}

// chunk is a run of samples that lie side by side and share a description.
type chunk struct {
	offset      uint64 // in the file
	samples     uint32
	description int // index into Writer.descriptions
}

// Writer writes one MP4 file.
type Writer struct {
	file io.WriteSeeker
	out  *bufio.Writer

	mdat         uint64 // offset of the mdat's header
	offset       uint64 // where the next byte goes
	descriptions []description
	current      int // description of the newest sample, -1 before the first
	samples      []sample
	chunks       []chunk
}

// NewWriter begins a file at file's present position, which must be its start.
func NewWriter(file io.WriteSeeker) (*Writer, error) {
	w := &Writer{file: file, out: bufio.NewWriterSize(file, 256<<10), current: -1}
	head := fileType()
	w.mdat = uint64(len(head))
	// The length is filled in by Close; a length of 1 says that the real one is in the 8 bytes after the name.
	head = append(head, 0, 0, 0, 1, 'm', 'd', 'a', 't', 0, 0, 0, 0, 0, 0, 0, 0)
	if _, err := w.out.Write(head); err != nil {
		return nil, fmt.Errorf("write the file's head: %w", err)
	}
	w.offset = uint64(len(head))
	return w, nil
}

// Write adds one access unit, shown from at on, counted from the recording's beginning. The first must be a key frame with
// its parameter sets. A time that is not after the one before it is moved one tick (1/90000 s) behind it. The error is of
// class errdefs.ErrInvalidArgument for an access unit that is not what it should be; it is then not written.
func (w *Writer) Write(unit []byte, at time.Duration) error {
	var sets parameterSets
	var size uint64
	var key, picture bool
	for nal := range h264.Split(unit) {
		switch nal.Type() {
		case h264.TypeSPS:
			sets.sps = append(sets.sps, nal)
		case h264.TypePPS:
			sets.pps = append(sets.pps, nal)
		}
		if inSample(nal) {
			size += 4 + uint64(len(nal))
		}
		key = key || nal.Type() == h264.SliceIDR
		picture = picture || nal.Type().VCL()
	}
	switch {
	case !picture:
		return fmt.Errorf("access unit of %d bytes has no picture: %w", len(unit), errdefs.ErrInvalidArgument)
	case size > math.MaxUint32:
		return fmt.Errorf("access unit of %d bytes is too large: %w", len(unit), errdefs.ErrInvalidArgument)
	case w.current < 0 && (!key || sets.empty()):
		return fmt.Errorf("the first access unit is no key frame with parameter sets: %w", errdefs.ErrInvalidArgument)
	}
	description, err := w.describe(sets)
	if err != nil {
		return err
	}
	for nal := range h264.Split(unit) {
		if inSample(nal) {
			if err := w.put(nal); err != nil {
				return err
			}
		}
	}
	w.add(sample{at: w.ticks(at), size: uint32(size), key: key}, description)
	return nil
}

// Close writes the tables and so completes the file; end is when the last picture ends. It does not close the file below.
// The error is of class errdefs.ErrFailedPrecondition when there is no picture.
func (w *Writer) Close(end time.Duration) error {
	if len(w.samples) == 0 {
		return fmt.Errorf("no picture was written: %w", errdefs.ErrFailedPrecondition)
	}
	if _, err := w.out.Write(w.movie(w.ticks(end))); err != nil {
		return fmt.Errorf("write the tables: %w", err)
	}
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("write the tables: %w", err)
	}
	if _, err := w.file.Seek(int64(w.mdat)+8, io.SeekStart); err != nil {
		return fmt.Errorf("go back to the length of the pictures: %w", err)
	}
	if err := binary.Write(w.file, binary.BigEndian, w.offset-w.mdat); err != nil {
		return fmt.Errorf("write the length of the pictures: %w", err)
	}
	return nil
}

// inSample says whether a unit is kept in the sample: parameter sets are in the description, delimiters and filler are
// not wanted in MP4.
func inSample(nal h264.NAL) bool {
	const filler = 12
	switch nal.Type() {
	case h264.TypeSPS, h264.TypePPS, h264.AUD, filler:
		return false
	}
	return true
}

// put writes a unit behind its length.
func (w *Writer) put(nal h264.NAL) error {
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(nal)))
	if _, err := w.out.Write(length[:]); err != nil {
		return fmt.Errorf("write a picture: %w", err)
	}
	if _, err := w.out.Write(nal); err != nil {
		return fmt.Errorf("write a picture: %w", err)
	}
	return nil
}

// ticks is a time in ticks, moved behind the newest sample where it is not.
func (w *Writer) ticks(at time.Duration) uint64 {
	at = max(at, 0)
	part := uint64(at % time.Second)
	ticks := uint64(at/time.Second)*timeScale + (part*timeScale+uint64(time.Second)/2)/uint64(time.Second)
	if n := len(w.samples); n > 0 {
		return max(ticks, w.samples[n-1].at+1)
	}
	return ticks
}

// add enters a sample into the tables; its bytes have been written.
func (w *Writer) add(s sample, description int) {
	n := len(w.chunks)
	if n == 0 || w.chunks[n-1].samples == chunkSamples || w.chunks[n-1].description != description {
		w.chunks = append(w.chunks, chunk{offset: w.offset, description: description})
		n++
	}
	w.chunks[n-1].samples++
	w.samples = append(w.samples, s)
	w.current = description
	w.offset += uint64(s.size)
}

// describe returns the description that belongs to an access unit's parameter sets, and adds it where it is new.
func (w *Writer) describe(sets parameterSets) (int, error) {
	if sets.empty() {
		return w.current, nil
	}
	d, err := newDescription(sets)
	if err != nil {
		return 0, err
	}
	for i := range w.descriptions {
		if string(w.descriptions[i].config) == string(d.config) {
			return i, nil
		}
	}
	w.descriptions = append(w.descriptions, d)
	return len(w.descriptions) - 1, nil
}
