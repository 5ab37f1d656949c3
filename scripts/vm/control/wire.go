package control

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// maxLine bounds the lines of the handshake, with their ends; a longer one is none of ours.
	maxLine = 64 << 10
	// recordHeader is the size of a record's header: a byte 0 and three of length.
	recordHeader = 4
	// maxRecord is the largest payload of a record. The longest frame of a guest fits: yamux's header, our own, and a chunk.
	maxRecord = chunk + 1<<10
)

// wire is one end of the port: lines first, then records. Its bytes are read by one goroutine at a time, and its records written by one.
type wire struct {
	*outbox
	r *bufio.Reader

	begun bool   // the first record has come
	buf   []byte // holds the record that is being taken
	rest  []byte // of it, what was not taken

	head []byte // of a frame whose payload is the next write
}

func newWire(conn io.ReadWriteCloser) *wire {
	return &wire{outbox: newOutbox(conn), r: bufio.NewReaderSize(conn, maxLine), buf: make([]byte, maxRecord)}
}

// line returns the next line of the handshake without its end. All others are dropped, and so is what is too long for one. If
// records may come, it also returns before the first that does.
func (w *wire) line(records bool) (text string, record bool, err error) {
	for {
		if records {
			first, err := w.r.Peek(1)
			if err != nil || first[0] == 0 {
				return "", err == nil, err
			}
		}
		line, err := w.r.ReadSlice('\n')
		whole := true
		for errors.Is(err, bufio.ErrBufferFull) {
			whole = false
			_, err = w.r.ReadSlice('\n')
		}
		if err != nil {
			return "", false, err
		}
		if text := string(line[:len(line)-1]); whole && strings.HasPrefix(text, protocol) {
			return text, false, nil
		}
	}
}

// say writes lines, unless so many wait to be written that the other side has enough to answer.
func (w *wire) say(lines string) { w.offer([]byte(lines), 2*maxRecord) }

// Read reads what the records carry. The lines before the first one are dropped.
func (w *wire) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(w.rest) == 0 {
		if err := w.record(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// record reads a whole record. io.EOF is the end before one.
func (w *wire) record() (err error) {
	for !w.begun {
		if _, w.begun, err = w.line(true); err != nil {
			return err
		}
	}
	var header [recordHeader]byte
	if _, err := io.ReadFull(w.r, header[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(header[:])
	if size == 0 || size > maxRecord {
		return fmt.Errorf("%q is no header of a record of 1 to %d bytes: the other side began anew", header, maxRecord)
	}
	if _, err := io.ReadFull(w.r, w.buf[:size]); err == io.EOF {
		return io.ErrUnexpectedEOF
	} else if err != nil {
		return err
	}
	w.rest = w.buf[:size]
	return nil
}

// Write writes records. p is what yamux writes: the header of a frame or its payload, which become one record if they fit.
func (w *wire) Write(p []byte) (int, error) {
	if len(w.head) == 0 && announces(p) {
		w.head = append(w.head, p...)
		return len(p), nil
	}
	head, rest := w.head, p
	w.head = w.head[:0]
	for len(head)+len(rest) > 0 {
		n := min(len(rest), maxRecord-len(head))
		var header [recordHeader]byte
		binary.BigEndian.PutUint32(header[:], uint32(len(head)+n))
		if err := w.put(header[:], head, rest[:n]); err != nil {
			return 0, err
		}
		head, rest = nil, rest[n:]
	}
	return len(p), nil
}

// announces reports whether p is the header of a frame of yamux's that has a payload: version 0, type 0, flags, the stream, and a
// length that is not 0. https://github.com/hashicorp/yamux/blob/master/spec.md
func announces(p []byte) bool {
	return len(p) == 12 && p[0] == 0 && p[1] == 0 && binary.BigEndian.Uint32(p[8:]) > 0
}
