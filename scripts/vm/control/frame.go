package control

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
)

// kind is what a frame carries.
type kind byte

const (
	frameInput  kind = 1 + iota // to the guest: bytes of stdin or of a file; empty: no more come
	frameOutput                 // to the host: bytes of stdout or of a file
	frameError                  // to the host: bytes of stderr
	frameResize                 // to the guest: columns and rows, 2 bytes each, big endian
	frameSignal                 // to the guest: the number of a signal, 1 byte
	frameCredit                 // to the host: how many more bytes of input it may send, 4 bytes, big endian
	frameResult                 // to the host, the last one: a result as JSON
)

const (
	// headerSize is the size of a frame's kind and length.
	headerSize = 5
	// maxFrame is the largest payload; a longer one is an error of the peer.
	maxFrame = 256 << 10
	// chunk is how many bytes of a stream are put in one frame.
	chunk = 64 << 10
)

// frame is one message of a stream.
type frame struct {
	kind    kind
	payload []byte
}

// readFrame reads one frame, whose payload lies in buf if that is large enough. The end of the stream before a frame is
// io.EOF, within one io.ErrUnexpectedEOF.
func readFrame(r io.Reader, buf []byte) (frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size > maxFrame {
		return frame{}, fmt.Errorf("frame of %d bytes, at most %d are allowed: %w", size, maxFrame, errdefs.ErrInvalidArgument)
	}
	if int(size) > len(buf) {
		buf = make([]byte, size)
	}
	f := frame{kind: kind(header[0]), payload: buf[:size]}
	if _, err := io.ReadFull(r, f.payload); err == io.EOF {
		return frame{}, io.ErrUnexpectedEOF
	} else if err != nil {
		return frame{}, err
	}
	return f, nil
}

// frameWriter writes frames to a stream. It is safe for concurrent use.
type frameWriter struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// write writes one frame with one call of the writer.
func (w *frameWriter) write(k kind, payload []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf[:0], byte(k))
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(payload)))
	w.buf = append(w.buf, payload...)
	_, err := w.w.Write(w.buf)
	return err
}

// result writes the frame that ends a stream.
func (w *frameWriter) result(r result) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return w.write(frameResult, data)
}

// stream returns a writer that puts what it gets into frames of kind k.
func (w *frameWriter) stream(k kind) io.Writer { return streamWriter{w, k} }

type streamWriter struct {
	frames *frameWriter
	kind   kind
}

func (w streamWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, chunk)
		if err := w.frames.write(w.kind, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// result is how a request ended.
type result struct {
	// Code is a program's exit code, 128 and the signal where one ended it.
	Code int `json:"code"`
	// Error is why the request was not carried out, Class its class of errdefs.
	Error string `json:"error,omitempty"`
	Class string `json:"class,omitempty"`
}

// classes are the classes of errors that cross the port.
var classes = []struct {
	name string
	err  error
}{
	{"not found", errdefs.ErrNotFound},
	{"permission denied", errdefs.ErrPermissionDenied},
	{"already exists", errdefs.ErrAlreadyExists},
	{"invalid argument", errdefs.ErrInvalidArgument},
	{"failed precondition", errdefs.ErrFailedPrecondition},
	{"unavailable", errdefs.ErrUnavailable},
	{"unimplemented", errdefs.ErrNotImplemented},
}

// err returns the error that the result tells, or nil.
func (r result) err() error {
	if r.Error == "" {
		return nil
	}
	for _, c := range classes {
		if c.name == r.Class {
			return guestError{r.Error, c.err}
		}
	}
	return guestError{r.Error, errdefs.ErrUnknown}
}

// guestError is an error of the guest: its text already tells the class.
type guestError struct {
	text  string
	class error
}

func (e guestError) Error() string { return e.text }
func (e guestError) Unwrap() error { return e.class }
