package display

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
)

// MaxMessage is the largest message that either side may send, in bytes without the length in front of it.
const MaxMessage = 8 << 20

// keepBuffer is the capacity up to which a read buffer is kept for the next message: large key frames and screenshots are
// rare, and every phone has a buffer.
const keepBuffer = 256 << 10

// AppendMessage appends m with its length in front to b. It returns errdefs.ErrInvalidArgument for a message of more than
// MaxMessage bytes.
func AppendMessage(b []byte, m proto.Message) ([]byte, error) {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err != nil {
		return b[:start], fmt.Errorf("encode display message: %w", err)
	}
	n := len(b) - start - 4
	if n > MaxMessage {
		return b[:start], fmt.Errorf("display message of %d bytes, at most %d: %w", n, MaxMessage, errdefs.ErrInvalidArgument)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(n))
	return b, nil
}

// messageReader reads messages from one stream through a buffer that it keeps. It is for one goroutine.
type messageReader struct {
	r   io.Reader
	buf []byte
}

// ReadMessage reads one message of r into m. It returns io.EOF when the stream ends between two messages, and
// errdefs.ErrInvalidArgument for what cannot be a message.
func ReadMessage(r io.Reader, m proto.Message) error {
	return (&messageReader{r: r}).read(m)
}

// read reads one message into m, which keeps nothing of the reader's buffer.
func (mr *messageReader) read(m proto.Message) error {
	var head [4]byte
	if _, err := io.ReadFull(mr.r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxMessage {
		return fmt.Errorf("display message of %d bytes, at most %d: %w", n, MaxMessage, errdefs.ErrInvalidArgument)
	}
	if cap(mr.buf) < int(n) {
		mr.buf = make([]byte, n)
	}
	body := mr.buf[:n]
	if cap(mr.buf) > keepBuffer {
		mr.buf = nil
	}
	if _, err := io.ReadFull(mr.r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("decode display message: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}
