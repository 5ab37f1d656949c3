package control

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
	"google.golang.org/protobuf/proto"
)

// maxMessage bounds a message in bytes, either way.
const maxMessage = 8 << 20

// messageReader reads messages from a client.
type messageReader struct {
	in     io.Reader
	header [4]byte
	body   bytes.Buffer
}

// next reads one message. Memory grows with what arrives, not with what its header announces. The error is io.EOF at the end
// between two messages, of class InvalidArgument for bytes that are no message, and else the connection's.
func (r *messageReader) next() (*displayv1.ClientMessage, error) {
	if _, err := io.ReadFull(r.in, r.header[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(r.header[:]))
	if n > maxMessage {
		return nil, fmt.Errorf("message of %d bytes: at most %d: %w", n, maxMessage, errdefs.ErrInvalidArgument)
	}
	if r.body.Cap() > 64<<10 {
		r.body = bytes.Buffer{} // a large message was rare
	}
	r.body.Reset()
	if _, err := io.CopyN(&r.body, r.in, n); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	m := &displayv1.ClientMessage{}
	if err := proto.Unmarshal(r.body.Bytes(), m); err != nil {
		return nil, fmt.Errorf("decode message of %d bytes: %w: %w", n, err, errdefs.ErrInvalidArgument)
	}
	return m, nil
}

// messageWriter writes messages to a client, whole ones, from any goroutine.
type messageWriter struct {
	out net.Conn

	mu     sync.Mutex
	buffer []byte
}

// write sends one message. After an error the connection is closed, because the client cannot know where a message ends.
func (w *messageWriter) write(m *displayv1.ServerMessage) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	buffer, err := proto.MarshalOptions{}.MarshalAppend(append(w.buffer[:0], 0, 0, 0, 0), m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if w.buffer = buffer; cap(buffer) > 256<<10 {
		w.buffer = nil // a large message was rare
	}
	n := len(buffer) - 4
	if n > maxMessage {
		return fmt.Errorf("message of %d bytes: at most %d: %w", n, maxMessage, errdefs.ErrInternal)
	}
	binary.BigEndian.PutUint32(buffer, uint32(n))
	if err := w.out.SetWriteDeadline(time.Now().Add(WriteTimeout)); err != nil {
		return err
	}
	if _, err := w.out.Write(buffer); err != nil {
		w.out.Close()
		return fmt.Errorf("write to client: %w", err)
	}
	return nil
}
