package hub

import (
	"io"
	"net"
	"sync"

	"github.com/phonehost/phonehost/agent/tunnel"
)

// halfCloser is a connection whose two directions end on their own.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// splice passes bytes both ways until both directions have ended, each in its own time, or one has failed, which ends both.
// It closes both connections. What it holds is one buffer for each direction: a side that does not read stops the other.
func splice(a, b halfCloser) {
	var back sync.WaitGroup
	back.Go(func() { pass(a, b) })
	pass(b, a)
	back.Wait()
	_ = a.Close()
	_ = b.Close()
}

// buffers are of the size of one yamux frame, so that a frame that comes in goes out as one.
var buffers = sync.Pool{New: func() any { return new([tunnel.ChunkSize]byte) }}

// pass copies from src to dst until src ends, and ends dst's direction then. After an error there is nobody to talk to.
func pass(dst, src halfCloser) {
	buf := buffers.Get().(*[tunnel.ChunkSize]byte)
	defer buffers.Put(buf)
	// Plain reader and writer: no other way of copying may come in.
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf[:])
	if err == nil {
		err = dst.CloseWrite()
	}
	if err != nil {
		_ = dst.Close()
		_ = src.Close()
	}
}
