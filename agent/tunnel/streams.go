package tunnel

import (
	"net"
	"sync"
)

// Streams is the net.Listener into which doors deliver the streams that peers open: what grpc.Server.Serve takes. Every
// connection that it returns is a *Stream and so an access.PeerConn. It is safe for concurrent use.
type Streams struct {
	ready  chan *Stream
	closed chan struct{}
	once   sync.Once
}

// NewStreams returns Streams that wait to be served.
func NewStreams() *Streams {
	return &Streams{ready: make(chan *Stream), closed: make(chan struct{})}
}

// Accept waits for the next stream. After Close its error is net.ErrClosed.
func (s *Streams) Accept() (net.Conn, error) {
	select {
	case <-s.closed:
		return nil, net.ErrClosed
	case stream := <-s.ready:
		return stream, nil
	}
}

// Close ends Accept. Streams that come later are closed; those that were accepted live on.
func (s *Streams) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr returns a name in place of an address: streams have their sessions'.
func (s *Streams) Addr() net.Addr { return streamsAddr{} }

// deliver hands a stream to whoever accepts, or closes it when nobody will.
func (s *Streams) deliver(stream *Stream) {
	select {
	case s.ready <- stream:
	case <-s.closed:
		_ = stream.Close()
	case <-stream.session.mux.CloseChan():
		_ = stream.Close()
	}
}

type streamsAddr struct{}

func (streamsAddr) Network() string { return "yamux" }
func (streamsAddr) String() string  { return "streams" }
